package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/peers/probe"
)

// pingTime is how long a host has to answer a ping.
const pingTime = 2 * time.Second

// Ping pings a host through the tunnel.
func (a *Agent) Ping(ctx context.Context, req api.PingRequest) (api.Ping, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Ping, error) { return s.ping(ctx, req.Node) })
}

func (s *session) ping(ctx context.Context, node string) (api.Ping, error) {
	m, err := findMember(s.store.View(), node)
	if err != nil {
		return api.Ping{}, err
	}
	if !present(m) {
		return api.Ping{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("host %s is not in the mesh any more: see meshd members", m.Name)}
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	open := func() (probe.Pinger, error) {
		return probe.ICMP(meshNamespace(s.cfg), catalog.MeshAddress(s.store.mesh, s.store.self))
	}
	took, err := probe.Once(ctx, open, m.Address)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer in %s", pingTime)
		}
		return api.Ping{}, &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(
			"host %s does not answer at %s: %v: see meshd status here and there, and whether UDP reaches %s", m.Name, m.Address, err, candidateText(m))}
	}
	return api.Ping{Name: m.Name, Address: m.Address.String(), RTT: float64(took.Microseconds()) / 1000}, nil
}

// Resolve answers a question for a name as an endpoint here gets it.
func (a *Agent) Resolve(ctx context.Context, req api.ResolveRequest) (api.Resolution, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Resolution, error) { return s.resolve(ctx, req) })
}

func (s *session) resolve(ctx context.Context, req api.ResolveRequest) (api.Resolution, error) {
	endpoint := ""
	if req.Endpoint != "" {
		var err error
		if endpoint, err = s.resolveLocal(req.Endpoint); err != nil {
			return api.Resolution{}, err
		}
	}
	result, err := s.parts.dns.Query(ctx, endpoint, req.Name, req.Type)
	switch {
	case errors.Is(err, dns.ErrBadQuestion):
		return api.Resolution{}, invalid("%v", err)
	case errors.Is(err, dns.ErrNoEndpoint):
		return api.Resolution{}, &api.Error{Code: api.CodeNotFound, Message: err.Error()}
	case err != nil:
		return api.Resolution{}, err
	}
	out := api.Resolution{Name: result.Name, Type: result.Type, Code: result.Rcode, Source: result.Source, Why: result.Why, Records: []api.DNSRecord{}}
	for _, r := range result.Records {
		out.Records = append(out.Records, api.DNSRecord{Name: r.Name, Type: r.Type, TTL: r.TTL, Data: r.Data})
	}
	return out, nil
}
