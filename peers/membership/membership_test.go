package membership

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/meshd/meshd/peers/meshnet/memnet"
)

const latency = 2 * time.Millisecond

func TestJoinCrashReturn(t *testing.T) {
	virtual(t, func(t *testing.T) {
		for _, size := range []int{3, 7} {
			fabric := memnet.New(latency)
			c := newCluster(t, size, fabric.Host)
			t.Logf("%d nodes: all see all after %s", size, within(t, 5*time.Second, "join", c.allAlive))

			c.stop(1)
			suspected := false
			took := within(t, 10*time.Second, "failure seen by all", func() bool {
				for _, i := range c.others(1) { // whoever happened to probe it
					suspected = suspected || c.statusOf(i, 1) == Suspect
				}
				return c.allSee(c.others(1), 1, Failed)
			})
			t.Logf("%d nodes: failure seen by all after %s", size, took)
			if took < 2*time.Second && !raceEnabled { // in real time it may have been a suspect before
				t.Errorf("a failure after %s of silence is too hasty", took)
			}
			if size == 3 && took > stretch(5*time.Second) {
				t.Errorf("a failure among three was seen after %s, want at most 5s", took)
			}
			if !suspected && !raceEnabled {
				t.Error("a node was never a suspect before it was failed: has memberlist's log changed?")
			}

			c.start(1)
			t.Logf("%d nodes: return seen by all after %s", size, within(t, 5*time.Second, "return", c.allAlive))
		}
	})
}

func TestQuickRestartGoesUnnoticed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 3, memnet.New(latency).Host)
		within(t, 5*time.Second, "join", c.allAlive)
		c.stop(2)
		c.start(2)
		holds(t, 8*time.Second, "the restarted node is not failed", func() bool {
			return raceEnabled || c.statusOf(0, 2) != Failed && c.statusOf(1, 2) != Failed
		})
		within(t, time.Second, "alive", c.allAlive)
	})
}

func TestRoundTripIsMeasured(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 3, memnet.New(latency).Host)
		within(t, 20*time.Second, "round trips measured", func() bool {
			measured := 0
			for _, m := range c.nodes[0].Members() {
				if m.RTT >= 2*latency && (raceEnabled || m.RTT < 3*latency) {
					measured++
				}
			}
			return measured == 2
		})
	})
}

func TestLeaveIsFast(t *testing.T) {
	virtual(t, func(t *testing.T) {
		for _, size := range []int{2, 3, 8} {
			c := newCluster(t, size, memnet.New(latency).Host)
			within(t, 5*time.Second, "join", c.allAlive)
			start := time.Now()
			if err := c.nodes[0].Leave(context.Background()); err != nil {
				t.Fatal(err)
			}
			left := time.Since(start)
			within(t, time.Second, "leave seen", func() bool { return c.allSee(c.others(0), 0, Left) })
			seen := time.Since(start)
			t.Logf("%d nodes: left after %s, and seen by all after %s", size, left, seen)
			if seen > stretch(time.Second) {
				t.Error("that is too late")
			}
			if err := <-c.nodes[0].done; err != nil {
				t.Error(err)
			}
			c.nodes[0].done <- nil
			c.start(0)
			within(t, 5*time.Second, "alive again after a leave", c.allAlive)
		}
	})
}

func TestLeaveAloneAndTwice(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 1, memnet.New(latency).Host)
		for range 2 {
			if err := c.nodes[0].Leave(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestHalvesMeetAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		size  int
		apart time.Duration
	}{
		{"ten minutes", 6, 10 * time.Minute},
		// Longer than Serf remembers failed members. Two lone nodes have nobody to
		// probe, which lets the days pass quickly.
		{"two days", 2, 48 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			if raceEnabled {
				t.Skip("takes too long in real time; under the race detector virtual time may crash")
			}
			virtual(t, func(t *testing.T) {
				fabric := memnet.New(latency)
				c := newCluster(t, test.size, fabric.Host)
				within(t, 5*time.Second, "join", c.allAlive)

				left := map[netip.Addr]bool{}
				for i := range test.size / 2 {
					left[addressOf(i)] = true
				}
				last := test.size - 1
				fabric.Cut(func(a, b netip.Addr) bool { return left[a] != left[b] })
				within(t, 20*time.Second, "halves see each other failed", func() bool {
					return c.statusOf(0, last) == Failed && c.statusOf(last, 0) == Failed
				})
				time.Sleep(test.apart) // virtual
				fabric.Cut(nil)
				t.Logf("halves met %s after the heal", within(t, 15*time.Second, "halves meet", c.allAlive))
			})
		})
	}
}

