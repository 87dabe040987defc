package overlay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
)

// Tables that are taken for large are not read again while nobody touches them, and are as they should be
// again after somebody has.
func TestLargeTablesAreWatched(t *testing.T) {
	path := linktest.Namespace(t, "mesh")
	local := netip.MustParseAddr("fd00:1:2::1")
	linktest.Must(t, path, "ip link add wire type bridge")
	linktest.Must(t, path, fmt.Sprintf("ip addr add %s/64 dev wire nodad", local))
	linktest.Must(t, path, "ip link set wire up")
	neighbor := func(n byte) Neighbor {
		return Neighbor{
			IP:  []netip.Addr{netip.AddrFrom4([4]byte{10, 50, 0, n}), netip.MustParseAddr(fmt.Sprintf("fd50::%x", n))},
			MAC: net.HardwareAddr{2, 0x50, 0, 0, 0, n}, VTEP: netip.MustParseAddr("fd00:1:2::2"),
		}
	}
	cfg := Config{Local: local, Networks: []Network{{
		Name: "n", VNI: 77, MTU: 1370, Remotes: []netip.Addr{netip.MustParseAddr("fd00:1:2::2")}, Neighbors: []Neighbor{neighbor(2), neighbor(3)},
	}}}
	m := New(Options{MeshNamespace: path})
	t.Cleanup(m.Close)
	apply := func() {
		t.Helper()
		if err := m.Apply(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	tables := func() string {
		lines := strings.Split(linktest.Must(t, path, "bridge fdb show dev "+VXLANName(77))+linktest.Must(t, path, "ip neigh show dev "+BridgeName(77)), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	large := func() { m.known.took = time.Hour } // they are read once more, and watched from then on
	apply()
	large()
	apply()
	right, read := tables(), m.known.read
	m.known.took = time.Hour // a moment, in truth, but then they would be read each time
	apply()
	if m.known.read != read {
		t.Error("read again though nobody has touched them")
	}

	for _, harm := range []string{
		"bridge fdb del 02:50:00:00:00:02 dev " + VXLANName(77) + " self",
		"bridge fdb del 02:50:00:00:00:03 dev " + VXLANName(77) + " master",
		"ip neigh del 10.50.0.2 dev " + BridgeName(77),
		"ip neigh replace 10.50.0.3 lladdr 02:99:00:00:00:99 nud permanent dev " + BridgeName(77),
		"bridge fdb append 02:99:00:00:00:01 dev " + VXLANName(77) + " self dst fd00:1:2::9",
	} {
		linktest.Must(t, path, harm)
		linktest.Eventually(t, "the kernel tells of "+harm, m.known.watch.isTouched)
		apply()
		if got := tables(); got != right {
			t.Errorf("%s: the tables are\n%s\nnot\n%s", harm, got, right)
		}
		m.known.took = time.Hour
	}

	// What we change ourselves is no news, and needs no reading.
	read = m.known.read
	cfg.Networks[0].Neighbors = []Neighbor{neighbor(3), neighbor(4)}
	apply()
	if got := tables(); strings.Contains(got, "02:50:00:00:00:02") || !strings.Contains(got, "02:50:00:00:00:04") || !strings.Contains(got, "10.50.0.4") {
		t.Errorf("after a change:\n%s", got)
	}
	if m.known.read != read {
		t.Error("read again for a change of our own")
	}
}
