package ingress

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), `go test -update` accepts it:\n%s", path, diff)
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

var (
	goldenServices = []VirtualIP{
		{Address: addrs("10.1.255.1")[0], Replicas: addrs("10.1.0.2", "10.1.0.3", "10.1.0.4")},
		{Address: addrs("10.1.255.2")[0], Replicas: addrs("10.1.0.5")},
		{Address: addrs("10.1.255.3")[0]},
		{Address: addrs("fd01::ff01")[0], Replicas: addrs("fd01::2", "fd01::3")},
		{Address: addrs("fd01::ff02")[0]},
	}
	goldenPorts = []Port{
		{Protocol: "tcp", Published: 443},
		{Protocol: "tcp", Published: 8080, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.2.0.2:80"), netip.MustParseAddrPort("10.2.0.3:80"), netip.MustParseAddrPort("[fd02::2]:80")}},
		{Protocol: "udp", Published: 5353, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.2.0.4:53")}},
	}
)

var goldenPublish = Publish{
	Interface: "meshd-in", Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("fd02::/64")}, Ports: goldenPorts,
}

var goldenReplica = Replica{
	Endpoint: "r", Namespace: "/run/r", Interface: "ing0",
	Address4: addrs("10.2.0.2")[0], Address6: addrs("fd02::2")[0], UDPPorts: []uint16{53},
	Via: []IngressHost{
		{addrs("10.2.1.1")[0], net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		{addrs("10.2.1.2")[0], net.HardwareAddr{2, 0, 0, 0, 0, 2}},
	},
}

func TestCompileGolden(t *testing.T) {
	golden(t, "client.txt", compileClient(goldenServices, goldenServices).String())
	golden(t, "publish.txt", compilePublish(goldenPublish, goldenPorts).String())
	full := found{Replica: goldenReplica, tracked: true, bound4: []uint16{80}}
	golden(t, "return.txt", compileReturn(full).String()+compileEgress(full).String())
	plain := found{Replica: goldenReplica}
	plain.UDPPorts = nil
	golden(t, "return-tcp.txt", compileReturn(plain).String())
}

// A packet is what the tables look at; draw stands for numgen.
type packet struct {
	ipv6     bool
	key      string
	draw     func(n int) int
	balancer *balancer
}

// trace follows a packet through the compiled tables and says what becomes of it.
func (t table) trace(p packet) string {
	b := p.balancer
	if b.empty != "" {
		if _, ok := t.set(b.empty).elements[p.key]; ok {
			return "refused"
		}
	}
	next, ok := t.set(b.verdicts).elements[p.key]
	if !ok {
		return "untranslated"
	}
	c := t.chain(next)
	if c == nil || len(c.rules) != 1 {
		return "goes to a chain that is not there: " + next
	}
	var n int
	if _, err := fmt.Sscanf(next, "n%d-", &n); err != nil || !strings.Contains(c.rules[0].text, fmt.Sprintf("numgen random mod %d map", n)) {
		return "goes to a chain that draws otherwise: " + c.rules[0].text
	}
	target, ok := t.set(b.targets).elements[p.key+slotBytes(p.draw(n))]
	if !ok {
		return "drew a slot that is empty"
	}
	return format(b.target, target)
}

func traceVIP(t table, addr string, draw int) string {
	a := netip.MustParseAddr(addr)
	return t.trace(packet{a.Is6(), addrBytes(a), func(n int) int { return draw % n }, serviceBalancer(a.Is6(), nil)})
}

func tracePort(t table, ipv6 bool, protocol string, number uint16, draw int) string {
	key := string([]byte{protocols[protocol], 0, 0, 0}) + portBytes(number)
	return t.trace(packet{ipv6, key, func(n int) int { return draw % n }, portBalancer(ipv6, nil)})
}

func TestTrace(t *testing.T) {
	client := compileClient(goldenServices, goldenServices)
	published := compilePublish(goldenPublish, goldenPorts)
	for _, c := range []struct{ what, got, want string }{
		{"first slot", traceVIP(client, "10.1.255.1", 0), "10.1.0.2"},
		{"last slot", traceVIP(client, "10.1.255.1", 2), "10.1.0.4"},
		{"one replica", traceVIP(client, "10.1.255.2", 0), "10.1.0.5"},
		{"no replica", traceVIP(client, "10.1.255.3", 0), "refused"},
		{"no virtual IP", traceVIP(client, "10.1.0.2", 0), "untranslated"},
		{"IPv6", traceVIP(client, "fd01::ff01", 1), "fd01::3"},
		{"no replica, IPv6", traceVIP(client, "fd01::ff02", 1), "refused"},
		{"TCP port", tracePort(published, false, "tcp", 8080, 1), "10.2.0.3 . 80"},
		{"TCP port, IPv6", tracePort(published, true, "tcp", 8080, 0), "fd02::2 . 80"},
		{"the same port, UDP", tracePort(published, false, "udp", 8080, 0), "untranslated"},
		{"UDP port", tracePort(published, false, "udp", 5353, 0), "10.2.0.4 . 53"},
		{"no backend of the family", tracePort(published, true, "udp", 5353, 0), "refused"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.what, c.got, c.want)
		}
	}
}

func opTexts(ops []op) string {
	var out strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&out, o)
	}
	return out.String()
}

