package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/meshnet"
)

// errandPort is where agents ask one another what only the host of an endpoint can do: TCP, on mesh addresses.
const errandPort = 7948

// errandPatience is how long connecting to another host's agent may take.
const errandPatience = 5 * time.Second

// errands answers other hosts' agents.
type errands struct {
	api.Backend // nil: api.Colleagues names all that can be asked
	session     *session
}

// Drain implements api.Endpoints, for endpoints of this host alone: nothing is passed on twice.
func (e errands) Drain(ctx context.Context, req api.DrainRequest) error {
	_, err := during(ctx, e.session, func(ctx context.Context, s *session) (struct{}, error) { return struct{}{}, s.drainHere(ctx, req) })
	return err
}

// listenErrands opens the port; serveErrands answers there until the session ends.
func (s *session) listenErrands(ctx context.Context) (net.Listener, error) {
	address := netip.AddrPortFrom(catalog.MeshAddress(s.store.mesh, s.store.self), errandPort)
	return meshnet.InNamespace(meshNamespace(s.cfg)).Listen(ctx, address)
}

func (s *session) serveErrands(listener net.Listener) error {
	server := api.NewServer(errands{session: s}, api.Options{Log: s.log, Version: s.version, Colleagues: &api.Colleagues{
		Operations: []string{"drain"},
		Name: func(address netip.Addr) (string, bool) {
			id, ok := s.peerOf(address)
			return nodeName(s.store.View(), id), ok
		},
	}})
	return server.Serve(s.ctx, listener)
}

// colleague is the agent of another host.
func (s *session) colleague(id catalog.NodeID) api.Endpoints {
	from, to := catalog.MeshAddress(s.store.mesh, s.store.self), catalog.MeshAddress(s.store.mesh, id)
	return api.NewColleague(nodeName(s.store.View(), id), func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, errandPatience, errors.New("no answer"))
		defer cancel()
		return meshnet.InNamespace(meshNamespace(s.cfg)).Dial(ctx, from, netip.AddrPortFrom(to, errandPort))
	})
}
