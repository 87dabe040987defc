// Package memnet is a network in memory, for tests of what runs on meshnet: hosts with
// one address each, links that can be cut and mended, hosts that die.
//
// It works inside a testing/synctest bubble, where a minute passes in no time.
package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/meshd/meshd/peers/meshnet"
)

// Fabric connects hosts. A datagram takes the latency that it was made with; streams
// take no time. Over a cut link datagrams are lost and counted, streams stall, and
// connecting takes until the caller gives up, as with real links.
type Fabric struct {
	latency time.Duration

	mu        sync.Mutex // guards all below
	cut       func(a, b netip.Addr) bool
	changed   chan struct{} // closed, and replaced, when cut changes
	listeners map[netip.AddrPort]*listener
	packets   map[netip.AddrPort]*packetConn
	conns     map[*conn]bool
	nextPort  uint16
	dropped   int
}

// New makes a fabric whose links are all up.
func New(latency time.Duration) *Fabric {
	return &Fabric{
		latency:   latency,
		cut:       func(_, _ netip.Addr) bool { return false },
		changed:   make(chan struct{}),
		listeners: map[netip.AddrPort]*listener{},
		packets:   map[netip.AddrPort]*packetConn{},
		conns:     map[*conn]bool{},
		nextPort:  32768,
	}
}

// Cut sets which pairs of hosts cannot reach each other; nil means that all can. It is
// asked in both directions.
func (f *Fabric) Cut(cut func(a, b netip.Addr) bool) {
	if cut == nil {
		cut = func(_, _ netip.Addr) bool { return false }
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = cut
	close(f.changed)
	f.changed = make(chan struct{})
}

// Kill closes every socket of a host, as the end of its process does.
func (f *Fabric) Kill(host netip.Addr) {
	var doomed []interface{ Close() error }
	f.mu.Lock()
	for at, l := range f.listeners {
		if at.Addr() == host {
			doomed = append(doomed, l)
		}
	}
	for at, p := range f.packets {
		if at.Addr() == host {
			doomed = append(doomed, p)
		}
	}
	for c := range f.conns {
		if c.local.Addr() == host {
			doomed = append(doomed, c)
		}
	}
	f.mu.Unlock()
	for _, d := range doomed {
		_ = d.Close()
	}
}

// Conns is the number of open ends of streams on a host.
func (f *Fabric) Conns(host netip.Addr) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for c := range f.conns {
		if c.local.Addr() == host {
			n++
		}
	}
	return n
}

// Dropped is the number of datagrams lost so far.
func (f *Fabric) Dropped() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dropped
}

// Host is the network as the host with this address uses it.
func (f *Fabric) Host(addr netip.Addr) meshnet.Network { return &host{fabric: f, addr: addr} }

// severed says whether a link is cut, and gives the channel to wait on for a change.
func (f *Fabric) severed(a, b netip.Addr) (bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut(a, b) || f.cut(b, a), f.changed
}

// port replaces port 0 by a free one. The caller holds mu.
func (f *Fabric) port(at netip.AddrPort) netip.AddrPort {
	if at.Port() != 0 {
		return at
	}
	f.nextPort++
	if f.nextPort < 32768 {
		f.nextPort = 32768
	}
	return netip.AddrPortFrom(at.Addr(), f.nextPort)
}

type host struct {
	fabric *Fabric
	addr   netip.Addr
}

func (h *host) Listen(_ context.Context, at netip.AddrPort) (net.Listener, error) {
	f := h.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	at = f.port(at)
	if f.listeners[at] != nil {
		return nil, fmt.Errorf("listening on TCP %s: %w", at, syscall.EADDRINUSE)
	}
	l := &listener{fabric: f, at: at, backlog: make(chan *conn, 128), done: make(chan struct{})}
	f.listeners[at] = l
	return l, nil
}

func (h *host) ListenPacket(_ context.Context, at netip.AddrPort) (net.PacketConn, error) {
	f := h.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	at = f.port(at)
	if f.packets[at] != nil {
		return nil, fmt.Errorf("listening on UDP %s: %w", at, syscall.EADDRINUSE)
	}
	p := &packetConn{fabric: f, at: at, queue: make(chan datagram, 4096), done: make(chan struct{})}
	f.packets[at] = p
	return p, nil
}

func (h *host) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	f := h.fabric
	for {
		severed, changed := f.severed(from, to.Addr())
		if !severed {
			break
		}
		select {
		case <-ctx.Done():
			return nil, dialError(to, ctx.Err())
		case <-changed:
		}
	}
	near, far := net.Pipe()
	f.mu.Lock()
	l := f.listeners[to]
	local := f.port(netip.AddrPortFrom(from, 0))
	ours := newConn(f, near, local, to)
	theirs := newConn(f, far, to, local)
	if l != nil {
		f.conns[ours], f.conns[theirs] = true, true
	}
	f.mu.Unlock()
	if l == nil {
		return nil, dialError(to, syscall.ECONNREFUSED)
	}
	select {
	case l.backlog <- theirs:
		return ours, nil
	case <-l.done:
	case <-ctx.Done():
	}
	_ = ours.Close()
	_ = theirs.Close()
	return nil, dialError(to, syscall.ECONNREFUSED)
}

func dialError(to netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
}

type listener struct {
	fabric  *Fabric
	at      netip.AddrPort
	backlog chan *conn
	done    chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.fabric.mu.Lock()
		delete(l.fabric.listeners, l.at)
		l.fabric.mu.Unlock()
		close(l.done)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }
