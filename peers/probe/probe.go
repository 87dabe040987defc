// Package probe finds out within two seconds that another host has gone, and within one that
// it is back: by pings through the tunnel to those hosts on which something here depends. The other
// host's kernel answers, so an agent that restarts is not missed. Who is a member at
// all, membership knows.
package probe

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
)

const (
	interval = 300 * time.Millisecond // between two pings of a host
	refresh  = time.Second            // between two looks at whom to ping
)

// Target is a host that something here depends on.
type Target struct {
	ID      catalog.NodeID
	Address netip.Addr // in the mesh
}

// State is what is known of a host.
type State int

// A host that is not pinged, or only since a moment, is Unknown.
const (
	Unknown State = iota
	Up
	Down
)

// Pinger sends and receives echo messages. Send and Receive may be called at the same time.
type Pinger interface {
	Send(to netip.Addr, payload uint64) error
	Receive() (from netip.Addr, payload uint64, err error) // returns an error once Close was called
	Close() error
}

// Config is what a Prober needs.
type Config struct {
	Open    func() (Pinger, error)
	Targets func() []Target
	Logger  *slog.Logger // nil: slog.Default()
}

// Prober pings hosts. Its methods may be called by several goroutines.
type Prober struct {
	config  Config
	changed chan struct{} // capacity 1
	began   time.Time     // payloads count from here

	mu     sync.Mutex // guards all below
	hosts  map[catalog.NodeID]*host
	byAddr map[netip.Addr]*host
}

type host struct {
	Target
	judge judge
	rtt   shortest
}

// New returns a Prober; Run does the work.
func New(config Config) *Prober {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Prober{
		config: config, changed: make(chan struct{}, 1), began: time.Now(),
		hosts: map[catalog.NodeID]*host{}, byAddr: map[netip.Addr]*host{},
	}
}

// Changed signals after a host went up or down.
func (p *Prober) Changed() <-chan struct{} { return p.changed }

// State is what is known of a host, and since when.
func (p *Prober) State(id catalog.NodeID) (State, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[id]
	if h == nil {
		return Unknown, time.Time{}
	}
	return h.judge.state, h.judge.since
}

// RTT is the shortest round trip to a host of the last seconds; 0 if it is not known.
func (p *Prober) RTT(id catalog.NodeID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.hosts[id]; h != nil {
		return h.rtt.value()
	}
	return 0
}

// Run pings until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	pinger, err := p.config.Open()
	if err != nil {
		return err
	}
	var receiving sync.WaitGroup
	receiving.Go(func() { p.receive(ctx, pinger) })
	defer receiving.Wait()
	defer func() { _ = pinger.Close() }()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var looked, ticked time.Time
	for {
		now := time.Now()
		if now.Sub(looked) >= refresh {
			p.look(now)
			looked = now
		}
		p.tick(now, ticked, pinger)
		ticked = now
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look takes over who is to be pinged now.
func (p *Prober) look(now time.Time) {
	targets := p.config.Targets()
	p.mu.Lock()
	defer p.mu.Unlock()
	hosts := make(map[catalog.NodeID]*host, len(targets))
	clear(p.byAddr)
	for _, t := range targets {
		h := p.hosts[t.ID]
		if h == nil || h.Address != t.Address {
			h = &host{Target: t, judge: newJudge(now)}
		}
		hosts[t.ID], p.byAddr[t.Address] = h, h
	}
	p.hosts = hosts
}

// tick judges everybody and pings them again. What this process missed because it
// did not run, nobody else is blamed for.
func (p *Prober) tick(now, last time.Time, pinger Pinger) {
	stalled := time.Duration(0)
	if !last.IsZero() {
		stalled = max(0, now.Sub(last)-interval)
	}
	var to []netip.Addr
	p.mu.Lock()
	for _, h := range p.hosts {
		if h.judge.tick(now, stalled) {
			p.config.Logger.Warn("a host does not answer through the tunnel: its replicas get no connections", "node", h.ID)
			wake(p.changed)
		}
		to = append(to, h.Address)
	}
	p.mu.Unlock()
	payload := uint64(now.Sub(p.began))
	for _, addr := range to {
		_ = pinger.Send(addr, payload) // what is not sent is not answered
	}
}

func (p *Prober) receive(ctx context.Context, pinger Pinger) {
	for {
		from, payload, err := pinger.Receive()
		if err == nil {
			p.answered(from, payload)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval): // it may pass; if it does not, at least nothing runs hot
		}
	}
}

func (p *Prober) answered(from netip.Addr, payload uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.byAddr[from]
	if h == nil {
		return
	}
	now := time.Now()
	if h.judge.answer(now) {
		p.config.Logger.Info("a host answers again", "node", h.ID)
		wake(p.changed)
	}
	h.rtt.add(now, now.Sub(p.began)-time.Duration(payload))
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
