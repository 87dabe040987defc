package probe

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
)

// Real pings between two namespaces whose cable is pulled and put back.
func TestProber(t *testing.T) {
	linktest.RequireRoot(t)
	here, there := linktest.Namespace(t, "here"), linktest.Namespace(t, "there")
	linktest.Must(t, here, "ip link add eth0 type veth peer name far")
	a, b := linktest.Open(t, here), linktest.Open(t, there)
	far, err := a.Link("far")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().LinkSetNsFd(far, b.Handle().FD()); err != nil {
		t.Fatal(err)
	}
	for path, set := range map[string][2]string{here: {"eth0", "fd00:5::1"}, there: {"far", "fd00:5::2"}} {
		linktest.Must(t, path, "ip addr add "+set[1]+"/64 dev "+set[0]+" nodad")
		linktest.Must(t, path, "ip link set "+set[0]+" up")
	}
	linktest.Ping(t, here, "fd00:5::2", 64)

	p := New(Config{
		Open:    func() (Pinger, error) { return ICMP(here, netip.MustParseAddr("fd00:5::1")) },
		Targets: func() []Target { return []Target{{ID: "there", Address: netip.MustParseAddr("fd00:5::2")}} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	await := func(want State) time.Duration {
		began := time.Now()
		linktest.Eventually(t, "the other's state is as it should be", func() bool {
			state, _ := p.State("there")
			return state == want
		})
		return time.Since(began)
	}
	await(Up)
	linktest.Eventually(t, "the round trip is as short as it should be", func() bool {
		rtt := p.RTT("there")
		return rtt > 0 && rtt < time.Second
	})
	linktest.Must(t, there, "ip link set far down")
	t.Logf("down after %s", await(Down))
	<-p.Changed()
	linktest.Must(t, there, "ip link set far up")
	linktest.Must(t, there, "ip -6 addr replace fd00:5::2/64 dev far nodad")
	t.Logf("up after %s", await(Up))
	<-p.Changed()
	if state, _ := p.State("nobody"); state != Unknown {
		t.Errorf("a host that is not pinged is %v", state)
	}
}
