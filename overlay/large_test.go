package overlay_test

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/overlay"
)

var large = flag.Int("large", 0, "measure a network with the endpoints of so many hosts, 20 of each")

// TestLarge prints what applying a large network costs: at first, again, and after a change.
func TestLarge(t *testing.T) {
	if *large == 0 {
		t.Skip("a measurement: go test ./overlay -run TestLarge -v -large 1000")
	}
	l := newLab(t)
	l.network("large", 77)
	l.endpoint(t, "here", 0, 0, 1)
	n := &l.cfg[0].Networks[0]
	n.Remotes = nil
	for h := range *large {
		vtep := netip.AddrFrom16([16]byte{0: 0xfd, 6: 1, 14: byte(h >> 8), 15: byte(h)})
		n.Remotes = append(n.Remotes, vtep)
		for e := range 20 {
			n.Neighbors = append(n.Neighbors, overlay.Neighbor{
				IP: []netip.Addr{
					netip.AddrFrom4([4]byte{10, byte(64 + h>>8), byte(h), byte(e + 2)}),
					netip.AddrFrom16([16]byte{0: 0xfd, 5: 7, 13: byte(e), 14: byte(h >> 8), 15: byte(h)}),
				},
				MAC:  net.HardwareAddr{2, 0x60, byte(e), 0, byte(h >> 8), byte(h)},
				VTEP: vtep,
			})
		}
	}
	m := overlay.New(overlay.Options{MeshNamespace: l.mesh[0]})
	apply := func(what string) {
		began, before := time.Now(), processorTime(t)
		if err := m.Apply(context.Background(), l.cfg[0]); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s, of which the processor %s", what, time.Since(began).Round(time.Millisecond), (processorTime(t) - before).Round(time.Millisecond))
	}
	apply("at first")
	apply("again")
	apply("and again")
	n.Neighbors[7].MAC[5] ^= 0x80
	apply("after a change")
	apply("after that")
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
