package syncer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/meshnet/memnet"
)

func TestPushReachesAllAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		for _, size := range []int{2, 3, 20} {
			c := newCluster(t, size)
			within(t, 5*time.Second, "links", c.linked)
			within(t, 10*time.Second, "equal", c.equal)
			for seq := uint64(2); seq < 16; seq++ {
				limit := 200 * time.Millisecond // less than an exchange takes to come round
				if seq < 7 {
					limit = time.Second // all began at once, and the tree grows: see tree.go
				}
				c.publish(0, document(peerOf(0).ID, seq, 0))
				within(t, limit, fmt.Sprintf("push %d among %d", seq, size), func() bool { return c.have(c.all(), 0, seq) })
			}
		}
	})
}

func TestLinksStayBounded(t *testing.T) {
	if raceEnabled {
		t.Skip("takes minutes of real time under the race detector")
	}
	virtual(t, func(t *testing.T) {
		const size = 40
		c := newCluster(t, size)
		within(t, 10*time.Second, "links", c.linked)
		time.Sleep(3 * time.Minute) // virtual
		total := 0
		for _, n := range c.nodes {
			n.Syncer.mu.Lock()
			for _, l := range n.allLinks() {
				if l.outgoing {
					total++
				}
			}
			n.Syncer.mu.Unlock()
		}
		t.Logf("%d nodes dialled %d links", size, total)
		if total > size*(neighbors+2) {
			t.Errorf("%d links are too many", total)
		}
		c.publish(0, document(peerOf(0).ID, 2, 0))
		within(t, 200*time.Millisecond, "push over links that changed", func() bool { return c.have(c.all(), 0, 2) })
	})
}

// What many links could bring many times comes to each host about once.
func TestEachIsSentLittleTwice(t *testing.T) {
	if raceEnabled {
		t.Skip("counts what virtual time puts in order")
	}
	virtual(t, func(t *testing.T) {
		const size, changes = 30, 60
		c := newCluster(t, size)
		within(t, 5*time.Second, "links", c.linked)
		within(t, 10*time.Second, "equal", c.equal)
		received := func() (sum int) {
			for _, n := range c.nodes {
				sum += int(n.store.(*memoryStore).received.Load())
			}
			return sum
		}
		change := func(round uint64) {
			for i := range changes {
				node, seq := i%size, round+uint64(i/size)
				c.publish(node, document(peerOf(node).ID, seq, 0))
				within(t, time.Second, "push", func() bool { return c.have(c.all(), node, seq) })
			}
		}
		change(2) // the tree grows
		before := received()
		change(10)
		each := float64(received()-before) / (changes * (size - 1))
		t.Logf("each change was sent to each host %.2f times", each)
		// An author tells all its linked peers, which is up to a dozen of 30.
		if each > 2 {
			t.Error("that is too often")
		}
	})
}

// A tree that lost a host in its middle is mended by what hosts tell of each other's names.
func TestTreeHeals(t *testing.T) {
	virtual(t, func(t *testing.T) {
		const size = 12
		c := newCluster(t, size)
		within(t, 5*time.Second, "links", c.linked)
		within(t, 10*time.Second, "equal", c.equal)
		for seq := uint64(2); seq < 40; seq++ {
			c.publish(int(seq)%3, document(peerOf(int(seq)%3).ID, seq, 0))
		}
		c.stop(5)
		c.stop(6)
		rest := slices.DeleteFunc(c.all(), func(i int) bool { return i == 5 || i == 6 })
		for seq := uint64(50); seq < 55; seq++ {
			c.publish(0, document(peerOf(0).ID, seq, 0))
			// Less than the next comparison.
			within(t, time.Second, "push past the hosts that went", func() bool { return c.have(rest, 0, seq) })
		}
	})
}

func TestPartitionAndHeal(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 10)
		within(t, 10*time.Second, "equal", c.equal)
		apart := func(i, j int) bool { return (i < 5) != (j < 5) }
		c.fabric.Cut(func(a, b netip.Addr) bool { return apart(int(a.As16()[15])-1, int(b.As16()[15])-1) })
		c.change(func() { c.apart = apart })
		c.publish(0, document(peerOf(0).ID, 2, 0))
		c.publish(9, document(peerOf(9).ID, 2, 0))
		within(t, time.Second, "push within the halves", func() bool {
			return c.have([]int{1, 2, 3, 4}, 0, 2) && c.have([]int{5, 6, 7, 8}, 9, 2)
		})
		if c.have([]int{5}, 0, 2) {
			t.Fatal("the partition leaks")
		}
		c.fabric.Cut(nil)
		c.change(func() { c.apart = func(_, _ int) bool { return false } })
		t.Logf("equal %s after the heal", within(t, time.Second, "heal", c.equal))
	})
}

