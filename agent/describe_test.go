package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/ingress"
)

// TestAliases: an alias that exactly a service's replicas have is the service, any other is those who have it.
func TestAliases(t *testing.T) {
	w := newWorld(t)
	alias := func(names string) func(*catalog.Document) {
		return func(d *catalog.Document) { d.Endpoints[len(d.Endpoints)-1].Attachments[0].Aliases = names }
	}
	in := w.inputs(slices.Concat(w.admitted("b"), w.networks(), []catalog.Record{
		w.document("a",
			endpoint("1", "web1", "web", []at{{"appnet", 8}}), alias("front one"),
			endpoint("2", "job", "", []at{{"appnet", 9}}), alias("job1 mixed"),
		),
		w.document("b",
			endpoint("4", "web2", "web", []at{{"appnet", 16}}), alias("front mixed web"),
			endpoint("5", "sick", "", []at{{"appnet", 17}}), alias("mixed sick"),
			func(d *catalog.Document) { d.Endpoints[len(d.Endpoints)-1].Health = catalog.Unhealthy },
		),
	})...)
	n, _ := in.View.Network("appnet")
	web, ok := in.View.Service("appnet", "web")
	if !ok {
		t.Fatal("there is no service web")
	}
	address := func(indexes ...uint32) (out []netip.Addr) {
		for _, i := range indexes {
			out = append(out, n.Space.Address(i), catalog.AddressAt(n.Subnet6, i))
		}
		return out
	}
	got := map[string][]netip.Addr{}
	for _, s := range dnsNetwork(in, n).Services {
		if s.Name != "web" {
			got[s.Name] = s.VIPs
		}
	}
	want := map[string][]netip.Addr{
		"front": {web.VIP4, web.VIP6}, "one": address(8), "job1": address(9), "mixed": address(9, 16), "sick": nil,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestJoinAliases(t *testing.T) {
	got := joinAliases([]string{"Front", "web", "front", "no name", "a.b", "-x", "ünicode"}, "web")
	if want := "a.b front"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestHostPorts: what is published on one host leads to its own endpoints, and what the mesh publishes goes first.
func TestHostPorts(t *testing.T) {
	w := newWorld(t)
	in := w.inputs(w.threeHosts()...)
	for i := range in.Locals {
		if in.Locals[i].Name == "web1" {
			in.Locals[i].HostPublish = []catalog.Publish{
				{Published: 9000, Target: 90, Protocol: "tcp"},
				{Published: 8080, Target: 90, Protocol: "tcp"}, // the mesh's already
			}
		}
	}
	n, _ := in.View.Network(catalog.IngressNetwork)
	ofMesh := []ingress.Port{{Protocol: "tcp", Published: 8080}}
	want := []ingress.Port{{Protocol: "tcp", Published: 9000, Backends: []netip.AddrPort{
		netip.AddrPortFrom(n.Space.Address(8), 90), netip.AddrPortFrom(catalog.AddressAt(n.Subnet6, 8), 90),
	}}}
	got := hostPorts(in, ofMesh)
	for i := range got {
		got[i].Shared = false
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestIndexOf: an address of either family, also in a subnet that the network has grown by, has an index.
func TestIndexOf(t *testing.T) {
	w := newWorld(t)
	c := w.catalog(append(w.admitted(), w.document("a"), w.network("appnet", 1, func(r *catalog.NetworkRecord) {
		r.More = []catalog.Growth{{Slot: 3, Subnet4: netip.MustParsePrefix("10.200.0.0/24")}}
	}))...)
	n, _ := c.View().Network("appnet")
	for _, test := range []struct {
		address string
		same    string // the address of the index in the other family, or itself; empty: outside
	}{
		{"10.1.0.8", "10.1.0.8"}, {"fd00:0:0:1::8", "10.1.0.8"}, {"10.200.0.9", "10.200.0.9"}, {"10.2.0.8", ""}, {"fd00:0:0:2::8", ""}, {"fd00:0:0:1:1::8", ""},
	} {
		index, ok := indexOf(n, netip.MustParseAddr(test.address))
		if ok != (test.same != "") || ok && n.Space.Address(index).String() != test.same {
			t.Errorf("%s: index %d, %t, which is %s", test.address, index, ok, n.Space.Address(index))
		}
	}
}
