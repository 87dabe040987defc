package agent

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/peers/wireguard"
)

var update = flag.Bool("update", false, "write the golden files anew")

// at is an endpoint's presence on a network; blocks of the tests' networks hold 8 addresses.
type at struct {
	network string
	index   uint32
}

// endpoint adds an endpoint, and the claims it needs, to a document. Its id is twelve times
// the digit.
func endpoint(digit, name, service string, places []at, publish ...catalog.Publish) func(*catalog.Document) {
	return func(d *catalog.Document) {
		e := catalog.Endpoint{
			ID: strings.Repeat(digit, 12), Name: name, Service: service,
			Created: testTime, Health: catalog.Healthy, Publish: publish,
		}
		for _, p := range places {
			a := catalog.Attachment{Network: p.network, Index: p.index, MAC: "02:00:00:00:00:" + digit + digit}
			if service != "" && p.network != catalog.IngressNetwork {
				a.VIP, a.VIPStamp = 200+uint32(service[0]-'a'), testTime
			}
			e.Attachments = append(e.Attachments, a)
			claim := catalog.Claim{Network: p.network, Block: p.index / 8, Stamp: testTime}
			if !slices.Contains(d.Claims, claim) {
				d.Claims = append(d.Claims, claim)
			}
		}
		d.Endpoints = append(d.Endpoints, e)
	}
}

func tcp(published, target uint16, stamp catalog.Millis) catalog.Publish {
	return catalog.Publish{Published: published, Target: target, Protocol: "tcp", Stamp: stamp}
}

func udp(published, target uint16, stamp catalog.Millis) catalog.Publish {
	return catalog.Publish{Published: published, Target: target, Protocol: "udp", Stamp: stamp}
}

func (w *world) networks() []catalog.Record {
	return []catalog.Record{
		w.network("appnet", 1),
		w.network("backnet", 2, func(r *catalog.NetworkRecord) { r.Internal = true }),
		w.network(catalog.IngressNetwork, 9, func(r *catalog.NetworkRecord) { r.Internal = true }),
	}
}

// threeHosts is a mesh of a, b and c with a service on two of them.
func (w *world) threeHosts() []catalog.Record {
	return slices.Concat(w.admitted("b", "c"), w.networks(), []catalog.Record{
		w.document("a",
			endpoint("1", "web1", "web", []at{{"appnet", 8}, {"ingress", 8}}, tcp(8080, 80, testTime), udp(5353, 53, testTime)),
			endpoint("2", "job", "", []at{{"backnet", 8}}),
			endpoint("3", "ingress", "", []at{{"ingress", 9}})),
		w.document("b",
			endpoint("4", "web2", "web", []at{{"appnet", 16}, {"ingress", 16}}, tcp(8080, 80, testTime+1)),
			endpoint("5", "ingress", "", []at{{"ingress", 17}})),
		w.document("c",
			endpoint("6", "db", "db", []at{{"backnet", 24}, {"appnet", 24}, {"ingress", 24}}, tcp(8080, 5432, testTime+2)),
			endpoint("7", "ingress", "", []at{{"ingress", 25}}),
			endpoint("8", "web3", "web", []at{{"appnet", 26}, {"ingress", 26}}, tcp(8080, 80, testTime+3)),
			func(d *catalog.Document) { d.Endpoints[len(d.Endpoints)-1].Draining = true }),
		w.settings("appnet", "web", func(r *catalog.ServiceRecord) { r.Affinity = catalog.AffinityClientIP }),
	})
}

// grown is a mesh whose network has a second subnet, with an endpoint in each.
func (w *world) grown() []catalog.Record {
	const slot = 7 << 24
	network := w.network("appnet", 1, func(r *catalog.NetworkRecord) {
		r.More = []catalog.Growth{{Slot: 7, Subnet4: netip.MustParsePrefix("10.50.0.0/24")}}
	})
	return slices.Concat(w.admitted("b"), []catalog.Record{network,
		w.document("a", endpoint("1", "old", "", []at{{"appnet", 8}}), endpoint("2", "new", "", []at{{"appnet", slot + 8}}),
			func(d *catalog.Document) { d.Claims[1].Block = slot + 1 }),
		w.document("b", endpoint("4", "far", "", []at{{"appnet", slot + 16}}), func(d *catalog.Document) { d.Claims[0].Block = slot + 2 }),
	})
}