// Nobody says that anything changed, and no push comes through: comparing alone repairs.
func TestComparingRepairs(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 5)
		within(t, 10*time.Second, "equal", c.equal)
		c.nodes[3].store.Merge([]catalog.Record{document(peerOf(3).ID, 2, 0)}) // never published
		t.Logf("repaired after %s", within(t, 15*time.Second, "repair", c.equal))
	})
}

func TestCatchupBringsAllBothWays(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 2)
		within(t, 10*time.Second, "equal", c.equal)
		c.change(func() { c.apart = func(_, _ int) bool { return true } })
		within(t, time.Second, "links closed", func() bool { return c.fabric.Conns(peerOf(0).Address) == 0 })
		for i := range 300 { // 6 MB: many frames
			c.nodes[i%2].store.Merge([]catalog.Record{document(peerOf(100+i).ID, 1, 20000)})
		}
		ctx, cancel := context.WithTimeout(context.Background(), stretch(20*time.Second))
		defer cancel()
		if err := c.nodes[0].Catchup(ctx, peerOf(1)); err != nil {
			t.Fatal(err)
		}
		if !c.equal() {
			t.Error("not equal after catching up")
		}
	})
}

func TestCatchupFails(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.stop(1)
		ctx, cancel := context.WithTimeout(context.Background(), stretch(5*time.Second))
		defer cancel()
		if err := c.nodes[0].Catchup(ctx, peerOf(1)); err == nil {
			t.Error("caught up with a peer that is gone")
		} else {
			t.Log(err)
		}
	})
}

func TestRestartedPeerIsLinkedAgain(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 3)
		within(t, 10*time.Second, "equal", c.equal)
		for seq := uint64(2); seq < 5; seq++ {
			store := c.nodes[1].store
			c.stop(1)
			c.start(1, store)
			within(t, 5*time.Second, "links", c.linked)
			c.publish(0, document(peerOf(0).ID, seq, 0))
			within(t, 5*time.Second, "push to the restarted", func() bool { return c.have(c.all(), 0, seq) })
		}
	})
}

// TestLateDialLeavesNoLink: a peer is believed dead while it is dialled. If it answers after all, that is of no use any more.
func TestLateDialLeavesNoLink(t *testing.T) {
	virtual(t, func(t *testing.T) {
		fabric := memnet.New(0)
		fabric.Cut(func(_, _ netip.Addr) bool { return true })
		c := newClusterOn(t, 2, fabric, fabric.Host) // each dials the other, which takes until the caller gives up
		within(t, dialTimeout/2, "they dial", func() bool {
			for _, n := range c.nodes {
				n.Syncer.mu.Lock()
				dialing := len(n.dialing)
				n.Syncer.mu.Unlock()
				if dialing == 0 {
					return false
				}
			}
			return true
		})
		c.change(func() { c.apart = func(_, _ int) bool { return true } })
		within(t, dialTimeout/2, "nobody is believed alive", func() bool {
			for _, n := range c.nodes {
				n.Syncer.mu.Lock()
				alive := len(n.Syncer.alive)
				n.Syncer.mu.Unlock()
				if alive > 0 {
					return false
				}
			}
			return true
		})
		fabric.Cut(nil) // the dials succeed
		within(t, 3*compareEvery, "connections closed", func() bool {
			for _, n := range c.nodes {
				n.Syncer.mu.Lock()
				busy := len(n.dialing) + len(n.links)
				n.Syncer.mu.Unlock()
				if busy > 0 {
					return false
				}
			}
			return fabric.Conns(peerOf(0).Address) == 0
		})
	})
}

func TestEvictedAreCutOff(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 3)
		within(t, 10*time.Second, "equal", c.equal)
		within(t, 5*time.Second, "links", c.linked)
		c.change(func() { c.evicted[2] = true })
		within(t, time.Second, "the evicted node's connections closed", func() bool {
			return c.fabric.Conns(peerOf(2).Address) == 0
		})
		conn, err := c.fabric.Host(peerOf(2).Address).Dial(context.Background(), peerOf(2).Address,
			netip.AddrPortFrom(peerOf(0).Address, Port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("an evicted node was served")
		}
		if err := c.nodes[0].Catchup(context.Background(), peerOf(2)); err == nil {
			t.Error("dialled an evicted node")
		}
	})
}

