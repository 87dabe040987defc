package ingress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
	"pgregory.net/rapid"
)

// someTargets are n addresses as replicas have them.
func someTargets(n, first int) []string {
	var out []string
	for i := range n {
		out = append(out, addrBytes(netip.AddrFrom4([4]byte{10, 1, byte((first + i) >> 8), byte(first + i)})))
	}
	return out
}

// When a target goes, its slots go to the others and theirs stay; when it comes back, all is as before. Nobody
// has so much that more than 1.5 of its share moves.
func TestClientTableIsConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 12).Draw(t, "targets")
		targets := someTargets(n, rapid.IntRange(0, 60000).Draw(t, "first"))
		before := clientTable(targets)
		gone := rapid.IntRange(0, n-1).Draw(t, "gone")
		after := clientTable(slices.Delete(slices.Clone(targets), gone, gone+1))
		moved := 0
		for slot := range before {
			switch {
			case before[slot] == targets[gone]:
				moved++
			case before[slot] != after[slot]:
				t.Fatalf("slot %d moved though its target stayed", slot)
			}
		}
		if moved*2*n >= 3*clientSlots {
			t.Fatalf("%d of %d slots moved when one of %d targets went", moved, clientSlots, n)
		}
		shuffled := slices.Clone(targets)
		slices.Reverse(shuffled)
		if !slices.Equal(clientTable(shuffled), before) {
			t.Fatal("the table depends on the order of targets")
		}
	})
}

// Hosts with other versions of this program must agree on the table: this test must not be changed.
func TestClientTableIsTheSameForEver(t *testing.T) {
	var got strings.Builder
	table := clientTable(someTargets(4, 2))
	for _, target := range table[:64] {
		fmt.Fprint(&got, int(target[3])-2)
	}
	if want := "1333201200231220333003023210322000111233322233002031211333122133"; got.String() != want {
		t.Errorf("got %s, want %s", got.String(), want)
	}
}

func TestClientTableSharesOut(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 20} {
		most := 0
		for first := range 50 {
			count := map[string]int{}
			for _, target := range clientTable(someTargets(n, first*n)) {
				count[target]++
				most = max(most, count[target])
			}
		}
		t.Logf("%d targets: in 50 tables the largest share was %.2f of the mean", n, float64(most*n)/clientSlots)
		if most*n > 3*clientSlots/2 && n <= 10 {
			t.Errorf("%d targets: a share of %d of %d slots", n, most, clientSlots)
		}
	}
}

func TestCompileByClient(t *testing.T) {
	services := []VirtualIP{{Address: addrs("10.1.255.1")[0], Replicas: addrs("10.1.0.2", "10.1.0.3"), ByClient: true},
		{Address: addrs("10.1.255.2")[0], Replicas: addrs("10.1.0.2"), ByClient: true},
		{Address: addrs("fd01::ff01")[0], Replicas: addrs("fd01::2", "fd01::3"), ByClient: true}}
	client := compileClient(services, services)
	for name, want := range map[string]string{
		"client512-ip":  "dnat ip to ip daddr . jhash ip saddr mod 512 seed 0x6d657368 map @replicas4",
		"client512-ip6": "dnat ip6 to ip6 daddr . jhash ip6 saddr mod 512 seed 0x6d657368 map @replicas6",
		"n1-ip":         "dnat ip to ip daddr . numgen random mod 1 map @replicas4", // nothing to choose from
	} {
		if c := client.chain(name); c == nil || len(c.rules) != 1 || c.rules[0].text != want {
			t.Errorf("chain %s: %+v", name, c)
		}
	}
	if n := len(client.set("replicas4").elements); n != clientSlots+1 {
		t.Errorf("%d slots", n)
	}
}

// A client, told by its address, stays with its replica by TCP and UDP; replicas that come and go move only
// those clients whose replica it is.
func TestAffinity(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	lab.client = linktest.Namespace(t, "clients") // one that is no replica
	lab.plug(t, lab.client, "eth0", 9)
	const clients = 60
	var sources []netip.Addr
	for i := range clients {
		for _, addr := range []netip.Addr{lab.addr4(100 + i), lab.addr6(1000 + i)} {
			bits := fmt.Sprintf("/%d dev eth0", addr.BitLen()-8)
			if addr.Is6() {
				bits = "/64 dev eth0 nodad"
			}
			linktest.Must(t, lab.client, "ip addr add "+addr.String()+bits)
			sources = append(sources, addr)
		}
	}
	apply := func(replicas ...int) {
		config := lab.config(replicas...)
		for i := range config.Clients[0].Services {
			config.Clients[0].Services[i].ByClient = true
		}
		mustApply(t, a, config)
	}
	placed := func() map[netip.Addr]string {
		where := map[netip.Addr]string{}
		for _, source := range sources {
			to := lab.addr4(vip)
			if source.Is6() {
				to = lab.addr6(vip)
			}
			for _, network := range []string{"tcp", "udp", "tcp"} {
				conn, err := dialFrom(lab.client, network, netip.AddrPortFrom(source, 0).String(), endpointOf(to, port))
				if err != nil {
					t.Fatal(err)
				}
				name, _, err := exchange(conn)
				_ = conn.Close()
				if err != nil || where[source] != "" && where[source] != name {
					t.Fatalf("%s: %s, then %s by %s, %v", source, where[source], name, network, err)
				}
				where[source] = name
			}
		}
		return where
	}
	apply(1, 2, 3)
	before, count := placed(), map[string]int{}
	for _, name := range before {
		count[name]++
	}
	if count["a"] < 15 || count["b"] < 15 || count["c"] < 15 { // 40 are expected with a deviation of 5
		t.Errorf("replicas have %v of the clients", count)
	}
	apply(1, 2)
	for source, name := range placed() {
		if before[source] != "c" && before[source] != name || name == "c" {
			t.Errorf("%s moved from %s to %s when c went", source, before[source], name)
		}
	}
	apply(1, 2, 3)
	for source, name := range placed() {
		if before[source] != name {
			t.Errorf("%s is with %s after c came back, not with %s", source, name, before[source])
		}
	}
}
