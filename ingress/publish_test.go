package ingress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
	"golang.org/x/sys/unix"
)

// A publishLab is a host (the tests' own namespace) and two replicas on the ingress network, and a client outside.
type publishLab struct {
	*segment
	outside, replica, other string
}

// uplink is the host's interface on the ingress network.
const uplink = "meshd-in"

const (
	hostAddress4, hostAddress6      = "192.0.2.1", "2001:db8::1"
	clientAddress4, clientAddress6  = "192.0.2.2", "2001:db8::2"
	endpointGateway4, endpointOnGW4 = "192.0.2.65", "192.0.2.66"
	endpointGateway6, endpointOnGW6 = "2001:db8:1::1", "2001:db8:1::2"
	publishedPort, targetPort       = 8080, 80
	emptyPort                       = 8081
	boundPort                       = 90
)

func newPublishLab(t *testing.T) publishLab {
	t.Helper()
	lab := publishLab{segment: newSegment(t, "91")}
	lab.plug(t, netns.Host, uplink, 100)
	for i, name := range []string{"a", "b"} {
		path := linktest.Namespace(t, name)
		lab.plug(t, path, "ing0", i+1)
		serve(t, path, name, targetPort)
		if name == "a" {
			lab.replica = path
		} else {
			lab.other = path
		}
	}
	lab.outside = linktest.Namespace(t, "outside")
	// out0 leads to the client; gw0 stands in for an endpoint's way through the host.
	hostLink(t, "out0", lab.outside, "eth0", hostAddress4+"/26", hostAddress6+"/64", clientAddress4+"/26", clientAddress6+"/64")
	hostLink(t, "gw0", lab.replica, "gw0", endpointGateway4+"/26", endpointGateway6+"/64", endpointOnGW4+"/26", endpointOnGW6+"/64")
	linktest.Must(t, lab.replica, "ip route add default via "+endpointGateway4)
	linktest.Must(t, lab.replica, "ip -6 route add default via "+endpointGateway6)
	// As package gateway does: an endpoint's address there means nothing to others. Not by
	// iptables, which the tests flush.
	hostCommand(t, "nft add table inet lab")
	t.Cleanup(func() { hostCommand(t, "nft delete table inet lab") })
	hostCommand(t, "nft add chain inet lab source { type nat hook postrouting priority 90 ; }")
	hostCommand(t, "nft add rule inet lab source ip saddr "+endpointOnGW4+" oifname != gw0 masquerade")
	hostCommand(t, "nft add rule inet lab source ip6 saddr "+endpointOnGW6+" oifname != gw0 masquerade")
	for _, family := range []string{"iptables", "ip6tables"} {
		hostCommand(t, family+" -P FORWARD DROP")
		t.Cleanup(func() { hostCommand(t, family+" -P FORWARD ACCEPT") })
	}
	return lab
}

