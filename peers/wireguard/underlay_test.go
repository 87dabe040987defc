package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

func addrs(in ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestChooseUnderlay(t *testing.T) {
	const up = net.FlagUp
	links := []underlayLink{
		{1, "lo", up | net.FlagLoopback, 65536, addrs("127.0.0.1", "::1", "192.0.2.99")},
		{2, "eth1", up, 9000, addrs("10.0.0.5")},
		{3, "eth0", up, 1500, addrs("fe80::1", "2001:db8::5", "192.0.2.5", "192.0.2.6")},
		{4, "docker0", up, 1400, addrs("172.17.0.1")},
		{5, "br-0123456789ab", up, 1400, addrs("172.18.0.1")},
		{6, "veth1234", up, 1400, addrs("172.19.0.1")},
		{7, "meshd0", up, 1400, addrs("172.20.0.1")},
		{8, "wg0", up, 1400, addrs("172.21.0.1")},
		{9, "eth2", 0, 1400, addrs("10.0.1.5")},
		{10, "eth3", up, 1300, addrs("fe80::3", "169.254.0.1")},
		{11, "br0", up, 1450, addrs("10.0.2.5")},
	}
	tests := []struct {
		name     string
		links    []underlayLink
		defaults []int
		want     Underlay
	}{
		{"nothing", nil, nil, Underlay{}},
		{"by index", links, nil, Underlay{addrs("10.0.0.5", "192.0.2.5", "192.0.2.6", "2001:db8::5", "10.0.2.5"), 1450}},
		{"default route first", links, []int{3, 11, 3}, Underlay{addrs("192.0.2.5", "192.0.2.6", "2001:db8::5", "10.0.2.5", "10.0.0.5"), 1450}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := chooseUnderlay(tt.links, tt.defaults)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(sameAddr)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDeviceMTU(t *testing.T) {
	v4 := []netip.AddrPort{e1}
	both := []netip.AddrPort{e1, e2}
	tests := []struct {
		underlay   int
		candidates []netip.AddrPort
		want       int
		warns      bool
	}{
		{1500, v4, 1440, false}, {1500, both, 1420, false}, {1500, nil, 1420, false}, {0, nil, 1420, false},
		{9000, both, 8920, false}, {1430, both, 1350, false}, {1429, both, 1349, true}, {1280, v4, 1280, true},
	}
	for _, tt := range tests {
		got, warning := DeviceMTU(tt.underlay, tt.candidates)
		if got != tt.want || (warning != "") != tt.warns {
			t.Errorf("DeviceMTU(%d, %v) = %d, %q", tt.underlay, tt.candidates, got, warning)
		}
	}
}

func TestAdvertise(t *testing.T) {
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "node.example":
			return addrs("::ffff:192.0.2.7", "2001:db8::7"), nil
		case "localhost":
			return addrs("127.0.0.1"), nil
		}
		return nil, errors.New("no such host")
	}
	entries := []string{
		"192.0.2.5", "192.0.2.5:1000", "2001:db8::5", "[2001:db8::5]:1000", "node.example", "node.example:1000",
		"192.0.2.5", "nowhere.example", "localhost", "a b", "192.0.2.5:0", ":51820", "",
	}
	got, err := Advertise(t.Context(), entries, 51820, lookup)
	want := "192.0.2.5:51820 192.0.2.5:1000 [2001:db8::5]:51820 [2001:db8::5]:1000 " +
		"192.0.2.7:51820 [2001:db8::7]:51820 192.0.2.7:1000 [2001:db8::7]:1000"
	if diff := cmp.Diff(want, strings.Trim(fmt.Sprint(got), "[]")); "["+want+"]" != fmt.Sprint(got) {
		t.Error(diff)
	}
	for _, part := range []string{`looking up "nowhere.example": no such host`, `"localhost" is no address`, `"a b" is neither`, `"192.0.2.5:0" is neither`, `":51820" is neither`, `"" is neither`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %s", err, part)
		}
	}
}

func TestReadUnderlay(t *testing.T) {
	a, _ := newPair(t)
	must(t, withNetlink(a.host, func(nl *netlink.Handle) error {
		return nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", MTU: 1300, Flags: net.FlagUp}})
	}))
	got, err := ReadUnderlay(a.host)
	must(t, err)
	if diff := cmp.Diff(Underlay{Addresses: addrs("10.99.0.1"), MTU: 1500}, got, cmp.Comparer(sameAddr)); diff != "" {
		t.Error(diff)
	}
	if c := got.Candidates(1); len(c) != 1 || c[0] != netip.MustParseAddrPort("10.99.0.1:1") {
		t.Errorf("candidates are %v", c)
	}
}
