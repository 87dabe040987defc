package catalog

import (
	"slices"
	"testing"
)

// The blocks of who left, or was evicted, are nobody's for a while, wherever one looks from; then
// they can be claimed.
func TestBlocksOfTheGoneRest(t *testing.T) {
	w := newWorld(t)
	tiny := w.network("a", "n", func(n *NetworkRecord) { n.Subnet4 = prefix("10.3.0.0/29") })
	claim := func(blocks ...uint32) func(*Document) {
		return func(d *Document) {
			d.Sequence = 2
			for _, b := range blocks {
				d.Claims = append(d.Claims, Claim{"n", b, testNow})
			}
		}
	}
	c := w.filled(w.founding(), w.join("a", "b"), w.join("a", "c"), []Record{tiny,
		w.document("a"), w.document("b", claim(1)), w.document("c", claim(2)),
	})
	n, _ := c.View().Network("n")
	if len(n.Blocks) != 2 {
		t.Fatalf("blocks %v", n.Blocks)
	}
	gone := testNow + 1000
	revocation := w.evict("a", "b")
	body, err := Decode[Revocation](revocation)
	if err != nil {
		t.Fatal(err)
	}
	doc, _, _ := c.Document(nodeID("b"))
	body.Claims, body.Issued = doc.Claims, gone
	c.Merge(testNow, mustSign(t, keyOf("a"), KindRevocation, body), w.document("c", claim(2), func(d *Document) {
		d.Sequence, d.Left, d.Stamp = 3, true, gone+5000
	}))
	for _, seen := range []*Catalog{c, w.filled(c.Records())} { // a newcomer knows as well
		for _, tc := range []struct {
			now  Millis
			want []uint32
		}{
			{gone, nil},
			{gone.Add(Quarantine) - 1, nil},
			{gone.Add(Quarantine), []uint32{1}},
			{gone.Add(Quarantine) + 5000, []uint32{1, 2}},
		} {
			var free []uint32
			resting := seen.View().Quarantined("n", tc.now)
			for b := uint32(1); b < 3; b++ {
				if resting[b] == 0 {
					free = append(free, b)
				}
			}
			if !slices.Equal(free, tc.want) {
				t.Errorf("%d ms after: free %v, want %v", tc.now-gone, free, tc.want)
			}
			block, ok := seen.View().NextClaim("n", nodeID("a"), tc.now)
			if _, usable := slices.BinarySearch(tc.want, block); ok != (tc.want != nil) || ok && !usable {
				t.Errorf("%d ms after: claims %d, %v", tc.now-gone, block, ok)
			}
		}
	}
}