// hostLink makes a veth from the host to a namespace, with an IPv4 and an IPv6 address at each end.
func hostLink(t *testing.T, outer, path, inner string, addresses ...string) {
	t.Helper()
	host, err := link.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	parse := func(list []string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	pair, err := host.EnsureVeth(linktest.Open(t, path), link.Veth{
		Outer: outer, Inner: inner, MTU: 1500,
		OuterAddresses: parse(addresses[:2]), Addresses: parse(addresses[2:]),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hostCommand(t, "ip link del "+pair.Outer.Attrs().Name) })
}

func (l publishLab) config() Config {
	via := []IngressHost{{Address4: l.addr4(100), MAC: plugMAC(100)}}
	backends := []netip.AddrPort{}
	for _, addr := range []netip.Addr{l.addr4(1), l.addr4(2), l.addr6(1), l.addr6(2)} {
		backends = append(backends, netip.AddrPortFrom(addr, targetPort))
	}
	var replicas []Replica
	for i, path := range []string{l.replica, l.other} {
		replicas = append(replicas, Replica{
			Endpoint: fmt.Sprint("r", i), Namespace: path, Interface: "ing0",
			Address4: l.addr4(i + 1), Address6: l.addr6(i + 1), UDPPorts: []uint16{targetPort}, Via: via,
		})
	}
	return Config{Replicas: replicas, Publish: Publish{
		Interface: uplink, Subnets: []netip.Prefix{netip.MustParsePrefix("10.91.0.0/24"), netip.MustParsePrefix("fd91::/64")},
		Ports: []Port{
			{Protocol: "tcp", Published: publishedPort, Backends: backends}, {Protocol: "tcp", Published: emptyPort},
			{Protocol: "udp", Published: publishedPort, Backends: backends}, {Protocol: "udp", Published: emptyPort},
		},
	}}
}

// withApplied applies the lab's Config and takes all of it back when the test ends.
func (l publishLab) withApplied(t *testing.T) *Applier {
	t.Helper()
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	mustApply(t, a, l.config())
	return a
}

func TestPublishedPort(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	lab.withApplied(t)
	ways := []struct{ name, from, to string }{
		{"from outside", lab.outside, hostAddress4},
		{"from outside, IPv6", lab.outside, hostAddress6},
		{"from the host to its address", "", hostAddress4},
		{"from the host to its address, IPv6", "", hostAddress6},
		{"from the host to localhost", "", "127.0.0.1"},
		{"from the host to localhost, IPv6", "", "::1"},
		{"from a replica to its own host", lab.replica, hostAddress4},
		{"from a replica to its own host, IPv6", lab.replica, hostAddress6},
	}
	for _, way := range ways {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(way.name+" "+network, func(t *testing.T) {
				count := map[string]int{}
				for range 40 {
					name, _, err := ask(way.from, network, net.JoinHostPort(way.to, fmt.Sprint(publishedPort)))
					if err != nil {
						t.Fatal(err)
					}
					count[name]++
				}
				if count["a"] < 4 || count["b"] < 4 { // 20 are expected with a deviation of 3
					t.Errorf("%v, want about 20 each", count)
				}
				_, _, err := ask(way.from, network, net.JoinHostPort(way.to, fmt.Sprint(emptyPort)))
				if !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("port without replicas: %v, want connection refused", err)
				}
			})
		}
	}
}