// inputs are what host a has, with the endpoints that its document says it has.
func (w *world) inputs(records ...catalog.Record) Inputs {
	c := w.catalog(records...)
	in := Inputs{
		Self: nodeOf("a"), PrivateKey: [32]byte{1}, ListenPort: 51820, View: c.View(),
		Domain: "mesh.internal", Search: []string{"example.org"},
		Upstreams:      []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		GatewaySubnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")}, GatewayMTU: 1500,
	}
	doc, _, _ := c.Document(in.Self)
	for i, e := range doc.Endpoints {
		l := Local{Endpoint: e, Namespace: "/run/meshd/endpoints/" + e.ID, Infrastructure: e.Name == "ingress", Resolver: e.Name == "web1"}
		if e.Name == "web1" {
			l.Key = "cni/1"
		}
		if l.Infrastructure {
			l.Namespace = netns.Host
		} else if n, _ := in.View.Network(e.Attachments[0].Network); !n.Internal {
			l.GatewayIndex = uint32(2 + i)
		}
		in.Locals = append(in.Locals, l)
	}
	return in
}

func all(ids ...catalog.NodeID) map[catalog.NodeID]bool {
	alive := make(map[catalog.NodeID]bool)
	for _, id := range ids {
		alive[id] = true
	}
	return alive
}

// show prints a value with a line for each struct that holds no other, leaving out what is zero.
func show(b *strings.Builder, indent, name string, v reflect.Value) {
	if v.IsZero() {
		return
	}
	if text, ok := v.Interface().(fmt.Stringer); ok {
		fmt.Fprintf(b, "%s%s %s\n", indent, name, text)
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		fmt.Fprintf(b, "%s%s\n", indent, name)
		for i := range v.NumField() {
			show(b, indent+"  ", strings.ToLower(v.Type().Field(i).Name), v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && !v.Type().Elem().Implements(reflect.TypeFor[fmt.Stringer]()):
		for i := range v.Len() {
			show(b, indent, strings.TrimSuffix(name, "s"), v.Index(i))
		}
	default:
		fmt.Fprintf(b, "%s%s %v\n", indent, name, v.Interface())
	}
}

func text(d Desired) string {
	var b strings.Builder
	show(&b, "", "desired", reflect.ValueOf(d))
	return b.String()
}

func TestCompile(t *testing.T) {
	w := newWorld(t)
	left := w.document("b", func(d *catalog.Document) { d.Sequence, d.Left = 2, true })
	for name, in := range map[string]Inputs{
		"founder":     w.inputs(append(w.admitted(), w.document("a"))...),
		"nothing":     {View: w.catalog().View()},
		"three-hosts": w.inputs(w.threeHosts()...),
		"left":        w.inputs(append(w.threeHosts(), left)...),
		"grown":       w.inputs(w.grown()...),
		"evicted":     w.inputs(append(w.threeHosts(), w.evict("b"))...),
	} {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", "compile", name+".golden")
			got := text(Compile(in))
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the desired state differs (-want +got); if that is right: go test ./agent -run TestCompile -update\n%s", diff)
			}
		})
	}
}

// TestLeaverKeepsItsTunnel: a host that leaves hears that the others know, and nothing else reaches it any more.
func TestLeaverKeepsItsTunnel(t *testing.T) {
	w := newWorld(t)
	left := w.document("b", func(d *catalog.Document) { d.Sequence, d.Left = 2, true })
	in := w.inputs(append(w.threeHosts(), left)...)
	for _, there := range []bool{true, false} {
		in.Alive = map[catalog.NodeID]bool{nodeOf("b"): there, nodeOf("c"): true}
		got := Compile(in)
		tunnel := slices.ContainsFunc(got.WireGuard.Peers, func(p wireguard.Peer) bool { return p.ID == string(nodeOf("b")) })
		if tunnel != there {
			t.Errorf("it is there: %t; it has a tunnel: %t", there, tunnel)
		}
		m, _ := in.View.Member(nodeOf("b"))
		for _, n := range got.Overlay.Networks {
			if slices.Contains(n.Remotes, m.Address) {
				t.Errorf("it is there: %t; network %s still sends to it", there, n.Name)
			}
		}
	}
}

// TestTestsSeeEveryField fails when Inputs, or anything in Desired, has a field that no
// test gives a value: give it one in threeHosts or grown.
func TestTestsSeeEveryField(t *testing.T) {
	in := newWorld(t).inputs(newWorld(t).threeHosts()...)
	in.Alive = all(nodeOf("a"), nodeOf("b"), nodeOf("c"))
	in.RTT = map[catalog.NodeID]time.Duration{nodeOf("b"): time.Millisecond} // see TestPreferLocal
	desired := Compile(in)
	in.Fenced = true // see TestCopyIsFenced
	for i := range reflect.TypeFor[Inputs]().NumField() {
		if reflect.ValueOf(in).Field(i).IsZero() {
			t.Errorf("the tests give no value to Inputs.%s", reflect.TypeFor[Inputs]().Field(i).Name)
		}
	}
	seen := make(map[string]bool)
	note(seen, "Desired", reflect.ValueOf(desired))
	note(seen, "Desired", reflect.ValueOf(Compile(newWorld(t).inputs(newWorld(t).grown()...))))
	for field, set := range seen {
		if !set {
			t.Errorf("no test gives a value to %s", field)
		}
	}
}

