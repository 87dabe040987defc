package wireguard

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a1 = netip.MustParseAddr("fd00:1::1")
	a2 = netip.MustParseAddr("fd00:1::2")
	e1 = netip.MustParseAddrPort("192.0.2.1:51820")
	e2 = netip.MustParseAddrPort("[2001:db8::2]:51820")
	e3 = netip.MustParseAddrPort("198.51.100.3:1024")
)

func host(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, 128)} }

func TestPlan(t *testing.T) {
	k1, k2 := [32]byte{1}, [32]byte{2}
	want1 := wantPeer{id: "one", key: k1, addresses: []netip.Addr{a1}, endpoints: []netip.AddrPort{e1, e2}, keepalive: 25 * time.Second}
	have1 := havePeer{key: k1, addresses: host(a1), endpoint: e1, keepalive: 25 * time.Second}
	tests := []struct {
		name string
		want []wantPeer
		have []havePeer
		ops  string
	}{
		{"nothing", nil, nil, ""},
		{"new", []wantPeer{want1}, nil,
			"peer AQAAAAAAAA (one) add allowed-ips fd00:1::1/128 endpoint 192.0.2.1:51820 persistent-keepalive 25"},
		{"right already", []wantPeer{want1}, []havePeer{have1}, ""},
		{"roamed", []wantPeer{want1}, []havePeer{{key: k1, addresses: host(a1), endpoint: e3, keepalive: 25 * time.Second}}, ""},
		{"no endpoint known", []wantPeer{{id: "one", key: k1, addresses: []netip.Addr{a1}}}, nil,
			"peer AQAAAAAAAA (one) add allowed-ips fd00:1::1/128"},
		{"wrong allowed IPs", []wantPeer{want1}, []havePeer{{key: k1, addresses: append(host(a1), host(a2)...), endpoint: e1, keepalive: 25 * time.Second}},
			"peer AQAAAAAAAA (one) allowed-ips fd00:1::1/128"},
		{"keepalive off", []wantPeer{{id: "one", key: k1, addresses: []netip.Addr{a1}}}, []havePeer{have1},
			"peer AQAAAAAAAA (one) persistent-keepalive 0"},
		{"gone", nil, []havePeer{have1}, "peer AQAAAAAAAA remove"},
		{"new key", []wantPeer{{id: "one", key: k2, addresses: []netip.Addr{a1}}}, []havePeer{have1},
			"peer AQAAAAAAAA remove\npeer AgAAAAAAAA (one) add allowed-ips fd00:1::1/128"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ops, _ := plan(tt.want, tt.have, nil, t0)
			var lines []string
			for _, o := range ops {
				lines = append(lines, o.String())
			}
			if diff := cmp.Diff(tt.ops, strings.Join(lines, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// look is the device's counters at one moment, and what the planner should do then.
type look struct {
	after    time.Duration // seconds
	rx, tx   int64
	endpoint netip.AddrPort // zero: what was last set
	set      netip.AddrPort
}

func TestTrial(t *testing.T) {
	tests := []struct {
		name      string
		keepalive time.Duration // seconds
		cands     []netip.AddrPort
		looks     []look
	}{
		{"the next is tried when the first does not answer, then the first again", 25, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 9, tx: 296}, {after: 10, tx: 444, set: e2}, {after: 15, tx: 592}, {after: 20, tx: 592, set: e1},
		}},
		{"a candidate without a route is given up though nothing can be sent", 25, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 5}, {after: 10, set: e2},
		}},
		{"an answer ends the trials", 25, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 10, tx: 444, set: e2}, {after: 11, tx: 600, rx: 92},
			{after: 40, tx: 900, rx: 92}, {after: 45, tx: 900, rx: 200}, {after: 80, tx: 1900, rx: 200},
		}},
		{"a path that worked is given up after the keepalive and some", 25, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 1, rx: 92, tx: 148}, {after: 40, rx: 92, tx: 500}, {after: 41, rx: 92, tx: 500, set: e2},
		}},
		{"with a long keepalive, silence says nothing for long", 400, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 1, rx: 92, tx: 148}, {after: 415, rx: 92, tx: 148}, {after: 416, rx: 92, tx: 148, set: e2},
		}},
		{"but what is sent is to be answered soon", 400, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 1, rx: 92, tx: 148}, {after: 300, rx: 92, tx: 148}, {after: 301, rx: 92, tx: 248},
			{after: 340, rx: 92, tx: 548}, {after: 341, rx: 92, tx: 648, set: e2},
		}},
		{"and an answer is the end of it", 400, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 1, rx: 92, tx: 148}, {after: 301, rx: 92, tx: 248}, {after: 302, rx: 192, tx: 248},
			{after: 380, rx: 192, tx: 248}, {after: 400, rx: 192, tx: 348}, {after: 439, rx: 192, tx: 348}, {after: 440, rx: 192, tx: 348, set: e2},
		}},
		{"a single candidate is called again and again", 25, []netip.AddrPort{e1}, []look{
			{set: e1}, {after: 10, set: e1}, {after: 15}, {after: 20, set: e1},
		}},
		{"without keepalives, silence on both sides says nothing", 0, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 1, rx: 92, tx: 148}, {after: 1000, rx: 92, tx: 148}, {after: 1010, rx: 92, tx: 248},
			{after: 1179, rx: 92, tx: 348}, {after: 1180, rx: 92, tx: 348, set: e2},
		}},
		{"where it roamed to is tried again, after the candidates", 25, []netip.AddrPort{e1, e2}, []look{
			{set: e1}, {after: 1, endpoint: e3, rx: 92, tx: 92}, {after: 60, rx: 92, tx: 900, set: e1},
			{after: 70, rx: 92, tx: 1900, set: e2}, {after: 80, rx: 92, tx: 2900, set: e3},
		}},
		{"nobody knows where it is", 25, nil, []look{{}, {after: 100}, {after: 101, endpoint: e3, rx: 148}, {after: 110, rx: 148}, {after: 141, rx: 148, set: e3}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := wantPeer{addresses: []netip.Addr{a1}, endpoints: tt.cands, keepalive: tt.keepalive * time.Second}
			var known trial
			var current netip.AddrPort
			for i, l := range tt.looks {
				if l.endpoint.IsValid() {
					current = l.endpoint
				}
				var set netip.AddrPort
				set, known = known.next(w, havePeer{endpoint: current, rx: l.rx, tx: l.tx}, t0.Add(l.after*time.Second))
				if set != l.set {
					t.Fatalf("look %d at %d s: set %s, want %s", i, l.after, set, l.set)
				}
				if set.IsValid() {
					current = set
				}
			}
		})
	}
}

