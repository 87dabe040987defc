package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/overlay"
)

const mtu = 1370

// lab is two mesh namespaces joined by a veth that stands for WireGuard, and
// endpoints on each.
type lab struct {
	mesh  [2]string
	vtep  [2]netip.Addr
	cfg   [2]overlay.Config
	nodes map[string]string // namespace paths of endpoints by name
}

func newLab(t *testing.T) *lab {
	l := &lab{nodes: make(map[string]string)}
	for i := range l.mesh {
		l.mesh[i] = linktest.Namespace(t, fmt.Sprintf("mesh%d", i))
		l.vtep[i] = netip.MustParseAddr(fmt.Sprintf("fd00:1:2::%d", i+1))
		l.cfg[i].Local = l.vtep[i]
	}
	linktest.Must(t, l.mesh[0], "ip link add wire mtu 1440 type veth peer name wire netns "+l.mesh[1])
	for i, path := range l.mesh {
		linktest.Must(t, path, fmt.Sprintf("ip addr add %s/64 dev wire nodad", l.vtep[i]))
		linktest.Must(t, path, "ip link set wire mtu 1440 up")
	}
	return l
}

// network adds a network to both hosts.
func (l *lab) network(name string, vni uint32) {
	for i := range l.cfg {
		l.cfg[i].Networks = append(l.cfg[i].Networks, overlay.Network{
			Name: name, VNI: vni, MTU: mtu, Remotes: []netip.Addr{l.vtep[1-i]},
		})
	}
}

// endpoint adds an endpoint to the host's n-th network, number of which makes
// its addresses, and tells the other host of it.
func (l *lab) endpoint(t *testing.T, name string, host, network int, number byte) {
	t.Helper()
	l.nodes[name] = linktest.Namespace(t, name)
	v4 := netip.AddrFrom4([4]byte{10, 50, 0, number})
	v6 := netip.MustParseAddr(fmt.Sprintf("fd50::%x", number))
	mac := net.HardwareAddr{2, 0x50, 0, byte(network), byte(host), number}
	here, there := &l.cfg[host].Networks[network], &l.cfg[1-host].Networks[network]
	here.Ports = append(here.Ports, overlay.Port{
		Endpoint: fmt.Sprintf("%012x", len(l.nodes)), Namespace: l.nodes[name], Interface: "eth0", MAC: mac,
		Addresses: []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)},
	})
	there.Neighbors = append(there.Neighbors, overlay.Neighbor{IP: []netip.Addr{v4, v6}, MAC: mac, VTEP: l.vtep[host]})
}

func (l *lab) apply(t *testing.T) {
	t.Helper()
	for i := range l.mesh {
		if err := overlay.New(overlay.Options{MeshNamespace: l.mesh[i]}).Apply(t.Context(), l.cfg[i]); err != nil {
			t.Fatalf("host %d: %v", i, err)
		}
	}
}

// twoByTwo is two networks with the same subnet on two hosts: a and b on the
// first, c and d on the second, where c has the address that b has.
func twoByTwo(t *testing.T) *lab {
	l := newLab(t)
	l.network("red", 0x101)
	l.network("blue", 0x102)
	l.endpoint(t, "a", 0, 0, 11)
	l.endpoint(t, "b", 1, 0, 12)
	l.endpoint(t, "c", 0, 1, 13)
	l.endpoint(t, "d", 1, 1, 12)
	l.endpoint(t, "e", 0, 0, 14)
	l.apply(t)
	return l
}

func TestEndpointsReachEachOther(t *testing.T) {
	l := twoByTwo(t)
	for _, size := range []int{100, mtu} {
		linktest.Ping(t, l.nodes["a"], "10.50.0.12", size)
		linktest.Ping(t, l.nodes["a"], "fd50::c", size)
		linktest.Ping(t, l.nodes["a"], "10.50.0.14", size)
		linktest.Ping(t, l.nodes["d"], "10.50.0.13", size)
		linktest.Ping(t, l.nodes["d"], "fd50::d", size)
	}
	if err := linktest.TryPing(l.nodes["a"], "10.50.0.12", mtu+1, 300*time.Millisecond); err == nil {
		t.Error("a packet above the MTU went through whole")
	}
}