func TestStrangersAreNotLetIn(t *testing.T) {
	virtual(t, func(t *testing.T) {
		fabric := memnet.New(latency)
		c := newCluster(t, 3, fabric.Host)
		within(t, 5*time.Second, "join", c.allAlive)

		for name, peer := range map[string]Peer{
			"unknown":                   {ID: "mallory", Address: addressOf(77)},
			"a member's name elsewhere": {ID: peerOf(2).ID, Address: addressOf(78)},
		} {
			ctx, cancel := context.WithCancel(context.Background())
			m, err := New(ctx, Config{
				Self: peer.ID, Address: peer.Address, Network: fabric.Host(peer.Address),
				Known: c.known, Logger: slog.New(slog.DiscardHandler), Verify: c.verify,
			})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx) }()
			within(t, 10*time.Second, name+" reached the mesh", func() bool { return len(m.Members()) > 2 })
			holds(t, 5*time.Second, name+" stays out", func() bool {
				return len(c.nodes[0].Members()) == 3 && c.steady(c.others(-1), c.others(-1))
			})
			within(t, time.Second, "the members live", c.allAlive)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestRemoveCutsOff(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 4, memnet.New(latency).Host)
		within(t, 5*time.Second, "join", c.allAlive)
		gone := peerOf(3).ID
		c.mu.Lock()
		c.evicted[gone] = true
		c.mu.Unlock()
		for i := range 3 {
			c.nodes[i].Remove(gone)
		}
		holds(t, 10*time.Second, "the evicted node is not listed, the others live", func() bool {
			return c.allSee(c.others(3), 3, "") && c.steady(c.others(3), c.others(3))
		})
		within(t, time.Second, "the others live", func() bool { return c.allSeeAlive(c.others(3), c.others(3)) })
		within(t, 10*time.Second, "the evicted node is alone", func() bool {
			return c.statusOf(3, 0) == Failed && c.statusOf(3, 1) == Failed
		})
	})
}

func TestChangesPoke(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 2, memnet.New(latency).Host)
		within(t, 5*time.Second, "join", c.allAlive)
		select { // what happened so far
		case <-c.nodes[0].Changed():
		default:
		}
		c.stop(1)
		for c.statusOf(0, 1) != Failed {
			select {
			case <-c.nodes[0].Changed():
			case <-time.After(stretch(10 * time.Second)):
				t.Fatal("no poke for a failure")
			}
		}
	})
}

func TestPortInUse(t *testing.T) {
	virtual(t, func(t *testing.T) {
		fabric := memnet.New(latency)
		c := newCluster(t, 1, fabric.Host)
		_, err := New(context.Background(), Config{
			Self: "other", Address: addressOf(0), Network: fabric.Host(addressOf(0)),
			Known: c.known, Verify: c.verify, Logger: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			t.Fatal("two memberships on one address")
		}
		t.Log(err)
	})
}

func TestTwentyNodesThroughChurn(t *testing.T) {
	if raceEnabled {
		t.Skip("too slow under the race detector in real time")
	}
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 20, memnet.New(latency).Host)
		t.Logf("20 nodes: all see all after %s", within(t, 10*time.Second, "join", c.allAlive))
		holds(t, time.Minute, "no false failures", c.allAlive)
		c.stop(3)
		c.stop(4)
		took := within(t, 15*time.Second, "both failed", func() bool {
			return c.allSee([]int{0, 10, 19}, 3, Failed) && c.allSee([]int{0, 10, 19}, 4, Failed)
		})
		t.Logf("20 nodes: two failures seen after %s", took)
		c.start(3)
		c.start(4)
		t.Logf("20 nodes: back after %s", within(t, 10*time.Second, "back", c.allAlive))
	})
}
