package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// damages is what administrators, their firewalls and other programs do to a host, and to the namespaces on it. In each,
// CLIENT and REPLICA are endpoints' namespaces on that host, MESH is meshd's own. What stands together
// happens at once and touches different things.
var damages = [][]string{
	{"iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F; iptables -t mangle -F", "at CLIENT nft flush ruleset", "at REPLICA nft flush ruleset"},
	{"nft delete table inet meshd", "at CLIENT nft flush chain inet meshd output"},
	{"nft flush ruleset", "at REPLICA ip route flush table 19780", "at MESH ip -6 route flush table main"},
	// As ufw and firewalld reload.
	{"printf '*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n*nat\nCOMMIT\n' | iptables-restore", "at CLIENT ip addr flush dev eth0"},
	{"sysctl -qw net.ipv4.ip_forward=0", "ip link set meshd0 down", "at CLIENT ip link del eth0", "at REPLICA ip rule del priority 19780", "at MESH nft flush ruleset"},
	{"ip link del meshd0", "ip addr flush dev meshd-in", "at REPLICA ip neigh del 169.254.213.77 dev ing0", "ip rule del priority 19780"},
	{"ip link del meshd-in", "ip addr flush dev meshd0", "at REPLICA ip link del ing0", "at CLIENT ip route flush table main"},
	{"at REPLICA sysctl -qw net.ipv4.conf.ing0.src_valid_mark=0 net.ipv4.tcp_fwmark_accept=0; at REPLICA ip route del table local 240.0.0.0/8; at REPLICA ip -6 route del table local 100::f000:0/104", "sysctl -qw net.ipv4.conf.meshd-in.src_valid_mark=0 net.ipv4.conf.meshd-in.route_localnet=0"},
	{"ip route flush table 19780; ip -6 route flush table 19780; ip -6 rule del priority 19780", "nft flush chain inet meshd marks; nft flush map inet meshd backends6", "for d in $(devices br); do at MESH ip neigh flush nud permanent dev $d; done"},
	{"at MESH bridge fdb show | grep ' dst ' | while read mac x dev y to rest; do at MESH bridge fdb del $mac dev $dev dst $to; done"},
	{"for d in $(devices vx); do at MESH ip link del $d; done"},
	{"for d in $(devices br); do at MESH ip link del $d; done"},
	{"for d in $(devices wg); do at MESH ip link set $d down; done"},
	{"for d in $(devices wg); do at MESH ip link del $d; done"},
}

// userspaceDamage is where a process does WireGuard's work.
var userspaceDamage = []string{"pkill -KILL -x meshd-wireguard"}

// damageWords are what damages are written with.
const damageWords = `
at() { place=$1; shift; eval "nsenter --net=\"\$$place\" \"\$@\""; }
devices() { at MESH ip -br link | sed -n "s/^\($1[^ @]*\).*/\1/p"; }
`