// A replica sees who asks, and its answers find their way back: without a route of its own (b), with a
// default route elsewhere (a), with strict reverse path filters, and from a UDP socket without an address.
func TestReplicaSeesClientAddress(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	for _, path := range []string{lab.replica, lab.other, netns.Host} {
		linktest.Must(t, path, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
	}
	t.Cleanup(func() { hostCommand(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0") })
	lab.withApplied(t)
	for _, way := range []struct{ from, to, want string }{
		{lab.outside, hostAddress4, clientAddress4},
		{lab.outside, hostAddress6, clientAddress6},
		{"", hostAddress4, hostAddress4},
		{"", hostAddress6, hostAddress6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			seen := map[string]bool{}
			for range 20 {
				name, peer := mustAsk(t, way.from, network, net.JoinHostPort(way.to, fmt.Sprint(publishedPort)))
				addr, err := netip.ParseAddrPort(peer)
				if err != nil || addr.Addr().Unmap().String() != way.want {
					t.Errorf("%s to %s: replica %s sees %s, want %s", network, way.to, name, peer, way.want)
				}
				seen[name] = true
			}
			if len(seen) < 2 {
				t.Errorf("%s to %s: only %v answered in 20 times", network, way.to, seen)
			}
		}
	}
}

// One client may have connections to several hosts from the same port: to the replica they would
// be one and the same. Both are answered, each through its own host.
func TestOneClientPortThroughTwoHosts(t *testing.T) {
	linktest.RequireRoot(t)
	s := newSegment(t, "92")
	replica := linktest.Namespace(t, "replica")
	s.plug(t, replica, "ing0", 1)
	serve(t, replica, "replica", targetPort)
	const client4, client6 = "198.51.100.7", "2001:db8:7::7"
	want := Replica{
		Endpoint: "r", Namespace: replica, Interface: "ing0",
		Address4: s.addr4(1), Address6: s.addr6(1), UDPPorts: []uint16{targetPort},
	}
	var hosts []string
	for i := range 2 {
		// A host that hands on what its client sends, without the client: it has its address itself.
		path := linktest.Namespace(t, fmt.Sprint("host", i))
		s.plug(t, path, "eth0", 101+i)
		linktest.Must(t, path, "ip addr add "+client4+"/32 dev lo")
		linktest.Must(t, path, "ip addr add "+client6+"/128 dev lo nodad")
		linktest.Must(t, path, "sysctl -qw net.ipv4.conf.all.arp_announce=2") // who hands on asks by an address of its own
		want.Via = append(want.Via, IngressHost{Address4: s.addr4(101 + i), MAC: plugMAC(101 + i)})
		hosts = append(hosts, path)
	}
	for _, address := range []netip.Addr{s.addr4(1), s.addr6(1)} {
		listenAt(t, replica, endpointOf(address, boundPort), tellPeer("bound"))
	}
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	mustApply(t, a, Config{Replicas: []Replica{want}})
	for client, address := range map[string]netip.Addr{client4: s.addr4(1), client6: s.addr6(1)} {
		for _, way := range []struct {
			network string
			port    int
			from    string // the client's port
			keeps   bool   // TCP keeps the client's port; to other sockets two peers with one address would be one
		}{{"tcp", targetPort, "5555", true}, {"udp", targetPort, "5555", false}, {"tcp", boundPort, "5556", false}} {
			network, ports := way.network, map[string]bool{}
			for i, path := range hosts {
				conn, err := dialFrom(path, network, net.JoinHostPort(client, way.from), endpointOf(address, way.port))
				if err != nil {
					t.Fatalf("%s %s through host %d: %v", network, address, i, err)
				}
				defer func() { _ = conn.Close() }()
				_, peer, err := exchange(conn)
				if err != nil || !strings.Contains(peer, client) {
					t.Errorf("%s %s through host %d: the replica saw %q, %v", network, address, i, peer, err)
				}
				if way.keeps && peer != net.JoinHostPort(client, way.from) || !way.keeps && ports[peer] {
					t.Errorf("%s %s through host %d: the replica saw %q (before: %v)", network, address, i, peer, ports)
				}
				ports[peer] = true
			}
		}
	}
}

// Sockets that listen at the replica's address on the network alone are reached as well, and see who asks.
func TestReplicaListensAtItsOwnAddress(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	for _, path := range []string{lab.replica, lab.other, netns.Host} {
		linktest.Must(t, path, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
	}
	t.Cleanup(func() { hostCommand(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0") })
	a := lab.withApplied(t)
	for _, address := range []netip.Addr{lab.addr4(1), lab.addr6(1)} {
		listenAt(t, lab.replica, endpointOf(address, boundPort), tellPeer("a"))
	}
	for _, address := range []netip.Addr{lab.addr4(2), lab.addr6(2)} {
		listenAt(t, lab.other, endpointOf(address, boundPort), tellPeer("b"))
	}
	config := lab.config()
	config.Publish.Ports[0].Backends = slices.Clone(config.Publish.Ports[0].Backends)
	for i, b := range config.Publish.Ports[0].Backends {
		config.Publish.Ports[0].Backends[i] = netip.AddrPortFrom(b.Addr(), boundPort)
	}
	for i := range config.Replicas {
		config.Replicas[i].UDPPorts = nil
	}
	mustApply(t, a, config)
	for _, way := range [][2]string{{hostAddress4, clientAddress4}, {hostAddress6, clientAddress6}} {
		seen := map[string]bool{}
		for range 20 {
			name, peer := mustAsk(t, lab.outside, "tcp", net.JoinHostPort(way[0], fmt.Sprint(publishedPort)))
			if addr, err := netip.ParseAddrPort(peer); err != nil || addr.Addr().Unmap().String() != way[1] {
				t.Errorf("%s: replica %s sees %s", way[0], name, peer)
			}
			seen[name] = true
		}
		if len(seen) < 2 {
			t.Errorf("%s: only %v answered in 20 times", way[0], seen)
		}
	}
}

// A router between the host and a client says that segments are too big for the way. That gets to the replica's connection.
func TestSegmentsTooBigForTheWay(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := lab.withApplied(t)
	const far4, far6, size = "198.51.100.2", "2001:db8:2::2", 300_000
	far := linktest.Namespace(t, "far")
	linktest.Must(t, lab.outside, "ip link add far0 type veth peer name eth0 netns "+far)
	for _, line := range []string{
		"ip addr add 198.51.100.1/24 dev far0", "ip addr add 2001:db8:2::1/64 dev far0 nodad", "ip link set far0 mtu 1280 up",
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
	} {
		linktest.Must(t, lab.outside, line)
	}
	// The client itself believes in 1500, so what it says of segments does not help.
	for _, line := range []string{
		"ip addr add " + far4 + "/24 dev eth0", "ip addr add " + far6 + "/64 dev eth0 nodad", "ip link set eth0 up",
		"ip route add default via 198.51.100.1", "ip -6 route add default via 2001:db8:2::1",
	} {
		linktest.Must(t, far, line)
	}
	hostCommand(t, "ip route add 198.51.100.0/24 via "+clientAddress4)
	hostCommand(t, "ip -6 route add 2001:db8:2::/64 via "+clientAddress6)
	for _, path := range []string{lab.replica, lab.other} {
		listenAt(t, path, fmt.Sprintf(":%d", targetPort+1), func(conn net.Conn) { _, _ = conn.Write(make([]byte, size)) })
	}
	config := lab.config()
	for i, b := range config.Publish.Ports[0].Backends {
		config.Publish.Ports[0].Backends[i] = netip.AddrPortFrom(b.Addr(), targetPort+1)
	}
	mustApply(t, a, config)
	for _, address := range []string{hostAddress4, hostAddress6} {
		conn, err := dial(far, "tcp", net.JoinHostPort(address, fmt.Sprint(publishedPort)))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		n, err := io.Copy(io.Discard, conn)
		_ = conn.Close()
		if n != size || err != nil {
			t.Errorf("%s: %d bytes arrived, want %d; %v", address, n, size, err)
		}
	}
}

// A firewall in a replica's namespace refuses connections by ICMP: their clients are told. (The kernel sends errors of IPv6 only
// where the namespace has some route to them: so of the two replicas, this is about the one that has.)
func TestReplicaRefusesByICMP(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := lab.withApplied(t)
	config := lab.config()
	all := config.Publish.Ports[0].Backends
	config.Publish.Ports[0].Backends = []netip.AddrPort{all[0], all[2]}
	mustApply(t, a, config)
	linktest.Must(t, lab.replica, "nft add table inet wall")
	linktest.Must(t, lab.replica, "nft add chain inet wall input { type filter hook input priority 0 ; }")
	linktest.Must(t, lab.replica, "nft add rule inet wall input tcp dport "+fmt.Sprint(targetPort)+" reject with icmpx type port-unreachable")
	for _, tracked := range []bool{false, true} {
		if tracked {
			mustApply(t, a, config) // which finds the wall
		}
		for _, address := range []string{hostAddress4, hostAddress6} {
			if _, _, err := ask(lab.outside, "tcp", net.JoinHostPort(address, fmt.Sprint(publishedPort))); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, tracked %v: %v, want connection refused", address, tracked, err)
			}
		}
	}
}

// A replica with a firewall of its own, which knows connections by conntrack, is reached as any other; in others conntrack has
// nothing to do.
func TestReplicaWithFirewall(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := lab.withApplied(t)
	askAll := func() {
		t.Helper()
		for _, address := range []string{hostAddress4, hostAddress6} {
			for _, network := range []string{"tcp", "udp"} {
				for range 10 {
					mustAsk(t, lab.outside, network, net.JoinHostPort(address, fmt.Sprint(publishedPort)))
				}
			}
		}
	}
	known := func() int {
		h, err := netns.Open(lab.other)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = h.Close() }()
		n := 0
		if _, err := forget(h, func(f flow) bool {
			if f.protocol == unix.IPPROTO_TCP {
				n++
			}
			return false
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	askAll()
	if n := known(); n != 0 {
		t.Errorf("conntrack knows %d connections", n)
	}
	for _, line := range []string{
		"table inet wall", "chain inet wall input { type filter hook input priority 0 ; policy drop ; }",
		"chain inet wall output { type filter hook output priority 0 ; policy drop ; }",
		"rule inet wall input ct state established,related accept", "rule inet wall input icmpv6 type 133-136 accept",
		"rule inet wall input meta l4proto { tcp, udp } ct state new th dport " + fmt.Sprint(targetPort) + " accept",
		"rule inet wall output ct state established,related accept", "rule inet wall output icmpv6 type 133-136 accept",
	} {
		linktest.Must(t, lab.other, "nft add "+line)
	}
	mustApply(t, a, lab.config())
	askAll()
	if n := known(); n == 0 {
		t.Error("conntrack knows no connections")
	}
	linktest.Must(t, lab.other, "nft delete table inet wall")
	// As Docker has them for its name server: they are nothing to us.
	linktest.Must(t, lab.other, "iptables -t nat -A OUTPUT -d 127.0.0.11 -j RETURN")
	linktest.Must(t, lab.other, "iptables -t nat -A POSTROUTING -d 127.0.0.11 -j RETURN")
	mustApply(t, a, lab.config())
	if _, err := forgetAll(lab.other); err != nil {
		t.Fatal(err)
	}
	askAll()
	if n := known(); n != 0 {
		t.Errorf("conntrack knows %d connections after the firewall went", n)
	}
}

// forgetAll empties a namespace's conntrack.
func forgetAll(path string) (int, error) {
	h, err := netns.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = h.Close() }()
	ended, err := forget(h, func(flow) bool { return true })
	return len(ended), err
}

// Nothing of ours stays in a replica's namespace, and what somebody deletes there comes back.
func TestReturnPathRestoredAndRemoved(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	state := func() string {
		return linktest.Must(t, lab.other, "nft list ruleset") + linktest.Must(t, lab.other, "ip rule") +
			linktest.Must(t, lab.other, "ip -6 rule") + linktest.Must(t, lab.other, "ip route show table all proto 109") +
			linktest.Must(t, lab.other, "ip -6 route show table all proto 109")
	}
	clean := state()
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	mustApply(t, a, lab.config())
	applied, generation := state(), generationOf(t, lab.other)
	mustApply(t, a, lab.config())
	a.Close()
	a = newApplier(t) // a restarted process
	mustApply(t, a, lab.config())
	if generationOf(t, lab.other) != generation || state() != applied {
		t.Errorf("applying the same again changed rules, to\n%s\nfrom\n%s", state(), applied)
	}
	linktest.Must(t, lab.other, "nft flush ruleset")
	linktest.Must(t, lab.other, "ip rule del pref 19780")
	linktest.Must(t, lab.other, "ip route flush table 19780")
	mustApply(t, a, lab.config())
	for range 10 {
		mustAsk(t, lab.outside, "udp", net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort)))
	}
	mustApply(t, a, Config{})
	if got := state(); got != clean {
		t.Errorf("left over:\n%s\nbefore:\n%s", got, clean)
	}
}

// hostText is all of ours that is on the host.
func hostText(t *testing.T) string {
	t.Helper()
	all := ""
	if strings.Contains(hostCommand(t, "nft list tables"), "inet meshd\n") {
		all = hostCommand(t, "nft list table inet meshd")
	}
	for _, line := range []string{"iptables -S", "ip6tables -S", "ip rule", "ip -6 rule", "ip route show table all proto 109", "ip -6 route show table all proto 109"} {
		all += hostCommand(t, line)
	}
	return all
}

func TestPublishIdempotentAdoptedRestoredRemoved(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	clean := hostText(t)
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	mustApply(t, a, lab.config())
	linktest.Settle(t, netns.Host, 3)
	before, all := generationOf(t, netns.Host), hostText(t)
	events := linktest.Events(t, func() {
		start := time.Now()
		mustApply(t, a, lab.config())
		t.Logf("applying the same again took %s", time.Since(start).Round(time.Microsecond))
		a.Close()
		a = newApplier(t) // a restarted process
		mustApply(t, a, lab.config())
	}, netns.Host)
	if len(events) > 0 {
		t.Errorf("applying the same again changed interfaces: %v", events)
	}
	if generationOf(t, netns.Host) != before {
		t.Error("applying the same again changed rules")
	}
	for _, line := range []string{
		"iptables -F", "ip6tables -F", "nft delete table inet meshd", "ip rule del pref 19780", "ip -6 rule del pref 19780", "ip route flush table 19780",
	} {
		hostCommand(t, line)
	}
	mustApply(t, a, lab.config())
	if got := hostText(t); !sameLines(got, all) {
		t.Errorf("after a flush:\n%s\nwant:\n%s", got, all)
	}
	mustAsk(t, lab.outside, "tcp", net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort)))

	mustApply(t, New(Options{}), Config{}) // one that knows of nothing removes it too
	mustApply(t, a, Config{})
	if got := hostText(t); !sameLines(got, clean) {
		t.Errorf("left over:\n%s\nbefore:\n%s", got, clean)
	}
}

func sameLines(a, b string) bool {
	sorted := func(s string) string {
		lines := strings.Split(s, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	return sorted(a) == sorted(b)
}

func TestUnpublishedPortIsClosedAtOnce(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := lab.withApplied(t)
	address := net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort))
	conn, err := dial(lab.outside, "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, _, err := exchange(conn); err != nil {
		t.Fatal(err)
	}
	config := lab.config()
	config.Publish.Ports = nil
	mustApply(t, a, config)
	if _, _, err := exchange(conn); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("datagram flow goes on: %v, want connection refused", err)
	}
	if _, _, err := ask(lab.outside, "tcp", address); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v, want connection refused", err)
	}
	mustApply(t, a, lab.config())
	if _, _, err := exchange(conn); err != nil {
		t.Errorf("after publishing again: %v", err)
	}
}

func TestDockerUserThatDrops(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := lab.withApplied(t)
	hostCommand(t, "iptables -N DOCKER-USER")
	hostCommand(t, "iptables -A DOCKER-USER -i out0 -j DROP")
	hostCommand(t, "iptables -I FORWARD -j DOCKER-USER")
	t.Cleanup(func() {
		hostCommand(t, "iptables -D FORWARD -j DOCKER-USER")
		hostCommand(t, "iptables -F DOCKER-USER")
		hostCommand(t, "iptables -X DOCKER-USER")
	})
	mustApply(t, a, lab.config())
	mustAsk(t, lab.outside, "tcp", net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort)))
	before := generationOf(t, "/proc/self/ns/net")
	mustApply(t, a, lab.config())
	if generationOf(t, "/proc/self/ns/net") != before {
		t.Error("applying the same again changed rules")
	}
	hostCommand(t, "iptables -D DOCKER-USER -i out0 -j DROP")
	mustApply(t, a, lab.config())
	if out := hostCommand(t, "iptables -S DOCKER-USER"); strings.Contains(out, chainIngress) {
		t.Errorf("the jump stays though nothing drops any more:\n%s", out)
	}
}

