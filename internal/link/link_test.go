package link_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/link/linktest"
)

func veth() link.Veth {
	return link.Veth{
		Outer:          "outer",
		OuterAddresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64")},
		Inner:          "eth0",
		MAC:            net.HardwareAddr{2, 0, 0, 0, 0, 7},
		Addresses:      []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24"), netip.MustParsePrefix("fd09::2/64")},
		MTU:            1400,
	}
}

func ensure(t *testing.T, outer, inner string, v link.Veth) (link.Pair, error) {
	t.Helper()
	return linktest.Open(t, outer).EnsureVeth(linktest.Open(t, inner), v, nil)
}

func TestVethCarriesAndSecondEnsureChangesNothing(t *testing.T) {
	outer, inner := linktest.Namespace(t, "outer"), linktest.Namespace(t, "inner")
	// As Docker leaves its containers.
	linktest.Must(t, inner, "sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	if pair, err := ensure(t, outer, inner, veth()); err != nil || !pair.Created {
		t.Fatalf("first: created %v, %v", pair.Created, err)
	}
	linktest.Ping(t, outer, "10.9.0.2", 1400)
	linktest.Ping(t, outer, "fd09::2", 1400)
	linktest.Settle(t, outer, 1)
	linktest.Settle(t, inner, 1)
	events := linktest.Events(t, func() {
		if pair, err := ensure(t, outer, inner, veth()); err != nil || pair.Created {
			t.Fatalf("second: created %v, %v", pair.Created, err)
		}
	}, outer, inner)
	if len(events) != 0 {
		t.Errorf("the second call changed %q", events)
	}
}

func TestVethIsMended(t *testing.T) {
	outer, inner := linktest.Namespace(t, "outer"), linktest.Namespace(t, "inner")
	if _, err := ensure(t, outer, inner, veth()); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{
		"ip addr flush dev eth0",
		"ip link set eth0 down",
		"ip link set eth0 mtu 1000",
		"ip link set eth0 address 02:00:00:00:00:99",
		"ip link del eth0",
		"ip link set eth0 name eth7",
		"ip addr add 10.8.0.1/24 dev eth0",
	} {
		linktest.Must(t, inner, damage)
		if _, err := ensure(t, outer, inner, veth()); err != nil {
			t.Fatalf("after %s: %v", damage, err)
		}
		linktest.Ping(t, outer, "10.9.0.2", 1400)
		linktest.Ping(t, outer, "fd09::2", 100)
	}
	if out := linktest.Must(t, inner, "ip addr show dev eth0"); strings.Contains(out, "10.8.0.1") {
		t.Errorf("a foreign address stayed:\n%s", out)
	}
}

func TestAddressChangeWithinSubnetKeepsTheNewOne(t *testing.T) {
	outer, inner := linktest.Namespace(t, "outer"), linktest.Namespace(t, "inner")
	v := veth()
	if _, err := ensure(t, outer, inner, v); err != nil {
		t.Fatal(err)
	}
	v.Addresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.3/24")}
	if _, err := ensure(t, outer, inner, v); err != nil {
		t.Fatal(err)
	}
	linktest.Ping(t, outer, "10.9.0.3", 100)
}

func TestPairIntoAnotherNamespaceIsReplaced(t *testing.T) {
	outer, old, inner := linktest.Namespace(t, "outer"), linktest.Namespace(t, "old"), linktest.Namespace(t, "inner")
	if _, err := ensure(t, outer, old, veth()); err != nil {
		t.Fatal(err)
	}
	if pair, err := ensure(t, outer, inner, veth()); err != nil || !pair.Created {
		t.Fatalf("created %v, %v", pair.Created, err)
	}
	linktest.Ping(t, outer, "10.9.0.2", 100)
}

func TestForeignInterfaceIsLeftAlone(t *testing.T) {
	outer, inner := linktest.Namespace(t, "outer"), linktest.Namespace(t, "inner")
	linktest.Must(t, inner, "ip link add eth0 type veth peer name other")
	if _, err := ensure(t, outer, inner, veth()); !errors.Is(err, link.ErrTaken) {
		t.Fatalf("got %v", err)
	}
	linktest.Must(t, inner, "ip link show other")
}

func TestRoutes(t *testing.T) {
	outer, inner := linktest.Namespace(t, "outer"), linktest.Namespace(t, "inner")
	pair, err := ensure(t, outer, inner, veth())
	if err != nil {
		t.Fatal(err)
	}
	linktest.Settle(t, inner, 1)
	n := linktest.Open(t, inner)
	routes := []link.Route{
		{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.9.0.1")},
		{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd09::1")},
		{To: netip.MustParsePrefix("10.77.0.0/16")},
	}
	if err := n.EnsureRoutes(pair.Inner, routes); err != nil {
		t.Fatal(err)
	}
	events := linktest.Events(t, func() {
		if err := n.EnsureRoutes(pair.Inner, routes); err != nil {
			t.Fatal(err)
		}
	}, inner)
	if len(events) != 0 {
		t.Errorf("the second call changed %q", events)
	}
	if err := n.EnsureRoutes(pair.Inner, nil); err != nil {
		t.Fatal(err)
	}
	if out := linktest.Must(t, inner, "ip route") + linktest.Must(t, inner, "ip -6 route"); strings.Contains(out, "default") {
		t.Errorf("routes stayed:\n%s", out)
	}
}

func TestPortFlags(t *testing.T) {
	path := linktest.Namespace(t, "ns")
	n := linktest.Open(t, path)
	bridge, err := n.EnsureBridge(nil, link.Bridge{Name: "br", MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	linktest.Must(t, path, "ip link add port type veth peer name peer")
	linktest.Must(t, path, "ip link set port master br")
	port, err := n.Link("port")
	if err != nil {
		t.Fatal(err)
	}
	want := link.PortFlags{NeighSuppress: true, Isolated: true, Locked: true}
	if err := n.EnsurePort(port, link.PortState{}, want); err != nil {
		t.Fatal(err)
	}
	ports, err := n.Ports()
	if err != nil {
		t.Fatal(err)
	}
	if got := ports[port.Attrs().Index].PortFlags; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	events := linktest.Events(t, func() {
		if err := n.EnsurePort(port, ports[port.Attrs().Index], want); err != nil {
			t.Fatal(err)
		}
		if _, err := n.EnsureBridge(bridge, link.Bridge{Name: "br", MTU: 1400}); err != nil {
			t.Fatal(err)
		}
	}, path)
	if len(events) != 0 {
		t.Errorf("the second call changed %q", events)
	}
}