func TestPlanOnlyWritesWhatDiffers(t *testing.T) {
	before := compileClient(goldenServices, goldenServices)
	if ops := plan(before, &before); len(ops) > 0 {
		t.Errorf("nothing differs, yet:\n%s", opTexts(ops))
	}
	services := slices.Clone(goldenServices)
	services[0].Replicas = services[0].Replicas[:2] // one replica leaves
	services[1].Replicas = nil                      // the only one leaves
	after := compileClient(services, services)
	golden(t, "plan.txt", opTexts(plan(after, &before)))
	golden(t, "plan-new.txt", opTexts(plan(after, nil)))
	broken := compileClient(goldenServices, goldenServices)
	broken.chains = broken.chains[1:]
	if ops := plan(before, &broken); ops[0].verb != deleteTable {
		t.Errorf("a base chain is missing: want the table made anew, got:\n%s", opTexts(ops))
	}
}

// perform makes the changes on plain data and fails where the kernel would.
func perform(t rapid.TB, have *table, ops []op) table {
	state := table{}
	if have != nil {
		state = *have
	}
	chains := map[string]int{} // how many elements lead there
	count := func() {
		clear(chains)
		for _, s := range state.sets {
			for _, to := range s.elements {
				if s.verdict {
					chains[to]++
				}
			}
		}
	}
	for _, o := range ops {
		switch o.verb {
		case deleteTable:
			state = table{}
		case addSet:
			state.sets = append(state.sets, set{o.set.name, o.set.key, o.set.value, o.set.verdict, o.set.timeout, map[string]string{}})
		case addChain:
			if state.chain(o.chain.name) != nil {
				t.Fatalf("%s: it exists", o)
			}
			state.chains = append(state.chains, *o.chain)
		case deleteChain:
			count()
			if chains[o.chain.name] > 0 {
				t.Fatalf("%s: elements lead there", o)
			}
			state.chains = slices.DeleteFunc(slices.Clone(state.chains), func(c chain) bool { return c.name == o.chain.name })
		case deleteElement:
			if _, ok := state.set(o.set.name).elements[o.key]; !ok {
				t.Fatalf("%s: it does not exist", o)
			}
			delete(state.set(o.set.name).elements, o.key)
		case addElement:
			s := state.set(o.set.name)
			if _, ok := s.elements[o.key]; ok {
				t.Fatalf("%s: it exists", o)
			}
			if s.verdict && state.chain(o.set.elements[o.key]) == nil {
				t.Fatalf("%s: no such chain", o)
			}
			s.elements[o.key] = o.set.elements[o.key]
		}
	}
	return state
}

// Whatever the change, the steps computed from what changed lead to the same table as all of it.
func TestStepsReachTheWholeTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) []VirtualIP {
			var services []VirtualIP
			for i := range 6 {
				if !rapid.Bool().Draw(t, name) {
					continue
				}
				base := []string{"10.1.255.", "fd01::ff"}[i%2]
				vip := VirtualIP{Address: netip.MustParseAddr(fmt.Sprint(base, i)), ByClient: i < 2 && rapid.Bool().Draw(t, "by client")}
				for r := range rapid.IntRange(0, 4).Draw(t, "replicas") {
					vip.Replicas = append(vip.Replicas, netip.MustParseAddr(fmt.Sprint(strings.TrimSuffix(base, "ff"), r+rapid.IntRange(1, 2).Draw(t, "shift"))))
				}
				services = append(services, vip)
			}
			if rapid.Bool().Draw(t, "reversed") {
				slices.Reverse(services)
			}
			return vipKind.sorted(services)
		}
		state := perform(t, nil, plan(compileClient(nil, nil), nil))
		var last []VirtualIP
		for range 4 {
			next := draw("there")
			old, new := vipKind.changed(last, next)
			have := compileClient(last, old)
			state = perform(t, &state, plan(compileClient(next, new), &have))
			want := compileClient(next, next)
			if ops := plan(want, &state); len(ops) > 0 {
				t.Fatalf("from %v to %v, still to do:\n%s", last, next, opTexts(ops))
			}
			last = next
		}
	})
}

func TestPublishCheck(t *testing.T) {
	good := Publish{
		Interface: "meshd-in", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Ports: []Port{{Protocol: "tcp", Published: 80}},
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*Publish){
		"no interface": func(p *Publish) { p.Interface = "" },
		"no subnet":    func(p *Publish) { p.Subnets = nil },
		"a bad subnet": func(p *Publish) { p.Subnets = []netip.Prefix{{}} },
		"protocol":     func(p *Publish) { p.Ports = []Port{{Protocol: "sctp", Published: 80}} },
		"port":         func(p *Publish) { p.Ports = []Port{{Protocol: "tcp", Published: 0}} },
	} {
		bad := good
		spoil(&bad)
		if bad.check() == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestWantedHostRules(t *testing.T) {
	var out strings.Builder
	for _, r := range wantedHostRules("meshd-in") {
		fmt.Fprintf(&out, "-t %s -A %s %s\n", filterTable, chainIngress, r)
	}
	fmt.Fprintf(&out, "-t %s -A %s %s\n", filterTable, chainForward, jumpToIngress)
	golden(t, "host.txt", out.String())
}