// An endpoint's name server listens on loopback, which is down in a new namespace, and without IPv6 in
// one of Docker's.
func TestLoopbackIsUp(t *testing.T) {
	l := newLab(t)
	l.network("red", 0x101)
	l.endpoint(t, "a", 0, 0, 11)
	linktest.Must(t, l.nodes["a"], "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1")
	linktest.Must(t, l.nodes["a"], "ip link set lo down")
	if err := linktest.TryPing(l.nodes["a"], "127.0.0.1", 100, 300*time.Millisecond); err == nil {
		t.Fatal("loopback is not down")
	}
	l.apply(t)
	linktest.Ping(t, l.nodes["a"], "127.0.0.1", 100)
	linktest.Ping(t, l.nodes["a"], "::1", 100)
	linktest.Ping(t, l.nodes["a"], "fd50::b", 100)
}

func TestNetworksAreIsolated(t *testing.T) {
	l := twoByTwo(t)
	for _, unreachable := range []string{"10.50.0.13", "fd50::d"} { // c, on the other network
		if err := linktest.TryPing(l.nodes["a"], unreachable, 100, time.Second); err == nil {
			t.Errorf("a reaches %s of the other network", unreachable)
		}
	}
	hear := listen(t, l.nodes["c"], "udp4", "0.0.0.0:7000")
	hearToo := listen(t, l.nodes["b"], "udp4", "0.0.0.0:7000")
	heard(t, hearToo, l.nodes["a"], "udp4", "10.50.0.255:7000")
	_ = hear.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, _, err := hear.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes of a broadcast reached the other network", n)
	}
}

func TestEndpointCannotReachTheMeshItself(t *testing.T) {
	l := twoByTwo(t)
	bridge := strings.TrimSpace(linktest.Must(t, l.mesh[0], "cat /proc/sys/net/ipv6/conf/br000101/disable_ipv6"))
	if bridge != "0" {
		t.Fatal("IPv6 is off on the bridge; then this test tests nothing")
	}
	mac := bridgeMAC(t, l.mesh[0], "br000101")
	linktest.Must(t, l.nodes["a"], "ip -6 route add fd00:1:2::1/128 dev eth0")
	linktest.Must(t, l.nodes["a"], "ip -6 neigh replace fd00:1:2::1 lladdr "+mac+" dev eth0")
	gossip := listen(t, l.mesh[0], "udp6", "[fd00:1:2::1]:7946")
	send(t, l.nodes["a"], "udp6", "[fd00:1:2::1]:7946")
	_ = gossip.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, _, err := gossip.ReadFrom(make([]byte, 100)); err == nil {
		t.Error("an endpoint reaches a socket on the mesh address of its host")
	}
	out := linktest.Must(t, l.mesh[0], "nft list table inet meshd-overlay")
	if !strings.Contains(out, `iifname "br*" drop`) {
		t.Errorf("the guard is not as meant:\n%s", out)
	}
}

func TestBroadcastAndMulticast(t *testing.T) {
	l := twoByTwo(t)
	for _, node := range []string{"b", "e"} {
		broadcast := listen(t, l.nodes[node], "udp4", "0.0.0.0:7001")
		heard(t, broadcast, l.nodes["a"], "udp4", "10.50.0.255:7001")
		group4 := join(t, l.nodes[node], "udp4", "239.1.2.3:7002")
		heard(t, group4, l.nodes["a"], "udp4", "239.1.2.3:7002")
		group6 := join(t, l.nodes[node], "udp6", "[ff05::1:3]:7003")
		heard(t, group6, l.nodes["a"], "udp6", "[ff05::1:3%eth0]:7003")
	}
}

// Known neighbours are answered for on the host, so a question crosses the wire only
// for an address that nobody told us of.
func TestNeighboursAreAnsweredLocallyAndUnknownOnesAreAskedFor(t *testing.T) {
	l := twoByTwo(t)
	linktest.Must(t, l.mesh[0], "ip link set wire down")
	for _, question := range [][2]string{{"10.50.0.12", "ip neigh show"}, {"fd50::c", "ip -6 neigh show"}} {
		linktest.Eventually(t, question[0]+" is answered for", func() bool {
			_ = linktest.TryPing(l.nodes["a"], question[0], 100, 100*time.Millisecond) // nobody answers; it asks
			return strings.Contains(linktest.Must(t, l.nodes["a"], question[1]), question[0]+" dev eth0 lladdr 02:50:00:00:01:0c")
		})
	}
	linktest.Must(t, l.mesh[0], "ip link set wire up")
	linktest.Must(t, l.mesh[0], fmt.Sprintf("ip addr replace %s/64 dev wire nodad", l.vtep[0]))
	linktest.Must(t, l.nodes["b"], "ip addr add 10.50.0.99/24 dev eth0")
	linktest.Must(t, l.nodes["b"], "ip addr add fd50::99/64 dev eth0 nodad")
	linktest.Ping(t, l.nodes["a"], "10.50.0.99", 100)
	linktest.Ping(t, l.nodes["a"], "fd50::99", 100)
}