// Whoever is on the ingress network reaches nothing through this host, nor anything of it, and nobody is led to the
// network but through published ports.
func TestIngressNetworkIsNoWayIn(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	lab.withApplied(t)
	// A replica sends its traffic to the host's interface there, and everybody else would let it pass, both ways.
	hostCommand(t, "iptables -P FORWARD ACCEPT")
	for _, to := range []string{clientAddress4, hostAddress4} {
		linktest.Must(t, lab.other, "ip route add "+to+"/32 via "+lab.addr4(100).String()+" dev ing0")
	}
	linktest.Must(t, lab.outside, "ip route add 10.91.0.0/24 via "+hostAddress4)
	hostCommand(t, "ip route add 10.91.0.0/24 dev "+uplink)
	serve(t, lab.outside, "outside", 9000)
	serve(t, "", "host", 9001)
	ways := []struct{ what, from, to string }{
		{"through this host", lab.other, net.JoinHostPort(clientAddress4, "9000")},
		{"to this host", lab.other, net.JoinHostPort(hostAddress4, "9001")},
		{"to the host's address there", lab.other, endpointOf(lab.addr4(100), 9001)},
		{"to a published port from there", lab.other, net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort))},
		{"to a replica", lab.outside, endpointOf(lab.addr4(2), targetPort)},
	}
	for _, way := range ways {
		for _, network := range []string{"tcp", "udp"} {
			if _, _, err := ask(way.from, network, way.to); err == nil {
				t.Errorf("%s, %s: there is a way", way.what, network)
			}
		}
	}
	toAll := func() error { return exec.CommandContext(t.Context(), "ping", "-c1", "-W2", "ff02::1%"+uplink).Run() }
	if toAll() == nil {
		t.Error("what the host tells everybody gets to the network")
	}
	// The same without our tables, so that the test is known to test something. (The replica's takes all TCP from a host for
	// clients' connections.)
	hostCommand(t, "nft delete table inet meshd")
	linktest.Must(t, lab.other, "nft delete table inet meshd-return")
	if err := toAll(); err != nil {
		t.Errorf("nobody answers a ping to all: %v", err)
	}
	for _, way := range ways {
		if !strings.Contains(way.what, "published") {
			mustAsk(t, way.from, "tcp", way.to)
		}
	}
}

