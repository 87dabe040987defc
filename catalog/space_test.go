package catalog

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// grow has the holder of a catalog let network n grow, and merges the record.
func (w *world) grow(c *Catalog, by, subnet string, now Millis) Record {
	w.t.Helper()
	req := GrowthRequest{Name: "n", Now: now, Pools: []netip.Prefix{prefix("10.0.0.0/8")}, PrefixLen: 24}
	if subnet != "" {
		req.Subnet = prefix(subnet)
	}
	r, err := c.View().GrowNetwork(req)
	if err != nil {
		w.t.Fatal(err)
	}
	record := mustSign(w.t, keyOf(by), KindNetwork, r)
	if _, rejected := c.Merge(testNow, record); len(rejected) > 0 {
		w.t.Fatal(rejected)
	}
	return record
}

// fill claims blocks of network n for "a", and puts an endpoint on the first address of each, until
// there is no more. It returns the addresses.
func (w *world) fill(c *Catalog) (addresses []netip.Addr) {
	w.t.Helper()
	own, _, _ := c.Document(nodeID("a"))
	for {
		block, ok := c.View().NextClaim("n", nodeID("a"), testNow)
		if !ok {
			n, _ := c.View().Network("n")
			for _, e := range n.Endpoints {
				addresses = append(addresses, e.IP4)
			}
			return addresses
		}
		own.Sequence++
		n, _ := c.View().Network("n")
		first, _ := n.Space.Range(block)
		own.Claims = append(slices.Clone(own.Claims), Claim{"n", block, testNow})
		slices.SortFunc(own.Claims, func(a, b Claim) int { return int(int64(a.Block) - int64(b.Block)) })
		own.Endpoints = append(slices.Clone(own.Endpoints), Endpoint{
			ID: fmt.Sprintf("%012x", len(own.Endpoints)), Name: "e", Created: testNow, Health: Healthy, Service: fmt.Sprint("s", len(own.Endpoints)),
			Attachments: []Attachment{{Network: "n", Index: first, MAC: "02:00:00:00:00:01", VIP: n.Space[0].Layout.VIPFirst, VIPStamp: testNow}},
		})
		if _, rejected := c.Merge(testNow, mustSign(w.t, keyOf("a"), KindDocument, own)); len(rejected) > 0 {
			w.t.Fatal(rejected)
		}
	}
}

func TestGrownNetworkKeepsWhatItHad(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), []Record{w.network("a", "n", func(n *NetworkRecord) { n.Subnet4 = prefix("10.1.0.0/29") }), w.document("a")})
	small := w.fill(c)
	if n, _ := c.View().Network("n"); len(small) != 2 || n.Usage() != 1 {
		t.Fatalf("%v, usage %v", small, n.Usage())
	}
	before, _ := c.View().Network("n")
	vips := serviceIPs(c.View())

	w.grow(c, "a", "10.9.0.0/28", testNow+1)
	w.grow(c, "a", "", testNow+2)
	after, _ := c.View().Network("n")
	if after.Usage() > 0.1 || after.VNI != before.VNI || after.Subnet4 != before.Subnet4 || after.Subnet6 != before.Subnet6 {
		t.Errorf("grown: %+v", after)
	}
	if !slices.Equal(after.Endpoints, before.Endpoints) {
		t.Errorf("endpoints moved: %v", after.Endpoints)
	}
	large := w.fill(c)
	for i, s := range small {
		if large[i] != s {
			t.Errorf("%s became %s", s, large[i])
		}
	}
	in := map[netip.Prefix]int{}
	seen := map[netip.Addr]bool{}
	n, _ := c.View().Network("n")
	for _, e := range n.Endpoints {
		in[n.Space.SubnetOf(e.IP4)]++
		if seen[e.IP4] || seen[e.IP6] || !n.Subnet6.Contains(e.IP6) {
			t.Errorf("%s %s twice, or outside", e.IP4, e.IP6)
		}
		seen[e.IP4], seen[e.IP6] = true, true
		if index, ok := c.View().FreeIndex("n", nodeID("a"), func(uint32) bool { return false }); ok && n.Space.Address(index) == e.IP4 {
			t.Errorf("%s is free and taken", e.IP4)
		}
	}
	if len(n.Space) != 3 || in[prefix("10.1.0.0/29")] != 2 || in[prefix("10.9.0.0/28")] != 5 || in[n.Space[2].Subnet] != 24 {
		t.Errorf("endpoints by subnet: %v", in)
	}
	// The only virtual IP of the first subnet went to the oldest; the others overflow.
	grown := serviceIPs(c.View())
	for name, ip := range vips {
		if ip.IsValid() && grown[name] != ip {
			t.Errorf("the virtual IP of %s moved from %s to %s", name, ip, grown[name])
		}
	}
	given := map[netip.Addr]string{}
	for name, ip := range grown {
		if given[ip] != "" || !ip.IsValid() || seen[ip] {
			t.Errorf("%s and %s have %s", name, given[ip], ip)
		}
		given[ip] = name
	}
}

