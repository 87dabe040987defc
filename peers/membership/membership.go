// Package membership knows which members of the mesh are alive.
//
// Serf is the engine: its gossip and its failure detector run over a transport of our
// own on the mesh addresses, inside WireGuard. What Serf says is a hint about
// reachability only: who is a member at all is for the owner's Verify to say. Nodes
// that were members are dialled for ever, because Serf forgets failed ones after a day,
// and the halves of a partition must find each other again however late.
package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/serf/serf"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/meshnet"
)

// Port is where members gossip, UDP and TCP, on their mesh addresses.
const Port = 7946

// Status is what is known of a member's health.
type Status string

// The life of a member. A suspect is one whose failure this host's own probes hint at: it
// has some seconds to answer before everybody calls it failed.
const (
	Alive   Status = "alive"
	Suspect Status = "suspect"
	Failed  Status = "failed"
	Left    Status = "left"
)

// Peer is a member to dial.
type Peer struct {
	ID      catalog.NodeID
	Address netip.Addr // in the mesh
}

// Member is a node as this one sees it.
type Member struct {
	ID      catalog.NodeID
	Address netip.Addr
	Status  Status
	RTT     time.Duration // smoothed round trip of this host's probes; 0: not measured
	Since   time.Time     // of Status
}

// Config is what a membership needs. All fields are needed.
type Config struct {
	Self    catalog.NodeID
	Address netip.Addr // of this host in the mesh
	Network meshnet.Network

	// Known returns every member that should be there, except this host: those
	// that are not alive are dialled. It is called often.
	Known func() []Peer

	// Verify returns why a node may not be a member at this address, or nil. It is
	// called with Serf's locks held, so it must be quick and call nothing of this package.
	Verify func(id catalog.NodeID, address netip.Addr) error

	Logger *slog.Logger
}

// Membership is this host's part in the gossip. Its methods may be called by several
// goroutines, and apart from Leave none of them waits for anything.
type Membership struct {
	config    Config
	serf      *serf.Serf
	transport *transport
	state     *state
	redial    chan struct{}
	joining   chan struct{} // a token: who holds it may have Serf join
	ending    chan struct{} // a token: who holds it may end Serf
	drained   chan struct{}
	stopped   chan struct{} // closed when Serf was shut down by us
	stopOnce  sync.Once
}

// New binds the sockets and begins to answer; Run makes it look for others. The caller
// runs Run, or calls Close.
func New(ctx context.Context, config Config) (*Membership, error) {
	m := &Membership{
		config:  config,
		state:   newState(config.Self),
		redial:  make(chan struct{}, 1),
		joining: make(chan struct{}, 1),
		ending:  make(chan struct{}, 1),
		drained: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	transport, err := newTransport(ctx, config.Network, netip.AddrPortFrom(config.Address, Port))
	if err != nil {
		return nil, fmt.Errorf("starting membership: %w", err)
	}
	m.transport = transport
	events := make(chan serf.Event, 64)
	m.serf, err = serf.Create(m.serfConfig(events))
	if err != nil {
		_ = transport.Shutdown()
		return nil, fmt.Errorf("starting membership: %w", err)
	}
	go m.drain(events)
	return m, nil
}

// String names the task.
func (m *Membership) String() string { return "membership" }

// Run joins the known members and dials those that are not alive, for ever. It ends with
// ctx, after which the others see this host fail, or with Leave; then it returns nil.
func (m *Membership) Run(ctx context.Context) error {
	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.dialForever(dialing)
	}()
	var err error
	select {
	case <-ctx.Done():
	case <-m.stopped:
	case <-m.serf.ShutdownCh():
		select {
		case <-m.stopped:
		default:
			err = errors.New("membership: Serf shut itself down; restart the agent")
		}
	}
	cancel()
	<-done
	return errors.Join(err, m.Close())
}

// Members lists all nodes seen since the start, this host included, sorted by ID. Known
// ones that are missing were never seen alive.
func (m *Membership) Members() []Member { return m.state.members() }

// Changed is poked after Members changed, once for any number of changes.
func (m *Membership) Changed() <-chan struct{} { return m.state.changed }