// A device that was just found keeps its endpoints, and a session counts as a path that worked.
func TestTrialAdopts(t *testing.T) {
	w := wantPeer{endpoints: []netip.AddrPort{e1, e2}, keepalive: 25 * time.Second}
	h := havePeer{endpoint: e1, rx: 1000, tx: 1000, handshake: t0.Add(-time.Minute)}
	set, known := trial{}.next(w, h, t0)
	if set.IsValid() || !known.worked {
		t.Fatalf("set %s, known %+v", set, known)
	}
	h.tx += 100
	if set, _ := known.next(w, h, t0.Add(20*time.Second)); set.IsValid() {
		t.Errorf("gave up a session after 20 s: %s", set)
	}
}

func TestWantPeers(t *testing.T) {
	self := [32]byte{9}
	cfg := Config{Address: netip.MustParsePrefix("fd00:1::9/48"), Peers: []Peer{
		{ID: "one", PublicKey: [32]byte{1}, Address: a1, Endpoints: []netip.AddrPort{e1, e1, {}}, Keepalive: 2500 * time.Millisecond},
		{ID: "liar", PublicKey: [32]byte{1}, Address: a2, Endpoints: []netip.AddrPort{e2}},
		{ID: "thief", PublicKey: [32]byte{3}, Address: a1},
		{ID: "mirror", PublicKey: self, Address: netip.MustParseAddr("fd00:1::4")},
		{ID: "keyless", Address: netip.MustParseAddr("fd00:1::5")},
		{ID: "squatter", PublicKey: [32]byte{6}, Address: cfg9},
	}}
	got := wantPeers(cfg, self, slog.New(slog.DiscardHandler))
	want := []wantPeer{{
		id: "one", key: [32]byte{1}, addresses: []netip.Addr{a1, a2},
		endpoints: []netip.AddrPort{e1, e2}, keepalive: 2 * time.Second,
	}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(wantPeer{}), cmp.Comparer(sameAddr), cmp.Comparer(sameAddrPort)); diff != "" {
		t.Error(diff)
	}
}

var cfg9 = netip.MustParseAddr("fd00:1::9")

func sameAddr(a, b netip.Addr) bool         { return a == b }
func sameAddrPort(a, b netip.AddrPort) bool { return a == b }

func TestConfigValidate(t *testing.T) {
	good := Config{PrivateKey: [32]byte{1}, ListenPort: 51820, Address: netip.MustParsePrefix("fd00:1::9/48"), MTU: 1420}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no private key":          func(c *Config) { c.PrivateKey = [32]byte{} },
		"wireguard.listen_port":   func(c *Config) { c.ListenPort = 0 },
		"is not an IPv6 address":  func(c *Config) { c.Address = netip.MustParsePrefix("10.0.0.1/8") },
		"it must be 1280":         func(c *Config) { c.MTU = 1279 },
		"must be 1280 to 65535, ": func(c *Config) { c.MTU = 70000 },
	} {
		bad := good
		spoil(&bad)
		if err := bad.validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