// Connections are drawn one by one, and evenly.
func TestPublishedPortIsEven(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	lab.withApplied(t)
	const connections = 10_000
	count := map[string]int{}
	for range connections {
		name, _ := mustAsk(t, lab.outside, "tcp", net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort)))
		count[name]++
	}
	// The promise is five per cent; with two replicas that is five deviations.
	if off := count["a"] - connections/2; off < -connections/40 || off > connections/40 {
		t.Errorf("%v of %d connections", count, connections)
	}
	t.Logf("%v", count)
}

// With affinity a client, told by its own address, stays with its replica by TCP and UDP.
func TestPublishedPortWithAffinity(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	config := lab.config()
	for i := range config.Publish.Ports {
		config.Publish.Ports[i].ByClient = true
	}
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	mustApply(t, a, config)
	clients := map[string]int{}
	for i := range 24 {
		source := fmt.Sprintf("192.0.2.%d", 20+i)
		linktest.Must(t, lab.outside, "ip addr add "+source+"/26 dev eth0")
		seen := map[string]bool{}
		for _, network := range []string{"tcp", "udp", "tcp", "tcp"} {
			conn, err := dialFrom(lab.outside, network, source+":0", net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort)))
			if err != nil {
				t.Fatal(err)
			}
			name, _, err := exchange(conn)
			_ = conn.Close()
			if err != nil {
				t.Fatal(err)
			}
			seen[name] = true
		}
		if len(seen) != 1 {
			t.Errorf("client %s was with %v", source, seen)
		}
		for name := range seen {
			clients[name]++
		}
	}
	if clients["a"] == 0 || clients["b"] == 0 {
		t.Errorf("all clients are with one replica: %v", clients)
	}
}

