package overlay

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// tables is the kernel's forwarding and neighbour tables, as far as plan knows them.
type tables map[key]entry

func (t tables) apply(ops []op) {
	for _, o := range ops {
		if o.delete {
			delete(t, o.entry.key())
		} else {
			t[o.entry.key()] = o.entry
		}
	}
}

func (t tables) rows() []entry {
	var rows []entry
	for _, e := range t {
		rows = append(rows, e)
	}
	return rows
}

func drawEntries(t *rapid.T, label string) []entry {
	all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) entry {
		e := entry{kind: kind(rapid.IntRange(0, 3).Draw(t, "kind")), group: rapid.IntRange(1, 2).Draw(t, "group")}
		e.link = e.group
		e.mac[5] = byte(rapid.IntRange(1, 4).Draw(t, "mac"))
		e.ip = netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 4).Draw(t, "ip"))})
		switch e.kind {
		case kindPort:
			e.link, e.ip = rapid.IntRange(3, 5).Draw(t, "port"), netip.Addr{}
		case kindFlood:
			e.mac = mac{}
		}
		return e
	}), 0, 12).Draw(t, label)
	seen := make(map[key]bool)
	return slices.DeleteFunc(all, func(e entry) bool {
		was := seen[e.key()]
		seen[e.key()] = true
		return was
	})
}

func TestPlanLeadsFromAnywhereToWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := drawEntries(t, "have"), drawEntries(t, "want")
		for i := range have {
			have[i].wrong = rapid.Bool().Draw(t, "wrong")
		}
		kernel := make(tables)
		for _, e := range have {
			kernel[e.key()] = e
		}
		kernel.apply(plan(want, have))
		if len(kernel) != len(want) {
			t.Fatalf("%d rows, want %d", len(kernel), len(want))
		}
		for _, e := range want {
			if kernel[e.key()] != e {
				t.Fatalf("%v is missing", e)
			}
		}
		if again := plan(want, kernel.rows()); len(again) != 0 {
			t.Fatalf("a second plan is not empty: %v", again)
		}
	})
}

func TestPlanReadsLikeTheTools(t *testing.T) {
	vtep, other := netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::3")
	m := mac{2, 0, 0, 0, 0, 9}
	want := []entry{{kind: kindTunnel, group: 5, link: 5, mac: m, ip: vtep}, {kind: kindFlood, group: 5, link: 5, ip: vtep}}
	have := []entry{
		{kind: kindTunnel, group: 5, link: 5, mac: m, ip: other}, // moved
		{kind: kindFlood, group: 5, link: 5, ip: other},          // gone
		{kind: kindNeighbor, group: 4, link: 4, mac: m, ip: netip.MustParseAddr("10.0.0.9")},
	}
	expected := []string{
		"bridge fdb replace 02:00:00:00:00:09 dev #5 self dst fd00::2",
		"bridge fdb append 00:00:00:00:00:00 dev #5 self dst fd00::2",
		"bridge fdb del 00:00:00:00:00:00 dev #5 self dst fd00::3",
		"ip neigh del 10.0.0.9 lladdr 02:00:00:00:00:09 dev #4 nud permanent",
	}
	var got []string
	for _, o := range plan(want, have) {
		got = append(got, o.String())
	}
	if !slices.Equal(got, expected) {
		t.Errorf("got\n%q\nwant\n%q", got, expected)
	}
}

func TestSecondDestinationIsRemoved(t *testing.T) {
	right := entry{kind: kindTunnel, group: 5, link: 5, mac: mac{2}, ip: netip.MustParseAddr("fd00::2")}
	extra := right
	extra.ip = netip.MustParseAddr("fd00::3")
	ops := plan([]entry{right}, []entry{right, extra})
	if len(ops) != 1 || !ops[0].delete || ops[0].entry != extra {
		t.Errorf("got %v", ops)
	}
}

func TestNamesFitAndAreOurs(t *testing.T) {
	for _, name := range []string{BridgeName(1<<24 - 1), VXLANName(1), PortName("0123456789ab", "appnet")} {
		if len(name) > 15 || !isOurs(name) {
			t.Errorf("%s", name)
		}
	}
	if PortName("0123456789ab", "a") == PortName("0123456789ab", "b") {
		t.Error("two networks of one endpoint have one name")
	}
	for _, name := range []string{"lo", "wg0", "meshd", "br0", "vxlan1", "br-lan"} {
		if isOurs(name) {
			t.Errorf("%s is not ours", name)
		}
	}
}