func TestForgedSourceIsDropped(t *testing.T) {
	l := twoByTwo(t)
	linktest.Ping(t, l.nodes["a"], "10.50.0.14", 100)
	linktest.Must(t, l.nodes["a"], "ip link set eth0 address 02:66:66:66:66:66")
	if err := linktest.TryPing(l.nodes["a"], "10.50.0.14", 100, 500*time.Millisecond); err == nil {
		t.Error("frames with a forged MAC pass")
	}
	l.apply(t)
	linktest.Ping(t, l.nodes["a"], "10.50.0.14", 100)
}

func TestSecondApplyByAFreshManagerChangesNothing(t *testing.T) {
	l := twoByTwo(t)
	settle(t, l)
	events := linktest.Events(t, func() { l.apply(t) },
		l.mesh[0], l.mesh[1], l.nodes["a"], l.nodes["b"], l.nodes["c"], l.nodes["d"])
	if len(events) != 0 {
		t.Errorf("the second Apply changed %q", events)
	}
}

func TestTrafficGoesOnWhileAFreshManagerApplies(t *testing.T) {
	l := twoByTwo(t)
	linktest.Ping(t, l.nodes["a"], "10.50.0.12", 100)
	ctx, cancel := context.WithCancel(t.Context())
	lost := make(chan int, 1)
	go func() { lost <- countLost(ctx, l.nodes["a"], "10.50.0.12") }()
	for range 10 {
		l.apply(t)
	}
	cancel()
	if n := <-lost; n != 0 {
		t.Errorf("%d pings were lost", n)
	}
}

func TestEndpointMovesToAnotherHostAndChangesAreFollowed(t *testing.T) {
	l := twoByTwo(t)
	linktest.Ping(t, l.nodes["a"], "10.50.0.12", 100)
	// b ends, and its address and MAC come back beside a.
	port := l.cfg[1].Networks[0].Ports[0]
	l.cfg[1].Networks[0].Ports = nil
	l.cfg[1].Networks[0].Neighbors = append(l.cfg[1].Networks[0].Neighbors, l.cfg[0].Networks[0].Neighbors[0])
	l.cfg[1].Networks[0].Neighbors[2].VTEP = l.vtep[0]
	l.cfg[0].Networks[0].Neighbors = nil
	port.Namespace = linktest.Namespace(t, "b2")
	l.cfg[0].Networks[0].Ports = append(l.cfg[0].Networks[0].Ports, port)
	l.apply(t)
	linktest.Ping(t, l.nodes["a"], "10.50.0.12", mtu)
	linktest.Ping(t, port.Namespace, "fd50::b", mtu)
	if out := linktest.Must(t, l.nodes["b"], "ip link"); strings.Contains(out, "eth0") {
		t.Errorf("b kept its interface:\n%s", out)
	}
}

func TestDamageIsMended(t *testing.T) {
	l := twoByTwo(t)
	for _, damage := range []string{
		"ip link del br000101", "ip link del vx000101", "ip link set br000101 down", "ip link set vx000101 nomaster",
		"bridge link set dev vx000101 neigh_suppress off learning on", "ip neigh flush dev br000101 nud permanent",
		"ip link set vx000101 mtu 1000", "nft delete table inet meshd-overlay", "sysctl -w net.ipv4.ip_forward=1",
		"ip link set " + overlay.PortName("000000000001", "red") + " nomaster",
	} {
		linktest.Must(t, l.mesh[0], damage)
		l.apply(t)
		linktest.Ping(t, l.nodes["a"], "10.50.0.12", mtu)
		linktest.Ping(t, l.nodes["b"], "fd50::b", mtu)
	}
	settle(t, l)
	if events := linktest.Events(t, func() { l.apply(t) }, l.mesh[0]); len(events) != 0 {
		t.Errorf("not all was mended at once: %q", events)
	}
}

