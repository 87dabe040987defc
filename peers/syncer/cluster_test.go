package syncer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/peers/meshnet"
	"github.com/meshd/meshd/peers/meshnet/memnet"
)

// virtual runs a test in virtual time, or in real time under the race detector, with which
// testing/synctest may crash before Go 1.27.
func virtual(t *testing.T, test func(t *testing.T)) {
	if raceEnabled {
		t.Log("real time: testing/synctest does not go together with -race")
		test(t)
		return
	}
	synctest.Test(t, test)
}

// memoryStore is the simplest catalog: unsigned documents, the newest of each node.
type memoryStore struct {
	mu       sync.Mutex // guards docs
	docs     map[catalog.NodeID]memoryDoc
	self     catalog.NodeID
	received atomic.Int64 // records, known ones too
}

type memoryDoc struct {
	Node    catalog.NodeID
	Version catalog.DocumentVersion
	Filler  []byte `json:",omitempty"`
	record  catalog.Record
}

var errBadRecord = errors.New("bad record")

func newMemoryStore() *memoryStore { return &memoryStore{docs: map[catalog.NodeID]memoryDoc{}} }

func document(node catalog.NodeID, sequence uint64, filler int) catalog.Record {
	body, err := json.Marshal(memoryDoc{Node: node, Version: versionOf(sequence), Filler: make([]byte, filler)})
	if err != nil {
		panic(err)
	}
	return catalog.Record{Kind: catalog.KindDocument, Body: body}
}

func versionOf(sequence uint64) catalog.DocumentVersion {
	return catalog.DocumentVersion{Epoch: 1, Sequence: sequence}
}

func (s *memoryStore) Merge(records []catalog.Record) (news []catalog.Record, rejected []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received.Add(int64(len(records)))
	for _, r := range records {
		var d memoryDoc
		if err := json.Unmarshal(r.Body, &d); err != nil || d.Node == "" {
			rejected = append(rejected, errBadRecord)
			continue
		}
		if held, ok := s.docs[d.Node]; ok && !held.Version.Less(d.Version) {
			continue
		}
		d.record = r
		s.docs[d.Node] = d
		news = append(news, r)
	}
	return news, rejected
}

func recordID(node catalog.NodeID) catalog.RecordID { return catalog.RecordID("document/" + node) }

func (s *memoryStore) Digest() []byte {
	s.mu.Lock()
	v := memoryHoldings{s}.vector()
	s.mu.Unlock()
	text, err := json.Marshal(v) // JSON sorts the keys of a map
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(text)
	return sum[:]
}

func (s *memoryStore) Look(f func(Holdings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(memoryHoldings{s})
}

// memoryHoldings is a memoryStore that is locked.
type memoryHoldings struct{ *memoryStore }

func (s memoryHoldings) vector() catalog.Vector {
	v := catalog.Vector{}
	for id, d := range s.docs {
		v[recordID(id)] = catalog.Version{Hi: d.Version.Epoch, Lo: d.Version.Sequence, Tie: "x"}
	}
	return v
}

func (s memoryHoldings) Summaries(p []catalog.Prefix) []catalog.Summary {
	return s.vector().Summaries(p)
}

func (s memoryHoldings) Differences(theirs []catalog.Summary) catalog.Differences {
	return s.vector().Differences(theirs)
}

func (s memoryHoldings) VectorIn(p []catalog.Prefix) catalog.Vector { return s.vector().In(p) }

func (s memoryHoldings) MissingIn(p []catalog.Prefix, theirs catalog.Vector) []catalog.Record {
	var ids []catalog.RecordID
	for id, v := range s.vector().In(p) {
		if held, ok := theirs[id]; !ok || held.Less(v) {
			ids = append(ids, id)
		}
	}
	return s.Select(ids)
}

func (s memoryHoldings) Describe(records []catalog.Record) catalog.Vector {
	v := catalog.Vector{}
	for _, r := range records {
		for id, d := range s.docs {
			if bytes.Equal(d.record.Body, r.Body) {
				v[recordID(id)] = s.vector()[recordID(id)]
			}
		}
	}
	return v
}

func (s memoryHoldings) Needs(theirs catalog.Vector) []catalog.RecordID {
	own := s.vector()
	var ids []catalog.RecordID
	for id, v := range theirs {
		if held, ok := own[id]; !ok || held.Less(v) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s memoryHoldings) Select(ids []catalog.RecordID) []catalog.Record {
	var records []catalog.Record
	for id, d := range s.docs {
		if slices.Contains(ids, recordID(id)) {
			records = append(records, d.record)
		}
	}
	return records
}

func (s *memoryStore) Version(node catalog.NodeID) (catalog.DocumentVersion, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.docs[node]
	return d.Version, ok
}

func (s *memoryStore) Acknowledge(peer catalog.NodeID) claims.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	return claims.Ack{Held: s.docs[peer].Version, Own: s.docs[s.self].Version}
}

func (s *memoryStore) Counts(peer catalog.NodeID, asked catalog.DocumentVersion, ack claims.Ack) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !ack.Held.Less(asked) && !s.docs[peer].Version.Less(ack.Own)
}

