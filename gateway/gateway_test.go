package gateway_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

// lab is a host between two endpoints and the outside.
type lab struct {
	host, outside string
	endpoints     [2]string
	cfg           gateway.Config
	state         string
	log           bytes.Buffer
	manager       *gateway.Manager
}

func newLab(t *testing.T) *lab {
	l := &lab{host: linktest.Namespace(t, "host"), outside: linktest.Namespace(t, "outside")}
	linktest.Must(t, l.host, "sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	// With bridge netfilter the FORWARD rules would see bridged frames too, and hide a
	// bridge that passes what it should not.
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		linktest.Must(t, l.host, "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
	}
	linktest.Must(t, l.host, "ip link add up0 type veth peer name eth0 netns "+l.outside)
	linktest.Must(t, l.host, "ip addr add 192.0.2.1/24 dev up0")
	linktest.Must(t, l.host, "ip addr add 2001:db8::1/64 dev up0 nodad")
	linktest.Must(t, l.host, "ip link set up0 up")
	linktest.Must(t, l.outside, "ip addr add 192.0.2.2/24 dev eth0")
	linktest.Must(t, l.outside, "ip addr add 2001:db8::2/64 dev eth0 nodad")
	linktest.Must(t, l.outside, "ip link set eth0 up")
	l.cfg = gateway.Config{
		Bridge:  "meshd0",
		Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd30::/64")},
		MTU:     1500,
	}
	for i := range l.endpoints {
		l.endpoints[i] = linktest.Namespace(t, fmt.Sprintf("endpoint%d", i))
		l.cfg.Ports = append(l.cfg.Ports, gateway.Port{
			Endpoint: fmt.Sprintf("%012x", i+1), Namespace: l.endpoints[i], Interface: "gw0",
			Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", i+2)), netip.MustParseAddr(fmt.Sprintf("fd30::%d", i+2))},
		})
	}
	l.state = filepath.Join(t.TempDir(), "run", "sysctls.json")
	l.fresh()
	return l
}

// fresh is a restart of the process.
func (l *lab) fresh() {
	l.manager = gateway.New(gateway.Options{StatePath: l.state, Logger: slog.New(slog.NewTextHandler(&l.log, nil))})
}

func (l *lab) try(t *testing.T, cfg gateway.Config) error {
	return netns.Do(l.host, func() error { return l.manager.Apply(t.Context(), cfg) })
}

func (l *lab) apply(t *testing.T) {
	t.Helper()
	if err := l.try(t, l.cfg); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) reaches(t *testing.T) {
	t.Helper()
	for _, e := range l.endpoints {
		linktest.Ping(t, e, "192.0.2.2", 1500)
		linktest.Ping(t, e, "2001:db8::2", 1500)
	}
}

func TestEndpointReachesOutsideButNotAnother(t *testing.T) {
	for _, policy := range []string{"ACCEPT", "DROP"} {
		t.Run(policy, func(t *testing.T) {
			l := newLab(t)
			linktest.Must(t, l.host, "iptables -P FORWARD "+policy)
			linktest.Must(t, l.host, "ip6tables -P FORWARD "+policy)
			l.apply(t)
			l.reaches(t)
			linktest.Ping(t, l.endpoints[0], "192.0.2.1", 100)
			// As an attacker would: straight, and by way of the host. One way is enough
			// for a datagram, so a ping without answer would prove little.
			for _, route := range []string{"", "ip route add 172.30.0.3/32 via 172.30.0.1"} {
				if route != "" {
					linktest.Must(t, l.endpoints[0], route)
				}
				if l.hears(t, "udp4", "172.30.0.3:7000") {
					t.Errorf("an endpoint reaches another (%s)", route)
				}
			}
			linktest.Must(t, l.endpoints[0], "ip -6 route add fd30::3/128 via fd30::1")
			if l.hears(t, "udp6", "[fd30::3]:7000") {
				t.Error("an endpoint reaches another by IPv6")
			}
			linktest.Must(t, l.outside, "ip route add 172.30.0.0/24 via 192.0.2.1")
			if linktest.TryPing(l.outside, "172.30.0.2", 100, 600*time.Millisecond) == nil {
				t.Error("the outside reaches an endpoint that did not ask it")
			}
		})
	}
}

// hears says whether a datagram from the first endpoint reaches address, of the second.
func (l *lab) hears(t *testing.T, network, address string) bool {
	t.Helper()
	var listener net.PacketConn
	if err := netns.Do(l.endpoints[1], func() (err error) {
		listener, err = net.ListenPacket(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if err := netns.Do(l.endpoints[0], func() error {
		conn, err := net.Dial(network, address)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_, err = conn.Write([]byte("psst"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_ = listener.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _, err := listener.ReadFrom(make([]byte, 10))
	return err == nil
}

func TestSecondApplyByAFreshManagerChangesNothing(t *testing.T) {
	l := newLab(t)
	l.apply(t)
	linktest.Settle(t, l.host, 2) // up0 and meshd0
	for _, endpoint := range l.endpoints {
		linktest.Settle(t, endpoint, 1)
	}
	before := linktest.Must(t, l.host, "nft -a list ruleset") // with handles: a rule written again has another
	l.fresh()
	var took time.Duration
	events := linktest.Events(t, func() {
		start := time.Now()
		l.apply(t)
		took = time.Since(start)
	}, l.host, l.endpoints[0], l.endpoints[1])
	t.Logf("unchanged Apply with two endpoints: %s", took)
	if len(events) != 0 {
		t.Errorf("the second Apply changed %q", events)
	}
	if after := linktest.Must(t, l.host, "nft -a list ruleset"); withoutCounters(after) != withoutCounters(before) {
		t.Errorf("the second Apply changed rules:\n%s\nto\n%s", before, after)
	}
	l.reaches(t)
}

func withoutCounters(rules string) string {
	words := strings.Fields(rules)
	for i, w := range words {
		if (w == "packets" || w == "bytes") && i+1 < len(words) {
			words[i+1] = ""
		}
	}
	return strings.Join(words, " ")
}

func TestDamageIsMended(t *testing.T) {
	l := newLab(t)
	l.apply(t)
	for _, damage := range []string{
		"iptables -F", "iptables -t nat -F", "ip6tables -F", "iptables -F MESHD-FORWARD", "iptables -t nat -D POSTROUTING -j MESHD-POSTROUTING",
		"nft flush ruleset", "ip link del meshd0", "ip link set meshd0 down", "ip link del mg000000000001",
		"ip addr flush dev meshd0", "bridge link set dev mg000000000001 isolated off", "sysctl -w net.ipv4.ip_forward=0",
		"ip link set mg000000000002 nomaster",
	} {
		linktest.Must(t, l.host, damage)
		l.apply(t)
		l.reaches(t)
		if linktest.TryPing(l.endpoints[0], "172.30.0.3", 100, 50*time.Millisecond) == nil {
			t.Errorf("after %s an endpoint reaches another", damage)
		}
	}
}

func TestRemovalRestoresEverything(t *testing.T) {
	l := newLab(t)
	linktest.Must(t, l.host, "iptables -N DOCKER-USER")
	linktest.Must(t, l.host, "iptables -A DOCKER-USER -s 198.51.100.0/24 -j DROP")
	linktest.Must(t, l.host, "sysctl -w net.ipv6.conf.up0.accept_ra=1")
	sysctls := "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.up0.accept_ra"
	before := linktest.Must(t, l.host, sysctls)
	l.apply(t)
	during := linktest.Must(t, l.host, sysctls)
	if want := "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\nnet.ipv6.conf.up0.accept_ra = 2\n"; during != want {
		t.Errorf("got\n%swant\n%s", during, want)
	}
	if out := linktest.Must(t, l.host, "iptables -S DOCKER-USER 1"); !strings.Contains(out, "-j MESHD-FORWARD") {
		t.Errorf("DOCKER-USER does not lead to our chain: %s", out)
	}
	l.reaches(t)
	l.fresh()
	if err := l.try(t, gateway.Config{}); err != nil {
		t.Fatal(err)
	}
	if after := linktest.Must(t, l.host, sysctls); after != before {
		t.Errorf("sysctls were\n%sand are\n%s", before, after)
	}
	rules := linktest.Must(t, l.host, "iptables-save") + linktest.Must(t, l.host, "ip6tables-save")
	if strings.Contains(rules, "MESHD") || !strings.Contains(rules, "198.51.100.0/24") {
		t.Errorf("rules are\n%s", rules)
	}
	if links := linktest.Must(t, l.host, "ip -o link"); strings.Contains(links, "meshd") || strings.Contains(links, "mg0") || !strings.Contains(links, "up0") {
		t.Errorf("links are\n%s", links)
	}
	if _, err := os.Stat(l.state); !os.IsNotExist(err) {
		t.Errorf("the record of sysctls stayed: %v", err)
	}
	if err := l.try(t, gateway.Config{}); err != nil {
		t.Errorf("a second removal: %v", err)
	}
}

func TestWhatSomebodyElseSwitchedOnStaysOn(t *testing.T) {
	l := newLab(t)
	linktest.Must(t, l.host, "sysctl -w net.ipv4.ip_forward=1")
	l.apply(t)
	if err := l.try(t, gateway.Config{}); err != nil {
		t.Fatal(err)
	}
	if out := linktest.Must(t, l.host, "sysctl -n net.ipv4.ip_forward"); out != "1\n" {
		t.Errorf("ip_forward is %s", out)
	}
}

func TestWithoutIPv6ItCarriesIPv4AndSaysSoOnce(t *testing.T) {
	l := newLab(t)
	linktest.Must(t, l.host, "sysctl -w net.ipv6.conf.all.disable_ipv6=1")
	l.apply(t)
	l.apply(t)
	linktest.Ping(t, l.endpoints[0], "192.0.2.2", 1500)
	if n := strings.Count(l.log.String(), "IPv4 only"); n != 1 {
		t.Errorf("said %d times:\n%s", n, l.log.String())
	}
	if out := linktest.Must(t, l.endpoints[0], "ip -6 route show default"); out != "" {
		t.Errorf("a route that leads nowhere: %s", out)
	}
}

func TestWithoutIPTables(t *testing.T) {
	l := newLab(t)
	t.Setenv("PATH", t.TempDir())
	if err := l.try(t, l.cfg); err == nil || !strings.Contains(err.Error(), "apt-get install iptables") {
		t.Errorf("got %v", err)
	}
}

func TestLegacyBackend(t *testing.T) {
	l := newLab(t)
	bin := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save"} {
			target := "/usr/sbin/" + name + "-legacy" + suffix
			if _, err := os.Stat(target); err != nil {
				t.Skip("this machine has no legacy iptables")
			}
			if err := os.Symlink(target, filepath.Join(bin, name+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	linktest.Must(t, l.host, "iptables -P FORWARD DROP")
	l.apply(t)
	l.log.Reset()
	l.apply(t)
	l.reaches(t)
	if strings.Contains(l.log.String(), "writing") {
		t.Errorf("the second Apply wrote:\n%s", l.log.String())
	}
	if err := l.try(t, gateway.Config{}); err != nil {
		t.Fatal(err)
	}
	if out := linktest.Must(t, l.host, "iptables-save"); strings.Contains(out, "MESHD") {
		t.Errorf("this stayed:\n%s", out)
	}
}

func TestVanishedNamespaceDoesNotStopTheOthers(t *testing.T) {
	l := newLab(t)
	if err := netns.Delete(l.endpoints[0]); err != nil {
		t.Fatal(err)
	}
	if err := l.try(t, l.cfg); err == nil || !strings.Contains(err.Error(), "endpoint 000000000001") {
		t.Errorf("got %v", err)
	}
	linktest.Ping(t, l.endpoints[1], "192.0.2.2", 100)
}

func TestDamagedRecordIsSaid(t *testing.T) {
	l := newLab(t)
	if err := os.MkdirAll(filepath.Dir(l.state), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.state, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.try(t, l.cfg); err == nil || !strings.Contains(err.Error(), l.state) {
		t.Errorf("got %v", err)
	}
}

func TestRoutesAndOverlaps(t *testing.T) {
	l := newLab(t)
	l.apply(t)
	linktest.Must(t, l.host, "ip route add default via 192.0.2.2")
	linktest.Must(t, l.host, "ip route add 10.0.0.0/8 via 192.0.2.2")
	err := netns.Do(l.host, func() error {
		routes, err := gateway.HostRoutes("meshd0")
		if err != nil {
			return err
		}
		want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}
		if !slices.Equal(routes, want) {
			t.Errorf("got %v, want %v", routes, want)
		}
		if err := gateway.CheckSubnets("meshd0", l.cfg.Subnets); err != nil {
			t.Errorf("our own bridge is in the way: %v", err)
		}
		err = gateway.CheckSubnets("meshd0", []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")})
		if err == nil || !strings.Contains(err.Error(), "gateway.subnet 10.9.0.0/24 overlaps 10.0.0.0/8, which this host reaches through up0") {
			t.Errorf("got %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
