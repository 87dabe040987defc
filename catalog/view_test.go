package catalog

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// placing edits a document.
type placing = func(*Document)

// onNetwork adds an endpoint at an index of a network and claims the index's block
// with that stamp; stamp 0 adds the claim without an endpoint.
func onNetwork(network string, index uint32, stamp Millis, service string) placing {
	return func(d *Document) {
		size := uint32(64)
		if index < 64 {
			size = 4 // the tests' small network
		}
		d.Claims = append(d.Claims, Claim{network, index / size, stamp})
		if stamp == 0 {
			return
		}
		d.Endpoints = append(d.Endpoints, Endpoint{
			ID: fmt.Sprintf("%012x", index), Name: "e", Service: service, Created: testNow, Health: Healthy,
			Attachments: []Attachment{{Network: network, Index: index, MAC: "02:00:00:00:00:01"}},
		})
	}
}

// host is the document of a node with those placings, put in order.
func (w *world) host(node string, placings ...placing) Record {
	return w.document(node, func(d *Document) {
		for _, p := range placings {
			p(d)
		}
		slices.SortFunc(d.Claims, func(a, b Claim) int {
			if claimLess(a, b) {
				return -1
			}
			return 1
		})
		slices.SortFunc(d.Endpoints, func(a, b Endpoint) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
	})
}

func sorted(s []uint32) []uint32 { return slices.Sorted(slices.Values(s)) }

func TestMembers(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), w.join("a", "b"), w.join("b", "c"), w.join("a", "e"), []Record{w.evict("a", "e"),
		w.document("c", func(d *Document) { d.Sequence, d.Left = 2, true })})
	v := c.View()
	if v != c.View() {
		t.Error("the view is made again without a change")
	}
	if len(v.Members) != 4 || !slices.IsSortedFunc(v.Members, func(a, b Member) int { return compareStrings(a.ID, b.ID) }) {
		t.Fatalf("%+v", v.Members)
	}
	get := func(name string) Member { m, _ := v.Member(nodeID(name)); return m }
	if m := get("a"); !m.Signer || m.Sponsor != m.ID || m.Known || m.Evicted {
		t.Errorf("a: %+v", m)
	}
	if m := get("b"); m.Signer || !m.Known || m.Name != "b" || m.MTU != 1420 || m.Address != MeshAddress(w.mesh, m.ID) || m.Joined != testNow {
		t.Errorf("b: %+v", m)
	}
	if m := get("c"); !m.Left || m.Sponsor != nodeID("b") {
		t.Errorf("c: %+v", m)
	}
	if m := get("e"); !m.Evicted || m.Known {
		t.Errorf("e: %+v", m)
	}
	if v.Tokens[0].Used != 4 || v.Tokens[0].Revoked || v.Tokens[0].By != nodeID("a") {
		t.Errorf("tokens %+v", v.Tokens)
	}
}

func compareStrings[T ~string](a, b T) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

