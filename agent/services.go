package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
)

// Services lists the services of all networks.
func (s *session) Services(context.Context) ([]api.Service, error) {
	return s.describeServices(s.store.View(), s.aliveSet()), nil
}

func (s *session) describeServices(view *catalog.View, alive map[catalog.NodeID]bool) []api.Service {
	out := []api.Service{}
	for _, svc := range view.Services {
		if svc.Network != catalog.IngressNetwork {
			out = append(out, s.describeService(view, alive, svc))
		}
	}
	return out
}

// Service finds one service by NAME or NAME.NETWORK.
func (s *session) Service(_ context.Context, name string) (api.Service, error) {
	view := s.store.View()
	svc, err := findService(view, name)
	if err != nil {
		return api.Service{}, err
	}
	return s.describeService(view, s.aliveSet(), svc), nil
}

func findService(view *catalog.View, name string) (catalog.Service, error) {
	var found []catalog.Service
	var have []string
	for _, svc := range view.Services {
		if svc.Network == catalog.IngressNetwork {
			continue
		}
		full := svc.Name + "." + svc.Network
		have = append(have, full)
		if name == full || name == svc.Name {
			found = append(found, svc)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		hint := "none runs: start one with meshd run --service " + name
		if len(have) > 0 {
			hint = "there are: " + strings.Join(have, ", ")
		}
		return catalog.Service{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no service %q: %s", name, hint)}
	default:
		return catalog.Service{}, invalid("service %s is on %d networks: say which, as in %s.%s", name, len(found), name, found[0].Network)
	}
}

// UpdateService changes a service everywhere. It returns when this host acts on it.
func (s *session) UpdateService(ctx context.Context, name string, req api.ServiceRequest) (api.Service, error) {
	changed, svc, err := s.changeService(name, req)
	if err != nil {
		return api.Service{}, err
	}
	if changed {
		if err := s.keepPublished(ctx); err != nil {
			return api.Service{}, err
		}
		_ = s.loop.Sync(ctx) // what failed is in status
	}
	view := s.store.View()
	if now, ok := view.Service(svc.Network, svc.Name); ok {
		svc = now // it goes with its last setting if it has no replicas
	}
	return s.describeService(view, s.aliveSet(), svc), nil
}

// changeService writes a service's settings, one change at a time.
func (s *session) changeService(name string, req api.ServiceRequest) (changed bool, svc catalog.Service, err error) {
	s.registering.Lock()
	defer s.registering.Unlock()
	view := s.store.View()
	if svc, err = findService(view, name); err != nil {
		return false, svc, err
	}
	change := catalog.ServiceChange{Network: svc.Network, Service: svc.Name, Now: now()}
	if change.Affinity, err = affinityOf(req.Affinity); err != nil {
		return false, svc, err
	}
	if change.Prefer, err = preferOf(req.Prefer); err != nil {
		return false, svc, err
	}
	for _, p := range req.Unpublish {
		if p.Port == 0 || p.Protocol != "" && !knownProtocol(p.Protocol) {
			return false, svc, invalid("port %d/%s: ports are 1 to 65535, the protocol tcp or udp", p.Port, p.Protocol)
		}
		change.Unpublish = append(change.Unpublish, catalog.Port{Protocol: p.Protocol, Number: p.Port})
	}
	for _, p := range req.Publish {
		own := func(service, network string) bool { return service == svc.Name && network == svc.Network }
		if err := s.portFree(view, p, own); err != nil {
			return false, svc, err
		}
		change.Publish = append(change.Publish, catalog.Publish{Published: p.Published, Target: p.Target, Protocol: p.Protocol})
	}
	record, changed, err := view.ProposeService(change)
	if err != nil {
		return false, svc, refusal(err)
	}
	if !changed {
		return false, svc, nil
	}
	return true, svc, s.store.Publish(catalog.KindService, record)
}

// affinityOf reads an affinity as the API has it; nil: none is asked for.
func affinityOf(text string) (*catalog.Affinity, error) {
	var a catalog.Affinity
	switch text {
	case "":
		return nil, nil
	case "none":
		a = catalog.AffinityNone
	case string(catalog.AffinityClientIP):
		a = catalog.AffinityClientIP
	default:
		return nil, invalid("affinity %q: use none or client-ip", text)
	}
	return &a, nil
}

// preferOf reads a preference as the API has it; nil: none is asked for.
func preferOf(text string) (*catalog.Prefer, error) {
	var p catalog.Prefer
	switch text {
	case "":
		return nil, nil
	case "none":
		p = catalog.PreferNone
	case string(catalog.PreferLocal):
		p = catalog.PreferLocal
	default:
		return nil, invalid("prefer %q: use none or local", text)
	}
	return &p, nil
}

func (s *session) describeService(view *catalog.View, alive map[catalog.NodeID]bool, svc catalog.Service) api.Service {
	out := api.Service{
		Name: svc.Name, Network: svc.Network, Affinity: "none", Prefer: "none",
		Ports: []api.ServicePort{}, Withdrawn: []api.Port{}, Endpoints: []api.Endpoint{},
	}
	if svc.VIPIndex != 0 {
		out.VIP, out.VIP6 = svc.VIP4.String(), svc.VIP6.String()
	}
	if svc.Affinity != catalog.AffinityNone {
		out.Affinity = string(svc.Affinity)
	}
	if svc.Prefer != catalog.PreferNone {
		out.Prefer = string(svc.Prefer)
	}
	for _, p := range svc.Ports {
		port := api.ServicePort{
			Publish:  api.Publish{Published: p.Published, Target: p.Target, Protocol: p.Protocol},
			Conflict: p.Conflict,
		}
		if p.Conflict == "" {
			port.HeldOn = occupiedOn(view, p)
		}
		out.Ports = append(out.Ports, port)
	}
	for _, p := range svc.Withdraw {
		out.Withdrawn = append(out.Withdrawn, api.Port{Port: p.Number, Protocol: p.Protocol})
	}
	for _, r := range svc.Replicas {
		out.Endpoints = append(out.Endpoints, s.describeEndpoint(view, alive, svc.Network, r))
	}
	return out
}
