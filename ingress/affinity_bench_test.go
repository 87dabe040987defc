package ingress

import (
	"context"
	"net/netip"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
)

// BenchmarkAffinityChange is one replica that leaves one of a hundred services with affinity, and comes back.
func BenchmarkAffinityChange(b *testing.B) {
	linktest.RequireRoot(b)
	path := linktest.Namespace(b, "client")
	a := New(Options{})
	b.Cleanup(a.Close)
	services := func(replicas int) []VirtualIP {
		var four, six []VirtualIP
		for i := range 100 {
			v4 := VirtualIP{Address: netip.AddrFrom4([4]byte{10, 1, 255, byte(i)}), ByClient: true}
			v6 := VirtualIP{Address: netip.MustParseAddr("fd01::ff00"), ByClient: true}
			n16 := v6.Address.As16()
			n16[15] = byte(i)
			v6.Address = netip.AddrFrom16(n16)
			n := 3
			if i == 50 {
				n = replicas
			}
			for r := range n {
				v4.Replicas = append(v4.Replicas, netip.AddrFrom4([4]byte{10, 1, byte(i), byte(r + 1)}))
				n16[14], n16[15] = byte(i), byte(r+1)
				v6.Replicas = append(v6.Replicas, netip.AddrFrom16(n16))
			}
			four, six = append(four, v4), append(six, v6)
		}
		return append(four, six...)
	}
	apply := func(replicas int) {
		if err := a.Apply(context.Background(), Config{Clients: []Client{{Endpoint: "c", Namespace: path, Services: services(replicas)}}}); err != nil {
			b.Fatal(err)
		}
	}
	apply(3)
	for b.Loop() {
		apply(2)
		apply(3)
	}
}