func TestNetworkCollisions(t *testing.T) {
	record := func(name string, created Millis, vni uint32, subnet string, explicit bool) NetworkRecord {
		return NetworkRecord{Name: name, Created: created, VNI: vni, Explicit: explicit,
			Subnet4: prefix(subnet), Subnet6: netip.PrefixFrom(netip.MustParseAddr("fd00::"), 64)}
	}
	for name, tc := range map[string]struct {
		in   []NetworkRecord
		want string
	}{
		"apart":                 {[]NetworkRecord{record("a", 1, 1, "10.1.0.0/16", false), record("b", 2, 2, "10.2.0.0/16", false)}, "a 1 10.1.0.0/16 b 2 10.2.0.0/16"},
		"the older keeps":       {[]NetworkRecord{record("a", 2, 1, "10.1.0.0/16", false), record("b", 1, 1, "10.1.0.0/16", false)}, "a 2 10.2.0.0/16 b 1 10.1.0.0/16"},
		"then the name":         {[]NetworkRecord{record("a", 1, 1, "10.1.0.0/16", false), record("b", 1, 1, "10.1.0.0/16", false)}, "a 1 10.1.0.0/16 b 2 10.2.0.0/16"},
		"explicit stays":        {[]NetworkRecord{record("a", 1, 1, "10.1.0.0/16", true), record("b", 2, 1, "10.1.0.0/16", true)}, "a 1 10.1.0.0/16 b 2 10.1.0.0/16"},
		"goes round":            {[]NetworkRecord{record("a", 1, maxVNI, "10.255.0.0/16", false), record("b", 2, maxVNI, "10.255.0.0/16", false)}, "a 16777215 10.255.0.0/16 b 1 10.0.0.0/16"},
		"jumps over the larger": {[]NetworkRecord{record("a", 1, 1, "10.0.0.0/9", false), record("b", 2, 2, "10.0.1.0/24", false)}, "a 1 10.0.0.0/9 b 2 10.128.0.0/24"},
		"no room: as it was":    {[]NetworkRecord{record("a", 1, 1, "10.0.0.0/8", false), record("b", 2, 2, "10.0.1.0/24", false)}, "a 1 10.0.0.0/8 b 2 10.0.1.0/24"},
		"the newest moves":      {[]NetworkRecord{record("a", 1, 1, "10.1.0.0/16", false), record("b", 2, 1, "10.1.0.0/16", false), record("c", 3, 2, "10.2.0.0/16", false)}, "a 1 10.1.0.0/16 b 2 10.2.0.0/16 c 3 10.3.0.0/16"},
	} {
		records := map[string]NetworkRecord{"gone": {Name: "gone", VNI: 1, Subnet4: prefix("10.1.0.0/16"), Register: Register{Deleted: true}}}
		for _, r := range tc.in {
			records[r.Name] = r
		}
		got := ""
		for _, n := range resolveNetworks(records) {
			got += fmt.Sprintf("%s %d %s ", n.Name, n.VNI, n.Subnet4)
		}
		if got != tc.want+" " {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestBlocksAndEndpoints(t *testing.T) {
	w := newWorld(t)
	base := append(append(w.founding(), w.join("a", "b")...), w.network("a", "n"))
	lower, higher := "a", "b"
	if nodeID("b") < nodeID("a") {
		lower, higher = higher, lower
	}
	twice := func(d *Document) {
		onNetwork("n", 70, 1, "")(d)
		d.Endpoints = append(d.Endpoints, d.Endpoints[0])
		d.Endpoints[1].ID, d.Endpoints[1].Created = "ffffffffffff", testNow-1
	}
	for name, tc := range map[string]struct {
		docs  []Record
		owner string // of block 1
		want  []string
	}{
		"one":                     {[]Record{w.host("a", onNetwork("n", 70, 5, ""))}, "a", []string{"a 10.1.0.70"}},
		"the older claim":         {[]Record{w.host("a", onNetwork("n", 70, 5, "")), w.host("b", onNetwork("n", 71, 4, ""))}, "b", []string{"b 10.1.0.71"}},
		"of one age the lower id": {[]Record{w.host(higher, onNetwork("n", 70, 5, "")), w.host(lower, onNetwork("n", 70, 5, ""))}, lower, []string{lower + " 10.1.0.70"}},
		"no claim":                {[]Record{w.host("a", onNetwork("n", 70, 5, ""), func(d *Document) { d.Claims = nil })}, "", nil},
		"left":                    {[]Record{w.host("a", onNetwork("n", 70, 5, ""), func(d *Document) { d.Left = true })}, "", nil},
		"the evicted loses":       {[]Record{w.host("b", onNetwork("n", 70, 4, "")), w.host("a", onNetwork("n", 71, 5, "")), w.evict("a", "b")}, "a", []string{"a 10.1.0.71"}},
		"the gateway's address":   {[]Record{w.host("a", onNetwork("n", 70, 5, ""), func(d *Document) { d.Endpoints[0].Attachments[0].Index = 1; d.Claims[0].Block = 0 })}, "", nil},
		"a virtual IP's address":  {[]Record{w.host("a", onNetwork("n", 49152, 5, ""))}, "", nil},
		"twice: the older":        {[]Record{w.host("a", twice)}, "a", []string{"a 10.1.0.70"}},
	} {
		for order := range 2 {
			docs := slices.Clone(tc.docs)
			if order == 1 {
				slices.Reverse(docs)
			}
			for i := range docs { // "b" and "a" may have documents already: newer ones stand
				if docs[i].Kind == KindDocument {
					docs[i] = w.again(docs[i], 2)
				}
			}
			n, _ := w.mergeAll(base, docs).View().Network("n")
			var got []string
			for _, e := range n.Endpoints {
				got = append(got, fmt.Sprintf("%s %s", w.nameOf(e.Node), e.IP4))
				if name == "twice: the older" && e.ID != "ffffffffffff" {
					t.Errorf("%s: %s", name, e.ID)
				}
			}
			if !reflect.DeepEqual(got, tc.want) || w.nameOf(n.Blocks[1]) != tc.owner {
				t.Errorf("%s: %v, block 1 is %s's", name, got, w.nameOf(n.Blocks[1]))
			}
		}
	}
}

// again signs a document anew with another sequence.
func (w *world) again(r Record, sequence uint64) Record {
	d, err := Decode[Document](r)
	if err != nil {
		w.t.Fatal(err)
	}
	d.Sequence = sequence
	return mustSign(w.t, keyOf(d.Name), KindDocument, d)
}

// mergeAll merges one record at a time and does not mind refusals.
func (w *world) mergeAll(groups ...[]Record) *Catalog {
	c := New(w.mesh)
	for _, g := range groups {
		for _, r := range g {
			c.Merge(testNow, r)
		}
	}
	return c
}

func (w *world) nameOf(id NodeID) string {
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if nodeID(name) == id {
			return name
		}
	}
	return string(id)
}

func TestServices(t *testing.T) {
	w := newWorld(t)
	first := LayoutOf(prefix("10.1.0.0/16")).VIPFirst
	replica := func(index, vip uint32, stamp Millis, service string) placing {
		return func(d *Document) {
			onNetwork("n", index, 1, service)(d)
			a := &d.Endpoints[len(d.Endpoints)-1].Attachments[0]
			a.VIP, a.VIPStamp = vip, stamp
		}
	}
	base := append(append(w.founding(), w.join("a", "b")...), w.network("a", "n"))
	byNode := func(a, b uint32) uint32 {
		if nodeID("a") < nodeID("b") {
			return a
		}
		return b
	}
	for name, tc := range map[string]struct {
		a, b placing
		want string
	}{
		"of one age the node":   {replica(64, first+5, 9, "db"), replica(128, first+4, 9, "db"), fmt.Sprint("db ", byNode(first+5, first+4), " 9 2")},
		"and the other round":   {replica(64, first+5, 9, "db"), replica(128, first+6, 9, "db"), fmt.Sprint("db ", byNode(first+5, first+6), " 9 2")},
		"the oldest vote":       {replica(64, first+5, 9, "db"), replica(128, first+6, 8, "db"), fmt.Sprint("db ", first+6, " 8 2")},
		"two services, one VIP": {replica(64, first+5, 9, "db"), replica(128, first+5, 8, "web"), fmt.Sprint("db ", first+6, " 9 1;web ", first+5, " 8 1")},
		"of one age the name":   {replica(64, first+5, 9, "db"), replica(128, first+5, 9, "web"), fmt.Sprint("db ", first+5, " 9 1;web ", first+6, " 9 1")},
		"goes round":            {replica(64, 65534, 1, "db"), replica(128, 65534, 2, "web"), fmt.Sprint("db 65534 1 1;web ", first, " 2 1")},
		"not a virtual IP":      {replica(64, 70, 1, "db"), replica(128, first, 2, "db"), fmt.Sprint("db ", first, " 2 2")},
		"none":                  {replica(64, 0, 0, "db"), replica(128, 0, 0, ""), "db 0 0 1"},
	} {
		c := w.mergeAll(base, []Record{w.host("a", tc.a), w.again(w.host("b", tc.b), 2)})
		got := ""
		for i, s := range c.View().Services {
			if i > 0 {
				got += ";"
			}
			got += fmt.Sprint(s.Name, " ", s.VIPIndex, " ", s.VIPStamp, " ", len(s.Replicas))
			if s.VIPIndex != 0 && (s.VIP4 != AddressAt(prefix("10.1.0.0/16"), s.VIPIndex) || !s.VIP6.Is6()) {
				t.Errorf("%s: %s %s", name, s.VIP4, s.VIP6)
			}
		}
		if got != tc.want {
			t.Errorf("%s: %s, not %s", name, got, tc.want)
		}
	}
}

func TestPublishedPorts(t *testing.T) {
	w := newWorld(t)
	ingress := w.network("a", IngressNetwork, func(n *NetworkRecord) { n.VNI, n.Subnet4 = 8, prefix("10.9.0.0/16") })
	base := append(append(w.founding(), w.join("a", "b")...), w.network("a", "n"), ingress)
	publish := func(index uint32, service string, target uint16, stamp Millis) placing {
		return func(d *Document) {
			onNetwork("n", index, 1, service)(d)
			e := &d.Endpoints[len(d.Endpoints)-1]
			e.Publish = []Publish{{8080, target, "tcp", stamp}}
			e.Attachments = append(e.Attachments, Attachment{Network: IngressNetwork, Index: index, MAC: "02:00:00:00:00:02"})
			d.Claims = append(d.Claims, Claim{IngressNetwork, index / 64, 1})
		}
	}
	for name, tc := range map[string]struct {
		a, b placing
		want string
	}{
		"two replicas":   {publish(64, "web", 80, 5), publish(128, "web", 80, 6), "web 8080 80 [10.9.0.64 10.9.0.128] ;"},
		"a conflict":     {publish(64, "api", 80, 5), publish(128, "web", 80, 4), "api 8080 80 [10.9.0.64] web.n;web 8080 80 [10.9.0.128] ;"},
		"of one age":     {publish(64, "api", 80, 5), publish(128, "web", 80, 5), "api 8080 80 [10.9.0.64] ;web 8080 80 [10.9.0.128] api.n;"},
		"another target": {publish(64, "web", 80, 5), publish(128, "web", 81, 6), "web 8080 80 [10.9.0.64] ;web 8080 81 [10.9.0.128] web.n;"},
	} {
		got := ""
		for _, s := range w.mergeAll(base, []Record{w.host("a", tc.a), w.again(w.host("b", tc.b), 2)}).View().Services {
			for _, p := range s.Ports {
				var backends []netip.Addr
				for _, b := range p.Backends {
					backends = append(backends, b.IP4)
				}
				got += fmt.Sprintf("%s %d %d %v %s;", s.Name, p.Published, p.Target, backends, p.Conflict)
			}
		}
		if got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
