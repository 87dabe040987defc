package syncer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/meshnet"
)

// metered is a network on which every byte that is written is counted, and takes its time.
type metered struct {
	meshnet.Network
	written *atomic.Int64
	rate    int64 // bytes a second on each connection; 0: no limit
}

func (m metered) Listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := m.Network.Listen(ctx, at)
	return meteredListener{l, m}, err
}

func (m metered) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	c, err := m.Network.Dial(ctx, from, to)
	if err != nil {
		return nil, err
	}
	return meteredConn{c, m}, nil
}

type meteredListener struct {
	net.Listener
	metered
}

func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return meteredConn{c, l.metered}, nil
}

type meteredConn struct {
	net.Conn
	metered
}

func (c meteredConn) Write(b []byte) (int, error) {
	if c.rate > 0 {
		<-time.After(time.Duration(int64(len(b)) * int64(time.Second) / c.rate))
	}
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// A compose file of 500 containers is 500 changes on one host. They are everywhere at
// once, and what is sent follows the size of the last state, not the number of changes.
func TestBurstIsEverywhereAtOnce(t *testing.T) {
	const changes, hosts = 500, 10
	if raceEnabled {
		t.Skip("signs and checks 500 large documents, which takes minutes under the race detector")
	}
	virtual(t, func(t *testing.T) {
		var written atomic.Int64
		m := newRealMeshOn(t, hosts, func(n meshnet.Network) meshnet.Network {
			return metered{n, &written, 100e6 / 8} // 100 Mbit/s
		})
		all := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
		within(t, 10*time.Second, "equal", func() bool { return m.equal(all...) })
		written.Store(0)
		var endpoints []catalog.Endpoint
		var last catalog.Record
		for i := range changes {
			endpoints = append(endpoints, catalog.Endpoint{
				ID: fmt.Sprintf("%012x", i), Name: fmt.Sprintf("project-web-%d", i), Service: "web",
				Created: catalog.Millis(time.Now().UnixMilli()), Health: catalog.Healthy,
				Attachments: []catalog.Attachment{{Network: "appnet", Index: uint32(8 + i), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)}},
			})
			last = m.document(3, uint64(2+i), endpoints...)
			m.publish(3, last)
			<-time.After(2 * time.Millisecond)
		}
		took := within(t, 2*time.Second, "500 changes everywhere", func() bool { return m.equal(all...) })
		ratio := float64(written.Load()) / float64(len(last.Body)*(hosts-1))
		t.Logf("%d changes are on %d hosts %v after the last, for %.1f MB in all: %.1f times the last state for each host",
			changes, hosts, took, float64(written.Load())/1e6, ratio)
		if ratio > 100 { // each change by itself to each host once would be 250
			t.Errorf("%.0f times the last state was sent to each host", ratio)
		}
	})
}

// A host that was away for a week catches up by one exchange, and another one costs nothing.
func TestAWeekAwayIsOneExchange(t *testing.T) {
	virtual(t, func(t *testing.T) {
		var written atomic.Int64
		m := newRealMeshOn(t, 2, func(n meshnet.Network) meshnet.Network { return metered{n, &written, 0} })
		within(t, 10*time.Second, "equal", func() bool { return m.equal(0, 1) })
		m.part()
		size := 0
		for i := range 300 {
			r := m.joined(i, 4)
			for _, x := range r {
				size += len(x.Body)
			}
			m.store(i%2, r...)
		}
		exchange := func() int64 {
			before := written.Load()
			ctx, cancel := context.WithTimeout(context.Background(), stretch(20*time.Second))
			defer cancel()
			if err := m.nodes[0].Catchup(ctx, m.peers[1]); err != nil {
				t.Fatal(err)
			}
			return written.Load() - before
		}
		cost := exchange()
		if !m.equal(0, 1) {
			t.Error("not equal after one exchange")
		}
		m.store(1, m.document(1, 2))
		one := exchange()
		none := exchange()
		t.Logf("300 new members, %d kB of records: %d kB; then for one change %d bytes, for none %d", size/1000, cost/1000, one, none)
		if !m.equal(0, 1) || one > 6000 || none > 400 {
			t.Errorf("one change costs %d bytes, none %d", one, none)
		}
	})
}