// cluster is some nodes that all see each other alive, until told otherwise.
type cluster struct {
	t       *testing.T
	fabric  *memnet.Fabric
	network func(netip.Addr) meshnet.Network
	nodes   []*testNode

	mu      sync.Mutex // guards all below
	dead    map[int]bool
	evicted map[int]bool
	apart   func(i, j int) bool // they do not see each other alive
}

type testNode struct {
	*Syncer
	store   Store
	cancel  context.CancelFunc
	done    chan error
	mu      sync.Mutex // guards applied
	applied func(context.Context) error
}

func peerOf(i int) Peer {
	return Peer{
		ID:      catalog.NodeID(fmt.Sprintf("node%02d", i)),
		Address: netip.MustParseAddr(fmt.Sprintf("fd00:1:1:8000::%x", i+1)),
	}
}

// newCluster starts size nodes, each with its document in sequence 1.
func newCluster(t *testing.T, size int) *cluster {
	fabric := memnet.New(0)
	return newClusterOn(t, size, fabric, fabric.Host)
}

func newClusterOn(t *testing.T, size int, fabric *memnet.Fabric, network func(netip.Addr) meshnet.Network) *cluster {
	c := &cluster{
		t: t, fabric: fabric, network: network, nodes: make([]*testNode, size),
		dead: map[int]bool{}, evicted: map[int]bool{}, apart: func(_, _ int) bool { return false },
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
	})
	for i := range c.nodes {
		store := newMemoryStore()
		store.self = peerOf(i).ID
		store.Merge([]catalog.Record{document(peerOf(i).ID, 1, 0)})
		c.start(i, store)
	}
	return c
}

func (c *cluster) start(i int, store Store) {
	c.t.Helper()
	n := &testNode{store: store, done: make(chan error, 1), applied: func(context.Context) error { return nil }}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	s, err := New(ctx, Config{
		Self:    peerOf(i).ID,
		Address: peerOf(i).Address,
		Network: c.network(peerOf(i).Address),
		Store:   store,
		Alive:   func() []Peer { return c.alive(i) },
		PeerOf:  c.peerAt,
		NameOf:  func(id catalog.NodeID) string { return string(id) },
		Logger:  slog.New(slog.DiscardHandler),
		Applied: func(ctx context.Context) error {
			n.mu.Lock()
			applied := n.applied
			n.mu.Unlock()
			return applied(ctx)
		},
	})
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	n.Syncer = s
	c.nodes[i] = n
	go func() { n.done <- s.Run(ctx) }()
}

func (c *cluster) stop(i int) {
	c.t.Helper()
	n := c.nodes[i]
	if n == nil {
		return
	}
	n.cancel()
	if err := <-n.done; err != nil {
		c.t.Error(err)
	}
	n.done <- nil
}

func (c *cluster) alive(i int) []Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	var peers []Peer
	for j := range c.nodes {
		if j != i && !c.dead[j] && !c.evicted[j] && !c.apart(i, j) {
			peers = append(peers, peerOf(j))
		}
	}
	return peers
}

func (c *cluster) peerAt(address netip.Addr) (catalog.NodeID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.nodes {
		if p := peerOf(i); p.Address == address && !c.evicted[i] {
			return p.ID, true
		}
	}
	return "", false
}

// change edits what the nodes believe and tells them.
func (c *cluster) change(edit func()) {
	c.mu.Lock()
	edit()
	c.mu.Unlock()
	for _, n := range c.nodes {
		n.PeersChanged()
	}
}

// publish gives node i a new document.
func (c *cluster) publish(i int, r catalog.Record) {
	c.nodes[i].store.Merge([]catalog.Record{r})
	c.nodes[i].Publish(r)
}

// have says whether all of these nodes hold node j's document in this version.
func (c *cluster) have(nodes []int, j int, sequence uint64) bool {
	for _, i := range nodes {
		if v, ok := c.nodes[i].store.Version(peerOf(j).ID); !ok || v.Less(versionOf(sequence)) {
			return false
		}
	}
	return true
}

func (c *cluster) equal() bool {
	for _, n := range c.nodes[1:] {
		if !slices.Equal(n.store.Digest(), c.nodes[0].store.Digest()) {
			return false
		}
	}
	return true
}

func (c *cluster) all() []int {
	var all []int
	for i := range c.nodes {
		all = append(all, i)
	}
	return all
}

// linked says whether each node has as many neighbours as it wants.
func (c *cluster) linked() bool {
	for _, n := range c.nodes {
		n.Syncer.mu.Lock()
		links := len(n.links)
		n.Syncer.mu.Unlock()
		if links < min(neighbors, len(c.nodes)-1) {
			return false
		}
	}
	return true
}

// within waits until the condition holds and returns how long it took.
func within(t *testing.T, limit time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	return await(t, stretch(limit), what, condition)
}

// await is within with a limit that stays what it is.
func await(t *testing.T, limit time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		<-tick.C
	}
	return time.Since(start)
}
