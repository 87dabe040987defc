package ingress

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
)

// BenchmarkReturnPath is one pass over one replica, with 300 hosts through which connections may come:
// nothing to do, and one host that comes and goes.
func BenchmarkReturnPath(b *testing.B) {
	linktest.RequireRoot(b)
	path := linktest.Namespace(b, "replica")
	linktest.Must(b, path, "ip link add ing0 type veth peer name far")
	for _, name := range []string{"ing0", "far"} {
		linktest.Must(b, path, "ip link set "+name+" up")
	}
	want := Replica{
		Endpoint: "r", Namespace: path, Interface: "ing0", UDPPorts: []uint16{53},
		Address4: netip.MustParseAddr("10.9.0.1"), Address6: netip.MustParseAddr("fd09::1"),
	}
	for i := range 300 {
		want.Via = append(want.Via, IngressHost{
			netip.AddrFrom4([4]byte{10, 9, 1 + byte(i>>8), byte(i)}), net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)},
		})
	}
	a := New(Options{})
	b.Cleanup(a.Close)
	apply := func(r Replica) {
		if err := a.Apply(context.Background(), Config{Replicas: []Replica{r}}); err != nil {
			b.Fatal(err)
		}
	}
	apply(want)
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			apply(want)
		}
	})
	less := want
	less.Via = want.Via[1:]
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			apply(less)
			apply(want)
		}
	})
}