func serviceIPs(v *View) map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for _, s := range v.Services {
		out[s.Name] = s.VIP4
	}
	return out
}

// Two halves of a mesh let a network grow by different subnets. One of them stands; what was given out of
// the other has no address, and nothing has one that it did not have before.
func TestHalvesGrowApart(t *testing.T) {
	w := newWorld(t)
	base := w.filled(w.founding(), w.join("a", "b"), []Record{w.network("a", "n"), w.document("a")})
	left, right := w.filled(base.Records()), w.filled(base.Records())
	w.grow(left, "a", "10.8.0.0/24", testNow+1)
	record := w.grow(right, "b", "10.9.0.0/24", testNow+2)
	n, _ := left.View().Network("n")
	block := n.Space[1].Slot << 24
	left.Merge(testNow, w.document("a", func(d *Document) {
		d.Sequence = 2
		d.Claims = []Claim{{"n", block + 1, testNow}}
		d.Endpoints = []Endpoint{{ID: "00000000000a", Created: testNow, Health: Healthy,
			Attachments: []Attachment{{Network: "n", Index: block + n.Space[1].Layout.BlockSize, MAC: "02:00:00:00:00:01"}}}}
	}))
	if n, _ = left.View().Network("n"); len(n.Endpoints) != 1 || n.Endpoints[0].IP4 != netip.MustParseAddr("10.8.0.8") {
		t.Fatalf("%+v", n.Endpoints)
	}
	left.Merge(testNow, record)
	n, _ = left.View().Network("n")
	if len(n.Endpoints) != 0 || len(n.Blocks) != 0 || !slices.Equal(n.Space.Subnets(), []netip.Prefix{prefix("10.1.0.0/16"), prefix("10.9.0.0/24")}) {
		t.Errorf("%+v", n)
	}
}

func TestGrowthIsRefused(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), []Record{w.network("a", "n"), w.network("a", "m", func(n *NetworkRecord) {
		n.VNI, n.Subnet4, n.Subnet6 = 8, prefix("10.7.0.0/16"), prefix("fd00:0:0:8::/64")
	})})
	for name, tc := range map[string]struct {
		req  GrowthRequest
		want error
	}{
		"no network":       {GrowthRequest{Name: "x", Subnet: prefix("10.9.0.0/24")}, ErrNotFound},
		"its own subnet":   {GrowthRequest{Name: "n", Subnet: prefix("10.1.4.0/24")}, ErrOverlap},
		"another's":        {GrowthRequest{Name: "n", Subnet: prefix("10.7.4.0/24")}, ErrOverlap},
		"IPv6":             {GrowthRequest{Name: "n", Subnet: prefix("fd55::/64")}, ErrInvalid},
		"too small":        {GrowthRequest{Name: "n", Subnet: prefix("10.9.0.0/30")}, ErrInvalid},
		"special":          {GrowthRequest{Name: "n", Subnet: prefix("127.0.0.0/24")}, ErrInvalid},
		"no room in pools": {GrowthRequest{Name: "n", PrefixLen: 16, Pools: []netip.Prefix{prefix("10.7.0.0/16")}}, ErrNoRoom},
	} {
		if _, err := c.View().GrowNetwork(tc.req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestSummarizeRoutes(t *testing.T) {
	many := []netip.Prefix{prefix("10.0.0.0/8")}
	for i := range 200 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 4}), 30))
	}
	for name, tc := range map[string]struct{ in, want []netip.Prefix }{
		"nothing":           {nil, nil},
		"a default route":   {[]netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}, nil},
		"within another":    {[]netip.Prefix{prefix("10.1.2.0/24"), prefix("10.0.0.0/8"), prefix("fd00::/64")}, []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/64")}},
		"halves":            {[]netip.Prefix{prefix("10.1.1.0/24"), prefix("10.1.0.0/24"), prefix("10.1.2.0/23")}, []netip.Prefix{prefix("10.1.0.0/22")}},
		"neighbours":        {[]netip.Prefix{prefix("10.1.1.0/24"), prefix("10.1.2.0/24")}, []netip.Prefix{prefix("10.1.1.0/24"), prefix("10.1.2.0/24")}},
		"an address's bits": {[]netip.Prefix{prefix("10.1.1.7/24")}, []netip.Prefix{prefix("10.1.1.0/24")}},
	} {
		if got := SummarizeRoutes(tc.in); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	got := SummarizeRoutes(many)
	if len(got) != maxRoutes || got[0] != prefix("10.0.0.0/8") || checkRoutes(got) != nil {
		t.Errorf("%d: %v", len(got), got)
	}
}
