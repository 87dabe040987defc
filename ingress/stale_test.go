package ingress

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// A flow is stale if its replica is neither in rotation nor draining, whichever address family it is of.
func TestOnlyWhatLostItsReplicaIsStale(t *testing.T) {
	at := netip.MustParseAddrPort
	port := Port{
		Protocol: "tcp", Published: 8080,
		Backends: []netip.AddrPort{at("10.1.0.1:80"), at("[fd00::1]:80")},
		Draining: []netip.AddrPort{at("10.1.0.2:80"), at("[fd00::2]:80")},
	}
	stale := staleIn(portBalancer, []Port{port})
	for _, test := range []struct {
		protocol        uint8
		server, replica string
		want            bool
	}{
		{unix.IPPROTO_TCP, "192.0.2.1:8080", "10.1.0.1:80", false},
		{unix.IPPROTO_TCP, "[2001:db8::1]:8080", "[fd00::1]:80", false},
		{unix.IPPROTO_TCP, "192.0.2.1:8080", "10.1.0.2:80", false},
		{unix.IPPROTO_TCP, "[2001:db8::1]:8080", "[fd00::2]:80", false},
		{unix.IPPROTO_TCP, "192.0.2.1:8080", "10.1.0.3:80", true},
		{unix.IPPROTO_TCP, "[2001:db8::1]:8080", "[fd00::3]:80", true},
		{unix.IPPROTO_TCP, "192.0.2.1:8080", "10.1.0.1:81", true},
		{unix.IPPROTO_TCP, "192.0.2.1:8080", "192.0.2.1:8080", true}, // to nowhere, from before the port was published
		{unix.IPPROTO_UDP, "192.0.2.1:8080", "10.1.0.3:80", false},   // another port
		{unix.IPPROTO_TCP, "192.0.2.1:8081", "10.1.0.3:80", false},
	} {
		f := flow{protocol: test.protocol, tcpFlow: tcpFlow{server: at(test.server)}, replica: at(test.replica)}
		if got := stale(f); got != test.want {
			t.Errorf("%d to %s, answered by %s: stale is %v", test.protocol, test.server, test.replica, got)
		}
	}
}

// On the host, connections that are not ours are left alone, whatever their port.
func TestOnlyOursIsStaleOnTheHost(t *testing.T) {
	at := netip.MustParseAddrPort
	port := Port{Protocol: "tcp", Published: 8080, Backends: []netip.AddrPort{at("10.1.0.1:80")}}
	udp := Port{Protocol: "udp", Published: 8080, Backends: port.Backends}
	stale := throughHost([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, staleIn(portBalancer, []Port{port, udp}))
	for _, test := range []struct {
		what                          string
		protocol                      uint8
		client, server, replica, back string
		want                          bool
	}{
		{"in rotation", unix.IPPROTO_TCP, "192.0.2.9:1", "192.0.2.1:8080", "10.1.0.1:80", "192.0.2.9:1", false},
		{"of a replica that has gone", unix.IPPROTO_TCP, "192.0.2.9:1", "192.0.2.1:8080", "10.1.0.2:80", "192.0.2.9:1", true},
		{"Docker's", unix.IPPROTO_TCP, "192.0.2.9:1", "192.0.2.1:8080", "172.17.0.2:80", "192.0.2.9:1", false},
		{"of the host to elsewhere", unix.IPPROTO_TCP, "192.0.2.1:1", "198.51.100.1:8080", "198.51.100.1:8080", "192.0.2.1:1", false},
		{"masqueraded to elsewhere", unix.IPPROTO_UDP, "172.17.0.2:1", "198.51.100.1:8080", "198.51.100.1:8080", "192.0.2.1:1", false},
		{"from before it was published", unix.IPPROTO_UDP, "192.0.2.9:1", "192.0.2.1:8080", "192.0.2.1:8080", "192.0.2.9:1", true},
	} {
		f := flow{protocol: test.protocol, tcpFlow: tcpFlow{at(test.client), at(test.server)}, replica: at(test.replica), back: at(test.back)}
		if got := stale(f); got != test.want {
			t.Errorf("%s: stale is %v", test.what, got)
		}
	}
}

// Nobody is looked for after a change that took nothing from anybody.
func TestWhatOnlyGainedIsNotTouched(t *testing.T) {
	addr := netip.MustParseAddr
	vip := func(replicas, draining []netip.Addr) []VirtualIP {
		return []VirtualIP{{Address: addr("10.0.0.9"), Replicas: replicas, Draining: draining}}
	}
	one, two := addr("10.1.0.1"), addr("10.1.0.2")
	for what, test := range map[string]struct {
		before, now []VirtualIP
		want        int
	}{
		"a replica more":     {vip([]netip.Addr{one}, nil), vip([]netip.Addr{one, two}, nil), 0},
		"one drains":         {vip([]netip.Addr{one, two}, nil), vip([]netip.Addr{one}, []netip.Addr{two}), 0},
		"one is back":        {vip([]netip.Addr{one}, []netip.Addr{two}), vip([]netip.Addr{one, two}, nil), 0},
		"one has gone":       {vip([]netip.Addr{one, two}, nil), vip([]netip.Addr{one}, nil), 1},
		"one has drained":    {vip([]netip.Addr{one}, []netip.Addr{two}), vip([]netip.Addr{one}, nil), 1},
		"all have gone":      {vip([]netip.Addr{one}, nil), vip(nil, nil), 1},
		"the first has come": {vip(nil, nil), vip([]netip.Addr{one}, nil), 1},
		"the service is new": {nil, vip([]netip.Addr{one}, nil), 1},
		"it has gone":        {vip([]netip.Addr{one}, nil), nil, 1},
	} {
		if got := vipKind.touched(test.before, test.now, false); len(got) != test.want {
			t.Errorf("%s: touched %v", what, got)
		}
	}
}
