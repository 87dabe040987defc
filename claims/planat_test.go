package claims

import (
	"net/netip"
	"testing"

	"github.com/meshd/meshd/catalog"
)

// TestPlanAt is about one address that somebody asks for.
func TestPlanAt(t *testing.T) {
	c := founded(t)
	network := sign(t, "a", catalog.KindNetwork, catalog.NetworkRecord{
		Register: catalog.Register{Revision: 1, Stamp: testNow}, Mesh: catalog.MeshIDOf(pub("mesh")), Name: block(1).Network, Created: testNow, VNI: 1,
		Subnet4: netip.MustParsePrefix("10.1.0.0/16"), Subnet6: netip.MustParsePrefix("fd00:1::/64"),
	})
	if _, rejected := c.Merge(testNow, network); len(rejected) > 0 {
		t.Fatal(rejected)
	}
	a := NewAuthor(c, keyOf("a"), "1")
	write(t, a, c, block(1))
	b := NewAuthor(c, keyOf("b"), "1")
	write(t, b, c, block(2))
	n, ok := c.View().Network(block(1).Network)
	if !ok {
		t.Fatal("there is no network")
	}
	at := func(number uint32) uint32 {
		first, _ := n.Space.Range(number)
		return first
	}
	self := catalog.NodeIDOf(pub("a"))
	for _, test := range []struct {
		name      string
		index     uint32
		busy      bool
		confirmed bool
		want      Step
	}{
		{"in a block that all have acknowledged", at(1), false, true, Hand},
		{"in one that they have not", at(1), false, false, Ask},
		{"in use", at(1), true, true, Full},
		{"in a block of another's", at(2), false, true, Full},
		{"in a block of nobody's", at(3), false, true, Make},
		{"a virtual IP", n.Space[0].Layout.VIPFirst, false, true, Full},
		{"the gateway's", 1, false, true, Full},
	} {
		got := PlanAt(Request{
			View: c.View(), Network: n.Name, Self: self, Claims: a.Document().Claims, Now: 7,
			Confirmed: func(catalog.Claim) bool { return test.confirmed }, Busy: func(uint32) bool { return test.busy },
		}, test.index)
		if got.Step != test.want || got.Step == Hand && got.Index != test.index {
			t.Errorf("%s: %+v, want step %d", test.name, got, test.want)
		}
		if got.Step == Make && (got.Claim.Block != 3 || got.Claim.Stamp != 7) {
			t.Errorf("%s: claim %+v", test.name, got.Claim)
		}
	}
}
