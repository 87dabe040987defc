// Package syncer keeps the catalogs of all members equal, by streams inside the tunnel.
//
// Changes are pushed at once to the linked peers, which pass on what was news to them.
// What a push missed is found by comparing: every two seconds with a random peer, and at
// once with one that just became alive, first by digest, then by digests of smaller and smaller
// ranges, and only what is missing is sent. So comparing costs what differs. Who a peer is, its source address says: WireGuard pins it.
package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/peers/meshnet"
)

// Port is where members exchange records, TCP on their mesh addresses.
const Port = 7947

const (
	neighbors     = 4                      // links to hold, where there are as many peers; as many come from others
	compareEvery  = 2 * time.Second        // ± a quarter
	strangerEvery = 16                     // comparisons: one of so many is with any peer
	lookRest      = 200 * time.Microsecond // for each that is alive
	manyFresh     = 16                     // of so many that became alive together it is enough to compare with some
	workers       = 4                      // exchanges at a time
	dialTimeout   = 3 * time.Second
	exchangeLimit = 30 * time.Second
)

// Store is the catalog. Its methods may be called by several goroutines, and must not
// call the syncer's except Publish.
type Store interface {
	// Merge takes in records. It returns those that were news and why others were refused.
	Merge(records []catalog.Record) (news []catalog.Record, rejected []error)
	// Digest is equal on two hosts exactly if they hold the same records.
	Digest() []byte
	// Look calls f with what is held, which does not change meanwhile.
	Look(f func(Holdings))
	// Version returns the version of a node's document, false if there is none here.
	Version(node catalog.NodeID) (catalog.DocumentVersion, bool)
	// Acknowledge is what this host says of a peer's document, once that is applied.
	Acknowledge(peer catalog.NodeID) claims.Ack
	// Counts says whether a peer's acknowledgement counts for a version of this host's document.
	Counts(peer catalog.NodeID, asked catalog.DocumentVersion, ack claims.Ack) bool
}

// Holdings is what a Store holds, to be compared: a catalog.Catalog is one, which says more.
type Holdings interface {
	Summaries(prefixes []catalog.Prefix) []catalog.Summary
	Differences(theirs []catalog.Summary) catalog.Differences
	VectorIn(prefixes []catalog.Prefix) catalog.Vector
	MissingIn(prefixes []catalog.Prefix, v catalog.Vector) []catalog.Record
	Describe(records []catalog.Record) catalog.Vector
	Needs(v catalog.Vector) []catalog.RecordID
	Select(ids []catalog.RecordID) []catalog.Record
}

// Peer is another member.
type Peer struct {
	ID      catalog.NodeID
	Address netip.Addr // in the mesh
}

// Config is what a syncer needs. All fields are needed.
type Config struct {
	Self    catalog.NodeID
	Address netip.Addr // of this host in the mesh
	Network meshnet.Network
	Store   Store

	// Alive returns the members that are believed alive, except this host.
	Alive func() []Peer

	// PeerOf returns the member with a mesh address; false for unknown and evicted ones.
	PeerOf func(address netip.Addr) (catalog.NodeID, bool)

	// Applied returns nil once everything in the Store has been applied on this host.
	Applied func(ctx context.Context) error

	// NameOf returns a node's name for people.
	NameOf func(node catalog.NodeID) string

	Logger *slog.Logger
}

// Syncer is this host's part in the exchange. Its methods may be called by several goroutines.
type Syncer struct {
	config   Config
	listener net.Listener
	ctx      context.Context // of everything that runs here
	cancel   context.CancelFunc
	changed  chan struct{}
	queue    chan Peer      // to exchange with
	wg       sync.WaitGroup // of links and workers
	parsing  sync.Mutex     // one frame at a time is parsed: it takes a multiple of its size

	mu       sync.Mutex // guards all below
	ended    bool
	links    map[catalog.NodeID][]*link       // at most one each way, the newest last
	dialing  map[catalog.NodeID]chan struct{} // closed when the dial is over
	pending  map[catalog.NodeID]bool          // in queue, or being exchanged with
	alive    map[catalog.NodeID]bool          // as of the last look
	catchups map[catalog.NodeID]int           // under way, see Catchup
	refusals map[catalog.NodeID]*refusal
	lazy     map[catalog.NodeID]bool        // linked peers to whom what is passed on is only named
	named    map[*link]catalog.Vector       // what waits to be named
	grafted  map[catalog.RecordID]time.Time // what was asked for lately
}

// New begins to listen; Run does the rest. The caller runs Run.
func New(ctx context.Context, config Config) (*Syncer, error) {
	listener, err := config.Network.Listen(ctx, netip.AddrPortFrom(config.Address, Port))
	if err != nil {
		return nil, fmt.Errorf("starting catalog sync: %w", err)
	}
	s := &Syncer{
		config:   config,
		listener: listener,
		changed:  make(chan struct{}, 1),
		queue:    make(chan Peer, 4096),
		links:    map[catalog.NodeID][]*link{},
		dialing:  map[catalog.NodeID]chan struct{}{},
		pending:  map[catalog.NodeID]bool{},
		alive:    map[catalog.NodeID]bool{},
		catchups: map[catalog.NodeID]int{},
		refusals: map[catalog.NodeID]*refusal{},
		lazy:     map[catalog.NodeID]bool{},
		named:    map[*link]catalog.Vector{},
		grafted:  map[catalog.RecordID]time.Time{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// String names the task.
func (s *Syncer) String() string { return "catalog sync" }

// Run accepts, compares and keeps links until ctx ends; then it returns nil.
func (s *Syncer) Run(ctx context.Context) error {
	defer s.stop()
	s.wg.Add(1)
	go s.accept()
	for range workers {
		s.wg.Add(1)
		go s.work()
	}
	s.look()
	changed := s.changed // nil during a rest
	rest := time.NewTimer(s.restAfterLook())
	defer rest.Stop()
	timer := time.NewTimer(jitter(compareEvery))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return errors.New("catalog sync: the listener failed; restart the agent")
		case <-changed:
			s.look()
			changed = nil
			rest.Reset(s.restAfterLook())
		case <-rest.C:
			changed = s.changed
		case <-timer.C:
			s.look()
			if peer, ok := s.toCompare(); ok {
				s.enqueue(peer)
			}
			timer.Reset(jitter(compareEvery))
		}
	}
}

// restAfterLook is how long nobody is looked at again because somebody has changed: where all hosts of a
// large mesh start together, there is a change for each of them.
func (s *Syncer) restAfterLook() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(len(s.alive)) * lookRest
}