// note tells of every field of our structs, also in slices, whether it had a value anywhere.
func note(seen map[string]bool, name string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			note(seen, name, v.Index(i))
		}
	case v.Kind() == reflect.Struct && strings.Contains(v.Type().PkgPath(), "meshd"):
		for i := range v.NumField() {
			field := v.Type().String() + "." + v.Type().Field(i).Name
			seen[field] = seen[field] || !v.Field(i).IsZero()
			note(seen, field, v.Field(i))
		}
	}
}

func backends(d Desired, port uint16) []string {
	var out []string
	for _, p := range d.Ingress.Publish.Ports {
		if p.Published == port {
			for _, b := range p.Backends {
				out = append(out, b.String())
			}
		}
	}
	return out
}

// clientVIPs is the replicas that a local endpoint reaches by a service's virtual IP.
func clientVIPs(t *testing.T, d Desired, endpoint, vip string) []netip.Addr {
	t.Helper()
	for _, c := range d.Ingress.Clients {
		at := slices.IndexFunc(c.Services, func(v ingress.VirtualIP) bool { return v.Address.String() == vip })
		if c.Endpoint == strings.Repeat(endpoint, 12) && at >= 0 {
			return c.Services[at].Replicas
		}
	}
	t.Fatalf("endpoint %s has no %s: %+v", endpoint, vip, d.Ingress.Clients)
	return nil
}

func TestSuspendedHostIsOutOfRotationButReachable(t *testing.T) {
	w := newWorld(t)
	in := w.inputs(w.threeHosts()...)
	everybody := Compile(in)
	in.Alive = all(nodeOf("a"), nodeOf("c")) // b fails
	d := Compile(in)

	web := "10.1.0.222"
	if got := clientVIPs(t, everybody, "1", web); len(got) != 2 {
		t.Fatalf("with everybody alive web has %v", got)
	}
	if got := clientVIPs(t, d, "1", web); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.1.0.8")}) {
		t.Errorf("b failed; web has %v", got)
	}
	if got := backends(d, 8080); !slices.Equal(got, []string{"10.9.0.8:80", "[fd00:0:0:9::8]:80"}) {
		t.Errorf("b failed; port 8080 leads to %v", got)
	}
	for _, n := range d.DNS.Networks {
		for _, s := range n.Services {
			if s.Name == "web" && len(s.Replicas) != 1 {
				t.Errorf("b failed; DNS has the replicas %v", s.Replicas)
			}
		}
	}
	if diff := cmp.Diff(text(Desired{WireGuard: everybody.WireGuard, Overlay: everybody.Overlay}),
		text(Desired{WireGuard: d.WireGuard, Overlay: d.Overlay})); diff != "" {
		t.Errorf("a host that may come back any moment lost its tunnel or its forwarding entries:\n%s", diff)
	}
	in.Alive = all() // this host always counts itself
	if got := clientVIPs(t, Compile(in), "1", web); len(got) != 1 {
		t.Errorf("all others failed; web has %v", got)
	}
}

func TestUnhealthyAndDrainingReplicasAreOutOfRotation(t *testing.T) {
	w := newWorld(t)
	for what, edit := range map[string]func(*catalog.Endpoint){
		"unhealthy": func(e *catalog.Endpoint) { e.Health = catalog.Unhealthy },
		"starting":  func(e *catalog.Endpoint) { e.Health = catalog.Starting },
		"draining":  func(e *catalog.Endpoint) { e.Draining = true },
	} {
		worse := w.document("b",
			endpoint("4", "web2", "web", []at{{"appnet", 16}, {"ingress", 16}}, tcp(8080, 80, testTime+1)),
			func(d *catalog.Document) { d.Sequence = 2; edit(&d.Endpoints[0]) })
		d := Compile(w.inputs(append(w.threeHosts(), worse)...))
		if got := clientVIPs(t, d, "1", "10.1.0.222"); len(got) != 1 {
			t.Errorf("%s: web has %v", what, got)
		}
		if got := backends(d, 8080); len(got) != 2 {
			t.Errorf("%s: port 8080 leads to %v", what, got)
		}
	}
}

// Two hosts with one identity hand out the same addresses: the one that knows keeps none.
func TestCopyIsFenced(t *testing.T) {
	w := newWorld(t)
	in := w.inputs(w.threeHosts()...)
	in.Fenced = true
	if networks := Compile(in).Overlay.Networks; len(networks) > 0 {
		t.Errorf("a fenced host is on %d networks", len(networks))
	}
}