// A peer that connects and reads nothing costs itself the connection, and nobody else anything.
func TestSlowPeerBlocksNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 4)
		c.stop(3) // its address is used by hand
		within(t, 10*time.Second, "equal", func() bool { return c.have([]int{0, 1, 2}, 0, 1) && c.have([]int{0, 1, 2}, 1, 1) })
		var conns []io.Closer
		for i := range 3 {
			conn, err := c.fabric.Host(peerOf(3).Address).Dial(context.Background(), peerOf(3).Address,
				netip.AddrPortFrom(peerOf(i).Address, Port))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		for seq := uint64(2); seq < 400; seq++ {
			c.publish(0, document(peerOf(0).ID, seq, 20000))
			within(t, 3*time.Second, "push past a slow peer", func() bool { return c.have([]int{1, 2}, 0, seq) })
		}
		within(t, 20*time.Second, "the slow peer's connection dropped", func() bool {
			return c.nodes[0].linkCount(peerOf(3).ID) == 0
		})
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
}

func (s *Syncer) linkCount(id catalog.NodeID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links[id])
}

func TestHostileFramesCloseTheConnection(t *testing.T) {
	sized := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	many := slices.Repeat([]byte("{},"), maxRecords+1)
	many[len(many)-1] = ']'
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.stop(1)
		for name, bytes := range map[string][]byte{
			"too large":        binary.BigEndian.AppendUint32(nil, maxFrame+1),
			"empty":            {0, 0, 0, 0},
			"no JSON":          sized("hello"),
			"wrong types":      sized(`{"type":7}`),
			"records no list":  sized(`{"type":"push","records":{}}`),
			"too many records": sized(`{"type":"push","records":[` + string(many) + `}`),
			"half a frame":     {0, 1, 0, 0, '{'},
		} {
			conn, err := c.fabric.Host(peerOf(1).Address).Dial(context.Background(), peerOf(1).Address,
				netip.AddrPortFrom(peerOf(0).Address, Port))
			if err != nil {
				t.Fatal(err)
			}
			if raceEnabled && name == "half a frame" { // takes readLimit
				_ = conn.Close()
				continue
			}
			if _, err := conn.Write(bytes); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			_ = conn.Close()
		}
		// What it does not know it ignores.
		conn, err := c.fabric.Host(peerOf(1).Address).Dial(context.Background(), peerOf(1).Address,
			netip.AddrPortFrom(peerOf(0).Address, Port))
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{`{"type":"novelty","of":"tomorrow"}`, `{"type":"compare","id":5,"protocol":2}`} {
			if _, err := conn.Write(sized(body)); err != nil {
				t.Fatal(err)
			}
		}
		for { // the node may also ask something of its own
			answer, err := readFrame(conn)
			if err != nil {
				t.Fatal(err)
			}
			f, err := decode(answer)
			if err != nil {
				t.Fatal(err)
			}
			if f.Type == typeSummary && f.ID == 5 {
				break
			}
		}
		_ = conn.Close()
	})
}

func TestRefusedRecordsAreLoggedNotPassedOn(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 3)
		within(t, 10*time.Second, "equal", c.equal)
		within(t, 5*time.Second, "links", c.linked)
		n0 := c.nodes[0].Syncer
		n0.mu.Lock()
		l := n0.newest(peerOf(1).ID)
		n0.mu.Unlock()
		bad := &frame{Type: typePush, Records: recordList{{Kind: catalog.KindDocument, Body: []byte("{}")}}}
		if err := l.send(context.Background(), bad); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "refusal counted", func() bool {
			n := c.nodes[1]
			n.Syncer.mu.Lock()
			defer n.Syncer.mu.Unlock()
			return n.refusals[peerOf(0).ID] != nil && n.refusals[peerOf(2).ID] == nil
		})
	})
}

func TestRevocationsGoFirst(t *testing.T) {
	records := []catalog.Record{{Kind: catalog.KindDocument}, {Kind: catalog.KindNetwork}, {Kind: catalog.KindRevocation}}
	got := batches(records)
	if len(got) != 1 || got[0][0].Kind != catalog.KindRevocation || got[0][1].Kind != catalog.KindDocument {
		t.Errorf("got %v", got)
	}
	if got := batches(nil); got != nil {
		t.Errorf("batches of nothing: %v", got)
	}
	var many []catalog.Record
	for range 5 {
		many = append(many, catalog.Record{Body: make([]byte, batchBytes/2)})
	}
	if got := batches(many); len(got) != 3 {
		t.Errorf("%d batches", len(got))
	}
}