// toCompare chooses a peer to compare with: mostly one of those that are linked, as a connection to
// another costs more than comparing. What is found goes on from link to link. Now and
// then it is any, so that the links change.
func (s *Syncer) toCompare() (Peer, bool) {
	peers := s.config.Alive()
	if len(peers) == 0 {
		return Peer{}, false
	}
	if rand.IntN(strangerEvery) > 0 {
		s.mu.Lock()
		linked := s.linked("")
		s.mu.Unlock()
		if len(linked) > 0 {
			return linked[rand.IntN(len(linked))].peer, true
		}
	}
	return peers[rand.IntN(len(peers))], true
}

func (s *Syncer) stop() {
	s.cancel()
	_ = s.listener.Close()
	s.mu.Lock()
	s.ended = true
	open := s.allLinks()
	s.mu.Unlock()
	for _, l := range open {
		l.close()
	}
	s.wg.Wait()
}

// jitter is d plus or minus a quarter, so that nodes do not march in step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// PeersChanged says that Alive or PeerOf may answer differently than before.
func (s *Syncer) PeersChanged() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Publish pushes records that this host has just put into its Store to the linked
// peers. It never waits.
func (s *Syncer) Publish(records ...catalog.Record) { s.forward(records, "") }

// Catchup exchanges everything with one peer, both ways. It is for a start or a join,
// before anything is withdrawn; the peer need not be believed alive yet.
func (s *Syncer) Catchup(ctx context.Context, peer Peer) error {
	s.mu.Lock()
	s.catchups[peer.ID]++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if s.catchups[peer.ID]--; s.catchups[peer.ID] == 0 {
			delete(s.catchups, peer.ID)
		}
		s.mu.Unlock()
	}()
	if err := s.exchange(ctx, peer); err != nil {
		return fmt.Errorf("catching up with %s: %w", s.config.NameOf(peer.ID), err)
	}
	return nil
}

// linked returns a link to every linked peer but one. The caller holds mu.
func (s *Syncer) linked(except catalog.NodeID) []*link {
	var to []*link
	for id := range s.links {
		if l := s.newest(id); l != nil && id != except {
			to = append(to, l)
		}
	}
	return to
}

// forward passes records on to every linked peer but one, to some only by name: see tree.go.
func (s *Syncer) forward(records []catalog.Record, except catalog.NodeID) {
	if len(records) == 0 {
		return
	}
	var full, named []*link
	s.mu.Lock()
	for _, l := range s.linked(except) {
		if s.isLazy(l.peer.ID) {
			named = append(named, l)
		} else {
			full = append(full, l)
		}
	}
	s.mu.Unlock()
	s.push(full, records)
	s.name(named, records)
}

// push has links carry records that the Store holds.
func (s *Syncer) push(to []*link, records []catalog.Record) {
	if len(to) == 0 || len(records) == 0 {
		return
	}
	named := s.describe(records)
	for _, l := range to {
		l.offer(slices.Collect(maps.Keys(named)), true)
	}
}

// describe names records, as far as the Store holds them.
func (s *Syncer) describe(records []catalog.Record) (named catalog.Vector) {
	s.config.Store.Look(func(h Holdings) { named = h.Describe(records) })
	return named
}

// fetch returns records as they are now.
func (s *Syncer) fetch(ids []catalog.RecordID) []catalog.Record {
	var records []catalog.Record
	s.config.Store.Look(func(h Holdings) { records = h.Select(ids) })
	return records
}

// receive merges what a peer sent and passes on the news.
func (s *Syncer) receive(l *link, f *frame) {
	from := l.peer.ID
	news, rejected := s.config.Store.Merge(f.Records)
	s.forward(news, from)
	if f.Relayed && len(news) == 0 && len(rejected) == 0 {
		s.prune(l)
	}
	if len(rejected) > 0 {
		s.refused(from, rejected)
	}
}

// refusal counts the refused records of one peer between two lines of the log.
type refusal struct {
	count  int
	logged time.Time
}

const refusalPause = 30 * time.Second

func (s *Syncer) refused(from catalog.NodeID, rejected []error) {
	s.mu.Lock()
	r := s.refusals[from]
	if r == nil {
		r = &refusal{}
		s.refusals[from] = r
	}
	r.count += len(rejected)
	count := r.count
	due := time.Since(r.logged) >= refusalPause
	if due {
		r.count, r.logged = 0, time.Now()
	}
	s.mu.Unlock()
	if due {
		s.config.Logger.Warn("refused records from a peer", "peer", s.config.NameOf(from), "node", from,
			"count", count, "last", rejected[len(rejected)-1])
	}
}
