package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/meshd/meshd/internal/netns"
	"github.com/miekg/dns"
)

// Options is what a Resolver needs besides its Config.
type Options struct {
	Logger *slog.Logger // nil: discarded
	Dial   Dial         // to upstreams; nil: from the process's own namespace
}

// Resolver answers names in endpoints' namespaces. Its methods may be called at
// the same time.
type Resolver struct {
	log   *slog.Logger
	dial  Dial
	state atomic.Pointer[state] // what answers are made of; swapped whole

	turn      chan struct{}        // holds a token while an Apply or Close is at work
	listeners map[string]*listener // by endpoint; only whoever has the turn
	closed    bool                 // only whoever has the turn
	zoneOf    Config               // what the zone was compiled from; only whoever has the turn
}

// state is immutable.
type state struct {
	zone    *Zone
	forward *forwarder
	clients map[string]Server // by endpoint
	all     []string          // names of all networks
}

// errClosed is returned by Apply after Close.
var errClosed = errors.New("the name server was closed")

// New makes a Resolver that answers nowhere yet.
func New(options Options) *Resolver {
	r := &Resolver{
		log:       options.Logger,
		dial:      options.Dial,
		turn:      make(chan struct{}, 1),
		listeners: map[string]*listener{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.dial == nil {
		r.dial = new(net.Dialer).DialContext
	}
	r.state.Store(r.compile(Config{}))
	return r
}

// Apply makes the answers and the sockets equal to config. An endpoint whose
// sockets are right keeps them. The error joins those of the single endpoints
// (ErrTaken, netns.ErrNotExist): all others are served, and the next Apply tries again.
func (r *Resolver) Apply(ctx context.Context, config Config) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return fmt.Errorf("applying names: %w", ctx.Err())
	}
	if r.closed {
		return errClosed
	}
	state := r.compile(config)
	r.state.Store(state)
	r.closeAll(func(l *listener) bool {
		_, wanted := state.clients[l.endpoint]
		return !wanted
	})
	var failed []error
	for _, endpoint := range slices.Sorted(maps.Keys(state.clients)) {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, fmt.Errorf("applying names: %w", err))...)
		}
		if err := r.serve(state.clients[endpoint]); err != nil {
			failed = append(failed, fmt.Errorf("answering names in endpoint %s: %w", endpoint, err))
		}
	}
	return errors.Join(failed...)
}

