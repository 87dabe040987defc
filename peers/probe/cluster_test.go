package probe

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/catalog"
)

// cluster is hosts that all ping each other, in virtual time, over a network that takes some time for each
// packet and loses some.
type cluster struct {
	mu      sync.Mutex // guards all below
	hosts   []*member
	cut     map[netip.Addr]bool // hosts without power
	packets int
}

type member struct {
	id      catalog.NodeID
	addr    netip.Addr
	prober  *Prober
	cluster *cluster
	inbox   chan echo
	closed  chan struct{}
	once    sync.Once
}

type echo struct {
	from    netip.Addr
	payload uint64
}

func newCluster(n int) *cluster {
	c := &cluster{cut: map[netip.Addr]bool{}}
	for i := range n {
		m := &member{
			id: catalog.NodeID(fmt.Sprintf("host-%03d", i)), addr: netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}),
			cluster: c, inbox: make(chan echo, 4096), closed: make(chan struct{}),
		}
		c.hosts = append(c.hosts, m)
	}
	for _, m := range c.hosts {
		m.prober = New(Config{
			Open: func() (Pinger, error) { return m, nil }, Targets: func() []Target { return c.others(m) },
			Logger: slog.New(slog.DiscardHandler),
		})
	}
	return c
}

func (c *cluster) others(m *member) []Target {
	var out []Target
	for _, o := range c.hosts {
		if o != m {
			out = append(out, Target{ID: o.id, Address: o.addr})
		}
	}
	return out
}

// Send implements Pinger: the other host's kernel answers, if both have power; every hundredth or so packet is lost.
func (m *member) Send(to netip.Addr, payload uint64) error {
	c := m.cluster
	c.mu.Lock()
	c.packets++
	lost := c.packets%97 == 0 || c.cut[m.addr] || c.cut[to]
	delay := time.Duration(1+c.packets%7) * time.Millisecond
	c.mu.Unlock()
	if lost {
		return nil
	}
	time.AfterFunc(delay, func() {
		select {
		case m.inbox <- echo{to, payload}:
		case <-m.closed:
		}
	})
	return nil
}

// Receive implements Pinger.
func (m *member) Receive() (netip.Addr, uint64, error) {
	select {
	case e := <-m.inbox:
		return e.from, e.payload, nil
	case <-m.closed:
		return netip.Addr{}, 0, context.Canceled
	}
}

// Close implements Pinger.
func (m *member) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// power cuts a host off, or gives it power again.
func (c *cluster) power(i int, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[c.hosts[i].addr] = !on
}

// seen counts how many of the others see host i in a state.
func (c *cluster) seen(i int, state State) int {
	return c.seenBy(i, state, func(int) bool { return true })
}

// seenBy is seen among some of them.
func (c *cluster) seenBy(i int, state State, among func(j int) bool) int {
	n := 0
	for j, m := range c.hosts {
		if j == i || !among(j) {
			continue
		}
		if s, _ := m.prober.State(c.hosts[i].id); s == state {
			n++
		}
	}
	return n
}

// took is how long it takes, in virtual time, until everybody sees host i in a state.
func (c *cluster) took(t *testing.T, i int, state State) time.Duration {
	t.Helper()
	began := time.Now()
	for c.seen(i, state) < len(c.hosts)-1 {
		time.Sleep(10 * time.Millisecond) // virtual
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("host %d: only %d of %d see it %v", i, c.seen(i, state), len(c.hosts)-1, state)
		}
	}
	return time.Since(began)
}

// At three hosts and at a hundred, on a line that loses one packet of a hundred: a host without power is down for everybody
// within three seconds and up again within two, and one that flaps takes no other with it.
func TestPowerCut(t *testing.T) {
	for _, n := range []int{3, hundred} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(n)
				ctx, cancel := context.WithCancel(context.Background())
				var running sync.WaitGroup
				defer running.Wait()
				defer cancel()
				for _, m := range c.hosts {
					running.Go(func() {
						if err := m.prober.Run(ctx); err != nil {
							t.Error(err)
						}
					})
				}
				for i := range c.hosts {
					c.took(t, i, Up)
				}
				c.power(1, false)
				down := c.took(t, 1, Down)
				c.power(1, true)
				up := c.took(t, 1, Up)
				t.Logf("%d hosts: down for all after %s, up for all after %s", n, down, up)
				if down > 3*time.Second || up > 2*time.Second {
					t.Errorf("down for all after %s, up for all after %s", down, up)
				}
				othersUp := func(when string) {
					t.Helper()
					for i := range c.hosts {
						// The one that flaps has seen all others go, and may see them return a ping later than they see it.
						if i != 2 && c.seenBy(i, Up, func(j int) bool { return j != 2 }) < n-2 {
							t.Errorf("host %d is not up for all others %s", i, when)
						}
					}
				}
				for range 5 { // it flaps
					c.power(2, false)
					c.took(t, 2, Down)
					othersUp("while one is away")
					c.power(2, true)
					c.took(t, 2, Up)
					othersUp("when one is back")
				}
				for i := range c.hosts {
					if returned := c.took(t, i, Up); returned > time.Second {
						t.Errorf("host %d is up for all %s after another flapped", i, returned)
					}
				}
			})
		})
	}
}