// What somebody else deletes comes back by itself, and is counted.
func TestDamageIsRepaired(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	h, outside := m.Host("h2"), m.Host("outside")
	serve(t, m, m.Host("h1"), "far", "--network", "appnet", "--service", "far", "--publish", "8080:80", "--publish", "8080:80/udp")
	replica := serve(t, m, h, "near", "--network", "appnet", "--service", "near", "--publish", "8081:80", "--publish", "8081:80/udp")
	client := start(t, m, h, []string{"--network", "appnet"}, "sleep", "infinity")
	vip := vipOf(t, m, "far")
	inClient := []string{"nsenter", "--net=/run/meshd/endpoints/" + client.ID}
	works := func() error {
		for _, ask := range []struct {
			from    *lab.Host
			command []string
		}{
			{h, append(inClient, peerBinary, "ask", "tcp", vip+":80")},
			{outside, []string{peerBinary, "ask", "tcp", h.IP + ":8080"}},
			{outside, []string{peerBinary, "ask", "udp", h.IP + ":8080"}},
			{outside, []string{peerBinary, "ask", "tcp", m.Host("h1").IP + ":8081"}},
			{outside, []string{peerBinary, "ask", "udp", m.Host("h1").IP + ":8081"}},
			{outside, []string{peerBinary, "ask", "tcp", "[" + m.Host("h1").IP6 + "]:8081"}},
			{h, append(inClient, "dig", "+short", "+tries=1", "+time=1", "@127.0.0.11", "far")},
			{h, append(inClient, "ping", "-c1", "-W1", outside.IP)},
		} {
			if out, err := ask.from.Run(ctx, ask.command[0], ask.command[1:]...); err != nil || out == "" {
				return fmt.Errorf("%v: %q, %w", ask.command, out, err)
			}
		}
		return nil
	}
	within(t, 10*time.Second, "everything works", works)
	places := fmt.Sprintf("CLIENT=/run/meshd/endpoints/%s REPLICA=/run/meshd/endpoints/%s MESH=/run/meshd/netns", client.ID, replica.ID)
	all := damages
	if wireguardOf(t, m, h) == "userspace" {
		all = append(slices.Clone(all), userspaceDamage)
	}
	for _, together := range all {
		damage := strings.Join(together, "; ")
		before, err := repairsOf(t, m, h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Run(ctx, "sh", "-ec", places+damageWords+damage); err != nil {
			t.Fatal(err)
		}
		within(t, 10*time.Second, "counted: "+damage, func() error {
			if n, err := repairsOf(t, m, h); err != nil || n == before {
				return fmt.Errorf("still %d repairs, %w", n, err)
			}
			return nil
		})
		within(t, 10*time.Second, "works again: "+damage, works)
	}
}

// wireguardOf is who does WireGuard's work on a host: kernel or userspace.
func wireguardOf(t *testing.T, m *lab.Mesh, h *lab.Host) string {
	t.Helper()
	var status struct{ WireGuard string }
	out, _ := m.Meshd(testContext(t), h, "status", "-o", "json") // it fails while something is wrong
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.WireGuard == "" {
		t.Fatalf("%v: %s", err, out)
	}
	return status.WireGuard
}

// repairsOf is how many changes a host has had to make again.
func repairsOf(t *testing.T, m *lab.Mesh, h *lab.Host) (total int, err error) {
	t.Helper()
	var status struct {
		Repairs struct{ Counts []struct{ Changes int } }
	}
	out, failed := m.Meshd(testContext(t), h, "status", "-o", "json") // it fails while something is wrong
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return 0, fmt.Errorf("%w: %s, %w", err, out, failed)
	}
	for _, c := range status.Repairs.Counts {
		total += c.Changes
	}
	return total, nil
}

func vipOf(t *testing.T, m *lab.Mesh, service string) string {
	t.Helper()
	var found struct{ VIP string }
	if err := m.MeshdJSON(testContext(t), m.Host("h1"), &found, "service", "inspect", service); err != nil {
		t.Fatal(err)
	}
	return found.VIP
}

// Several daemons run on one machine, each in a network namespace, with directories of
// their own.
func TestTwoDaemonsOnOneMachine(t *testing.T) {
	m := newMesh(t, 1)
	ctx := testContext(t)
	h := m.Host("h1")
	const setup = `set -e
		for n in a b; do ip netns add $n; ip -n $n link set lo up; done
		ip -n a link add eth0 type veth peer name eth0 netns b
		ip -n a addr add 10.88.0.1/24 dev eth0; ip -n b addr add 10.88.0.2/24 dev eth0
		ip -n a link set eth0 up; ip -n b link set eth0 up`
	if _, err := h.Run(ctx, "sh", "-c", setup); err != nil {
		t.Fatal(err)
	}
	in := func(n string, args ...string) (string, error) {
		return h.Run(ctx, "nsenter", append([]string{"--net=/run/netns/" + n, "env", "MESHD_SOCKET=/run/" + n + "/meshd.sock", m.Binary}, args...)...)
	}
	for _, n := range []string{"a", "b"} {
		agent := h.Command(ctx, "nsenter", "--net=/run/netns/"+n, m.Binary, "agent",
			"--node-name", n, "--state-dir", "/var/lib/"+n, "--runtime-dir", "/run/"+n)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = signalChildren(agent.Process.Pid, 15)
			_ = agent.Wait() // ended by us
		})
		within(t, 10*time.Second, n+" answers", func() error {
			_, err := in(n, "status")
			return err
		})
	}
	out, err := in("a", "init")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in("b", strings.Fields(joinCommand(t, out))[1:]...); err != nil {
		t.Fatal(err)
	}
	if _, err := in("a", "network", "create", "appnet"); err != nil {
		t.Fatal(err)
	}
	server := h.Command(ctx, "nsenter", "--net=/run/netns/a", "env", "MESHD_SOCKET=/run/a/meshd.sock", m.Binary,
		"run", "--network", "appnet", "--service", "db", "--", peerBinary, "serve", "one", "80")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalChildren(server.Process.Pid, 15)
		_ = server.Wait() // ended by us
	})
	within(t, 10*time.Second, "b reaches a's service by name", func() error {
		out, err := in("b", "run", "--network", "appnet", "--", peerBinary, "ask", "tcp", "db:80")
		if err == nil && !strings.HasPrefix(out, "one ") {
			err = errors.New(out)
		}
		return err
	})
	for _, n := range []string{"a", "b"} {
		if _, err := in(n, "leave"); err != nil {
			t.Error(err)
		}
	}
}