// Open begins to answer in the namespaces of config that are new, with the names that are there: the first thing
// that runs in one may be a look-up. What else config says is left to Apply, as are errors.
func (r *Resolver) Open(ctx context.Context, config Config) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return fmt.Errorf("opening name servers: %w", ctx.Err())
	}
	if r.closed {
		return errClosed
	}
	next := *r.state.Load()
	next.clients = maps.Clone(next.clients)
	var fresh []Server
	for _, server := range config.Servers {
		if _, known := next.clients[server.Endpoint]; !known {
			next.clients[server.Endpoint] = server
			fresh = append(fresh, server)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	r.state.Store(&next)
	for _, server := range fresh {
		_ = r.serve(server) // Apply tries again, and tells
	}
	return nil
}

// Close ends all answering and waits for what is under way. It is no error to
// close twice.
func (r *Resolver) Close() error {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.closed = true
	r.closeAll(func(*listener) bool { return true })
	return nil
}

func (r *Resolver) compile(config Config) *state {
	s := &state{zone: r.zone(config), clients: make(map[string]Server, len(config.Servers))}
	for _, server := range config.Servers {
		s.clients[server.Endpoint] = server
	}
	for _, network := range config.Networks {
		s.all = append(s.all, network.Name)
	}
	if old := r.state.Load(); old != nil && old.forward.asks(config.Upstreams) {
		s.forward = old.forward // it knows which upstreams are silent
	} else {
		s.forward = newForwarder(config.Upstreams, r.dial, r.log)
	}
	return s
}

// zone is the names of config: as they are, if they are the same as the last time.
func (r *Resolver) zone(config Config) *Zone {
	names := Config{Domain: config.Domain, Networks: config.Networks, Nodes: config.Nodes}
	if old := r.state.Load(); old != nil && reflect.DeepEqual(names, r.zoneOf) {
		return old.zone
	}
	r.zoneOf = names
	return NewZone(config)
}

// closeAll closes the listeners that unwanted names, at the same time: each may have
// to wait for an upstream's socket.
func (r *Resolver) closeAll(unwanted func(*listener) bool) {
	var closing sync.WaitGroup
	for endpoint, l := range r.listeners {
		if unwanted(l) {
			delete(r.listeners, endpoint)
			closing.Go(l.close)
		}
	}
	closing.Wait()
}

// serve makes sure that a server's sockets are open in the namespace that its path
// names now.
func (r *Resolver) serve(server Server) error {
	handle, err := netns.Open(server.Namespace)
	if err != nil {
		r.closeAll(func(l *listener) bool { return l.endpoint == server.Endpoint })
		return err
	}
	defer handle.Close()
	if l := r.listeners[server.Endpoint]; l != nil {
		if l.namespace == handle.ID() && l.resolver == server.Resolver {
			return nil
		}
		r.closeAll(func(old *listener) bool { return old == l })
	}
	l, err := listen(handle, server, r, r.log)
	if err != nil {
		return err
	}
	r.listeners[server.Endpoint] = l
	return nil
}

func (r *Resolver) local(endpoint string, query []byte, stream bool) ([]byte, *request) {
	request, refusal := parse(query, stream)
	if request == nil {
		return r.encode(refusal, dns.MinMsgSize), nil
	}
	state := r.state.Load()
	client, ok := state.clients[endpoint]
	if !ok { // its socket is about to be closed
		return r.encode(request.fail(dns.RcodeRefused), request.size), nil
	}
	return r.decide(state, client, request)
}

// decide answers a request from the zone, or says that the upstreams must.
func (r *Resolver) decide(s *state, client Server, req *request) ([]byte, *request) {
	if reply, ok := s.zone.Answer(client.Networks, req.question()); ok {
		return r.encode(req.authoritative(reply), req.size), nil
	}
	// A bare word is no name of the public's. Without upstreams it is certain that
	// nobody has it.
	bare := single(canonical(req.question().Name))
	switch {
	case client.Resolver || client.Forward && len(s.forward.upstreams) > 0:
		return nil, req
	case bare:
		return r.encode(req.absent(), req.size), nil
	case client.Forward:
		return r.encode(req.explain(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, errNoUpstreams.Error()), req.size), nil
	default:
		why := "the networks " + strings.Join(client.Networks, ", ") + " are internal: only their own names are known here"
		return r.encode(req.explain(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, why), req.size), nil
	}
}

func (r *Resolver) forward(ctx context.Context, own *forwarder, req *request) []byte {
	if own == nil {
		own = r.state.Load().forward
	}
	answer, _ := r.ask(ctx, own, req)
	return answer
}

// ask has the upstreams answer. A bare word that they cannot answer for does not exist:
// whoever looks for a service that is not there should hear so, not wait and retry.
func (r *Resolver) ask(ctx context.Context, upstreams *forwarder, req *request) ([]byte, netip.AddrPort) {
	answer, from, err := upstreams.forward(ctx, req)
	failed := err != nil || !final(answer)
	switch {
	case failed && single(canonical(req.question().Name)):
		return r.encode(req.absent(), req.size), netip.AddrPort{}
	case err != nil:
		return r.encode(req.explain(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, err.Error()), req.size), netip.AddrPort{}
	}
	return answer, from
}

func busy(req *request) []byte {
	why := fmt.Sprintf("%d questions of this endpoint are with the upstream name servers already", maxForwarded)
	answer, err := pack(req.explain(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, why), req.size)
	if err != nil {
		return nil
	}
	return answer
}

func (r *Resolver) encode(m *dns.Msg, size int) []byte {
	if m == nil {
		return nil
	}
	answer, err := pack(m, size)
	if err != nil {
		r.log.Error("encoding a DNS answer", "err", err)
		return nil
	}
	return answer
}