func TestLostAddressIsFenced(t *testing.T) {
	w := newWorld(t)
	thief := w.document("b", func(d *catalog.Document) {
		d.Sequence = 2
		d.Claims = []catalog.Claim{{Network: "appnet", Block: 1, Stamp: testTime - 1}} // a's, and older
	})
	in := w.inputs(append(w.threeHosts(), thief)...)
	for _, n := range Compile(in).Overlay.Networks {
		for _, p := range n.Ports {
			if n.Name == "appnet" {
				t.Errorf("endpoint %s keeps its port with %v, which is another host's now", p.Endpoint, p.Addresses)
			}
		}
	}
	doc, _, _ := w.catalog(append(w.threeHosts(), thief)...).Document(in.Self)
	got := claims.Displaced(in.View, in.Self, doc.Endpoints)
	if want := []claims.Place{{Endpoint: strings.Repeat("1", 12), Network: "appnet"}}; !slices.Equal(got, want) {
		t.Errorf("to be readdressed: %v, want %v", got, want)
	}
}

func TestServicesWithoutVirtualIPAreNotTranslated(t *testing.T) {
	w := newWorld(t)
	bare := w.document("b", endpoint("4", "web2", "cache", []at{{"appnet", 16}}), func(d *catalog.Document) {
		d.Sequence, d.Endpoints[0].Attachments[0].VIP = 2, 0
	})
	d := Compile(w.inputs(append(w.threeHosts(), bare)...))
	for _, c := range d.Ingress.Clients {
		for _, v := range c.Services {
			if !v.Address.IsValid() {
				t.Fatalf("client %s has a service without an address: %+v", c.Endpoint, v)
			}
		}
	}
	for _, n := range d.DNS.Networks {
		for _, s := range n.Services {
			for _, vip := range s.VIPs {
				if !vip.IsValid() {
					t.Fatalf("DNS has no address for %s", s.Name)
				}
			}
		}
	}
}

func TestOverlayMTU(t *testing.T) {
	w := newWorld(t)
	mtu := func(edits ...func(*catalog.Document)) int {
		records := append(w.admitted("b"), w.document("a"))
		return OverlayMTU(w.catalog(append(records, w.document("b", edits...))...).View())
	}
	for name, test := range map[string]struct{ got, want int }{
		"all alike":              {mtu(), 1350},
		"the narrowest":          {mtu(func(d *catalog.Document) { d.MTU = 1380 }), 1310},
		"not below IPv6's least": {mtu(func(d *catalog.Document) { d.MTU = 1280 }), 1280},
		"not of who has left":    {mtu(func(d *catalog.Document) { d.MTU, d.Left = 1300, true }), 1350},
		"nobody known":           {OverlayMTU(w.catalog(w.admitted()...).View()), 1280},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d, want %d", name, test.got, test.want)
		}
	}
}

func TestTunnelCarriesTheSmallestOverlay(t *testing.T) {
	w := newWorld(t)
	narrow := w.document("a", func(d *catalog.Document) { d.MTU = 1320 }) // of an underlay of 1400
	in := w.inputs(append(append(w.admitted(), w.networks()...), narrow)...)
	if d, overlay := Compile(in), OverlayMTU(in.View); overlay+VXLANOverhead > d.WireGuard.MTU {
		t.Errorf("VXLAN makes packets of %d bytes, the tunnel takes %d", overlay+VXLANOverhead, d.WireGuard.MTU)
	}
}

func TestEvictedHostItselfHasNothing(t *testing.T) {
	w := newWorld(t)
	in := w.inputs(w.threeHosts()...)
	in.View = w.catalog(append(w.threeHosts(), w.evict("a"))...).View()
	d := Compile(in)
	if len(d.Overlay.Networks) != 0 || d.WireGuard.MTU < minMTU {
		t.Errorf("%s", text(Desired{WireGuard: d.WireGuard, Overlay: d.Overlay}))
	}
}

func TestOrderOfInputsDoesNotMatter(t *testing.T) {
	w := newWorld(t)
	records := w.threeHosts()
	want := text(Compile(w.inputs(records...)))
	rapid.Check(t, func(rt *rapid.T) {
		in := w.inputs(rapid.Permutation(records).Draw(rt, "records")...)
		if diff := cmp.Diff(want, text(Compile(in))); diff != "" {
			rt.Fatalf("another order of records gives another state:\n%s", diff)
		}
	})
}

// What all tunnels of a host cost together must not grow with the mesh.
func TestKeepaliveGrowsWithTheMesh(t *testing.T) {
	for peers, want := range map[int]time.Duration{
		0: 25, 1: 25, 50: 25, 51: 100, 100: 100, 101: 200, 300: 400, 1000: 1600,
	} {
		if got := keepaliveAmong(peers); got != want*time.Second {
			t.Errorf("%d peers: %s, want %d s", peers, got, want)
		}
	}
}
