package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/meshnet"
)

// virtual runs a test in virtual time, or in real time under the race detector, with which
// testing/synctest may crash before Go 1.27.
func virtual(t *testing.T, test func(t *testing.T)) {
	if raceEnabled {
		t.Log("real time: testing/synctest does not go together with -race")
		test(t)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		// After all else has stopped, memberlist's last probes need (virtual) time to run out.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		test(t)
	})
}

var errStranger = errors.New("not a member")

// cluster is some nodes that know each other.
type cluster struct {
	t       *testing.T
	network func(netip.Addr) meshnet.Network
	nodes   []*testNode

	mu      sync.Mutex // guards evicted
	evicted map[catalog.NodeID]bool
}

type testNode struct {
	*Membership
	peer   Peer
	cancel context.CancelFunc
	done   chan error
}

func peerOf(i int) Peer {
	return Peer{ID: catalog.NodeID(fmt.Sprintf("node%02d", i)), Address: addressOf(i)}
}

func addressOf(i int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:1:1:8000::%x", i+1))
}

func newCluster(t *testing.T, size int, network func(netip.Addr) meshnet.Network) *cluster {
	c := &cluster{t: t, network: network, evicted: map[catalog.NodeID]bool{}, nodes: make([]*testNode, size)}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
	})
	for i := range c.nodes {
		c.start(i)
	}
	return c
}

func (c *cluster) known() []Peer {
	var peers []Peer
	for i := range c.nodes {
		peers = append(peers, peerOf(i))
	}
	return peers
}

func (c *cluster) verify(id catalog.NodeID, address netip.Addr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.nodes {
		if p := peerOf(i); p.ID == id && p.Address == address && !c.evicted[id] {
			return nil
		}
	}
	return errStranger
}

func (c *cluster) start(i int) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	peer := peerOf(i)
	m, err := New(ctx, Config{
		Self:    peer.ID,
		Address: peer.Address,
		Network: c.network(peer.Address),
		Known:   c.known,
		Verify:  c.verify,
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	n := &testNode{Membership: m, peer: peer, cancel: cancel, done: make(chan error, 1)}
	c.nodes[i] = n
	go func() { n.done <- m.Run(ctx) }()
}

// stop ends a node without a word, as a crash does.
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

// statusOf is what node i thinks of node j; empty: nothing.
func (c *cluster) statusOf(i, j int) Status {
	for _, m := range c.nodes[i].Members() {
		if m.ID == peerOf(j).ID {
			return m.Status
		}
	}
	return ""
}

// allSee says whether each of the nodes of from thinks that of node j.
func (c *cluster) allSee(from []int, j int, want Status) bool {
	for _, i := range from {
		if c.statusOf(i, j) != want {
			return false
		}
	}
	return true
}

// allAlive says whether all see all alive.
func (c *cluster) allAlive() bool {
	all := c.others(-1)
	return c.allSeeAlive(all, all)
}

// allSeeAlive says whether each of the nodes of from thinks that of each of the others. A suspect counts: on a loaded machine
// a probe may well take too long.
func (c *cluster) allSeeAlive(from, others []int) bool {
	for _, i := range from {
		for _, j := range others {
			if s := c.statusOf(i, j); s != Alive && s != Suspect {
				return false
			}
		}
	}
	return true
}

// steady is allSeeAlive where time is virtual. In real time nodes of a starved process may take one another for failed
// for a while: a test that goes on waits until they have seen otherwise.
func (c *cluster) steady(from, others []int) bool { return raceEnabled || c.allSeeAlive(from, others) }

// others is all nodes but j.
func (c *cluster) others(j int) []int {
	var list []int
	for i := range c.nodes {
		if i != j {
			list = append(list, i)
		}
	}
	return list
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
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		<-tick.C
	}
	return time.Since(start)
}

// holds checks that a condition stays true.
func holds(t *testing.T, span time.Duration, what string, condition func() bool) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Since(start) < span {
		if !condition() {
			t.Fatalf("%s: no longer after %s", what, time.Since(start))
		}
		<-tick.C
	}
}