// Idle connections live as long as the kernel says for established ones, which nothing of ours shortens.
func TestEstablishedConnectionsLiveForDays(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	lab.withApplied(t)
	client := newVIPLabOn(t)
	read := func(path string) string {
		return strings.TrimSpace(linktest.Must(t, path, "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"))
	}
	fresh := linktest.Namespace(t, "fresh")
	linktest.Must(t, fresh, "nft add table inet x { chain y { type filter hook input priority 0; ct state established accept; } ; }")
	want := read(fresh)
	for what, path := range map[string]string{"the host": netns.Host, "a replica's": lab.replica, "a client's": client} {
		if got := read(path); got != want || len(got) < 6 { // at least 100,000 s
			t.Errorf("%s: established connections are forgotten after %s s, a fresh namespace has %s", what, got, want)
		}
	}
}

// newVIPLabOn is a namespace in which a virtual IP is translated.
func newVIPLabOn(t *testing.T) string {
	t.Helper()
	lab := newVIPLab(t)
	mustApply(t, newApplier(t), lab.config(2, 3))
	return lab.client
}

// TestPortsOfEndedConnectionsAreUsedAgain: a replica goes whose connections were over. The client's next ones from
// the same ports go to another replica, as any do.
func TestPortsOfEndedConnectionsAreUsedAgain(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	// Below those that the kernel gives to clients which ask for none (ip_local_port_range), so no other test's are among them.
	const first, ports = 20000, 50
	askAll := func(want string) {
		t.Helper()
		for i := range ports {
			for _, way := range [][2]string{{clientAddress4, hostAddress4}, {"[" + clientAddress6 + "]", "[" + hostAddress6 + "]"}} {
				to := fmt.Sprintf("%s:%d", way[1], publishedPort)
				conn, err := dialFrom(lab.outside, "tcp", fmt.Sprintf("%s:%d", way[0], first+i), to)
				if err != nil {
					t.Fatal(err)
				}
				name, _, err := exchange(conn) // the server ends it first, so the client's port is free at once
				_ = conn.Close()
				if err != nil || name != want {
					t.Fatalf("%s: %q answered, %v, want %s", to, name, err, want)
				}
			}
		}
	}
	all := lab.config().Publish.Ports[0].Backends
	for _, only := range []struct {
		name     string
		backends []netip.AddrPort
	}{{"a", []netip.AddrPort{all[0], all[2]}}, {"b", []netip.AddrPort{all[1], all[3]}}} {
		config := lab.config()
		config.Publish.Ports[0].Backends = only.backends
		mustApply(t, a, config)
		askAll(only.name)
		// Those are over, so their clients must not be told that they are: by now they may be others'.
		over := 0
		for deadline := time.Now().Add(5 * time.Second); over != 2*ports; {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d connections are over", over, 2*ports)
			}
			over = countOver(t, first, first+ports)
		}
	}
}

// countOver counts the connections that the host's conntrack remembers and that are over, of clients' ports from first to below end.
// A dump may tell of one twice when the kernel's table changes meanwhile, so each client counts once.
func countOver(t *testing.T, first, end uint16) int {
	t.Helper()
	over := map[netip.AddrPort]bool{}
	_, err := forget(nil, func(f flow) bool {
		if f.protocol == unix.IPPROTO_TCP && f.over && f.client.Port() >= first && f.client.Port() < end {
			over[f.client] = true
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(over)
}