// Redial makes Run look at Known at once, without waiting for its turn.
func (m *Membership) Redial() {
	select {
	case m.redial <- struct{}{}:
	default:
	}
}

// Remove cuts off an evicted node: it is no longer listed, and nothing that its address
// sends is read. It stays so for as long as the process runs.
func (m *Membership) Remove(id catalog.NodeID) {
	if address, ok := m.state.remove(id); ok {
		m.transport.block(address)
	}
}

// Leave tells the others that this host leaves on purpose, waits until they had
// the time to hear it (under a second), and ends Run. If ctx ends before, the
// leaving goes on in the background.
func (m *Membership) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		m.ending <- struct{}{}
		var err error
		select {
		case <-m.stopped:
		default:
			err = m.sayFarewell()
		}
		<-m.ending
		done <- errors.Join(err, m.Close())
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("leaving the mesh: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leaving the mesh: %w", ctx.Err())
	}
}

// sayFarewell leaves once no join is under way: one that ends later would be announced after the farewell, and all
// would take it for the newer word. A join that hangs is not waited for long.
func (m *Membership) sayFarewell() error {
	patience := time.NewTimer(joinPatience)
	defer patience.Stop()
	select {
	case m.joining <- struct{}{}:
		defer func() { <-m.joining }()
	case <-patience.C:
	}
	if err := m.serf.Leave(); err != nil {
		return err
	}
	spread := time.NewTimer(leaveSpread)
	defer spread.Stop()
	m.tellEach()
	<-spread.C
	return nil
}

// tellEach tells the others one by one that this host has left. Gossip alone is not enough: it draws whom it tells, and in
// one of sixty farewells among eight hosts it drew one of them never; that one would have gone on believing in
// this host until its probes failed. Whoever has heard already may have closed the tunnel, so nobody is waited for long.
func (m *Membership) tellEach() {
	var alive []string
	for _, member := range m.state.members() {
		if member.ID != m.config.Self && (member.Status == Alive || member.Status == Suspect) {
			alive = append(alive, string(member.ID)+"/"+netip.AddrPortFrom(member.Address, Port).String())
		}
	}
	rand.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
	alive = alive[:min(len(alive), tellAtMost)]
	told := make(chan error, len(alive))
	for _, node := range alive {
		go func() {
			_, err := m.serf.Memberlist().Join([]string{node}) // a comparison of states: ours says that we left
			told <- err
		}()
	}
	patience := time.NewTimer(tellPatience)
	defer patience.Stop()
	for range alive {
		select {
		case <-told:
		case <-patience.C:
			return
		}
	}
}

// Close ends without a word to the others, as a crash would. It may be called again.
func (m *Membership) Close() error {
	m.ending <- struct{}{} // memberlist panics if it is shut down while it leaves
	defer func() { <-m.ending }()
	m.stopOnce.Do(func() { close(m.stopped) })
	if err := m.serf.Shutdown(); err != nil {
		return fmt.Errorf("stopping membership: %w", err)
	}
	<-m.drained
	return nil
}

// drain takes Serf's events at once: Serf writes them holding its locks.
func (m *Membership) drain(events <-chan serf.Event) {
	defer close(m.drained)
	for {
		select {
		case event := <-events:
			if change, ok := event.(serf.MemberEvent); ok {
				m.handle(change)
			}
		case <-m.serf.ShutdownCh():
			return
		}
	}
}

func (m *Membership) handle(event serf.MemberEvent) {
	var status Status
	switch event.Type {
	case serf.EventMemberJoin, serf.EventMemberUpdate:
		status = Alive
	case serf.EventMemberFailed:
		status = Failed
	case serf.EventMemberLeave:
		status = Left
	default: // a reaped member stays what it was: it is dialled for ever
		return
	}
	for _, member := range event.Members {
		address, ok := netip.AddrFromSlice(member.Addr)
		if !ok {
			continue
		}
		m.state.set(catalog.NodeID(member.Name), address.Unmap(), status)
	}
	if status == Failed {
		m.Redial()
	}
}

// sortMembers orders by ID.
func sortMembers(members []Member) []Member {
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return members
}