func TestVanishedNamespaceDoesNotStopTheOthers(t *testing.T) {
	l := twoByTwo(t)
	if err := netns.Delete(l.nodes["a"]); err != nil {
		t.Fatal(err)
	}
	l.cfg[0].Networks[0].Ports[1].Addresses[0] = netip.MustParsePrefix("10.50.0.44/24")
	err := overlay.New(overlay.Options{MeshNamespace: l.mesh[0]}).Apply(t.Context(), l.cfg[0])
	if !errors.Is(err, netns.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	linktest.Ping(t, l.nodes["b"], "10.50.0.44", 100)
}

func TestZeroConfigLeavesNothing(t *testing.T) {
	l := twoByTwo(t)
	l.cfg[0] = overlay.Config{}
	l.apply(t)
	// Some kernels put more than lo into every new namespace (sit0, tunl0).
	out, fresh := linktest.Must(t, l.mesh[0], "ip -o link"), linktest.Must(t, linktest.Namespace(t, "fresh"), "ip -o link")
	if strings.Count(out, "\n") != strings.Count(fresh, "\n")+1 || !strings.Contains(out, "wire@") {
		t.Errorf("got\n%swant wire, and nothing else but\n%s", out, fresh)
	}
	if out := linktest.Must(t, l.mesh[0], "nft list tables"); out != "" {
		t.Errorf("this stayed: %s", out)
	}
	for _, node := range []string{"a", "c", "e"} {
		if out := linktest.Must(t, l.nodes[node], "ip -o link"); strings.Contains(out, "eth0") {
			t.Errorf("%s kept its interface", node)
		}
	}
}

// What names no interface stays on the network, wherever the default route leads.
func TestMulticastAndBroadcastStayOnTheNetwork(t *testing.T) {
	l := twoByTwo(t)
	a := l.nodes["a"]
	linktest.Must(t, a, "ip link add away type veth peer name nowhere")
	linktest.Must(t, a, "ip link set away up")
	linktest.Must(t, a, "ip route add default dev away")
	for _, to := range []string{"239.1.2.3", "255.255.255.255"} {
		if out := linktest.Must(t, a, "ip route get "+to); !strings.Contains(out, " dev eth0 src 10.50.0.11 ") {
			t.Errorf("%s: %s", to, out)
		}
	}
}

func TestWithoutMeshNamespace(t *testing.T) {
	m := overlay.New(overlay.Options{MeshNamespace: t.TempDir() + "/none"})
	if err := m.Apply(t.Context(), overlay.Config{}); err != nil {
		t.Error(err)
	}
	err := m.Apply(t.Context(), overlay.Config{Networks: []overlay.Network{{Name: "x", VNI: 1}}})
	if !errors.Is(err, netns.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestTwoThousandNeighboursAreQuick(t *testing.T) {
	l := newLab(t)
	l.network("red", 0x101)
	l.endpoint(t, "a", 0, 0, 11)
	red := &l.cfg[0].Networks[0]
	for i := range 2000 {
		high, low := byte(i/200), byte(i%200+20)
		red.Neighbors = append(red.Neighbors, overlay.Neighbor{
			IP:  []netip.Addr{netip.AddrFrom4([4]byte{10, 50, high, low}), netip.MustParseAddr(fmt.Sprintf("fd50::%x:%x", high, low))},
			MAC: net.HardwareAddr{2, 0, 0, 9, high, low}, VTEP: l.vtep[1],
		})
	}
	m := overlay.New(overlay.Options{MeshNamespace: l.mesh[0]})
	took := func() time.Duration { // of the processor: how busy the machine is says nothing
		before := processorTime(t)
		if err := m.Apply(t.Context(), l.cfg[0]); err != nil {
			t.Fatal(err)
		}
		return processorTime(t) - before
	}
	first, second := took(), time.Duration(0)
	events := linktest.Events(t, func() { second = took() }, l.mesh[0])
	if len(events) != 0 {
		t.Errorf("the second Apply changed %q", events)
	}
	t.Logf("2,000 neighbours: first Apply %s, unchanged %s", first, second)
	if first > 2*time.Second || second > time.Second {
		t.Errorf("too slow: %s, then %s", first, second)
	}
}
