package ingress

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// compileClient makes the table of a namespace in which virtual IPs are translated.
// all decides which drawing chains there are; only the services in part have their elements in the
// result, so that two tables of what changed can be compared instead of two whole ones.
func compileClient(all, part []VirtualIP) table {
	t := table{id: translateTable}
	var dispatch []rule
	refuse := []rule{makeRule(matchSettled, accept)}
	var drawing []chain
	for _, ipv6 := range []bool{false, true} {
		b := serviceBalancer(ipv6, part)
		t.sets = append(t.sets, b.sets()...)
		dispatch = append(dispatch, b.dispatch())
		refuse = append(refuse, b.refuse()...)
		draws := map[draw]bool{}
		for _, vip := range all {
			if vip.Address.Unmap().Is6() == ipv6 {
				draws[drawOf(len(sameFamily(vip)), vip.ByClient)] = true
			}
		}
		drawing = append(drawing, b.chains(draws)...)
	}
	t.chains = append([]chain{
		{"output", &hook{nftables.ChainTypeNAT, unix.NF_INET_LOCAL_OUT, -100, ""}, dispatch},
		{"prerouting", &hook{nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, -100, ""}, dispatch},
		{"refuse-output", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_OUT, 0, ""}, refuse},
		{"refuse-forward", &hook{nftables.ChainTypeFilter, unix.NF_INET_FORWARD, 0, ""}, refuse},
	}, drawing...)
	return t
}

func serviceBalancer(ipv6 bool, services []VirtualIP) *balancer {
	b := &balancer{
		verdicts: "services4", targets: "replicas4", empty: "empty4",
		key: []field{fieldIPv4}, target: []field{fieldIPv4}, load: []load{loadIPv4},
	}
	if ipv6 {
		b = &balancer{
			ipv6: true, verdicts: "services6", targets: "replicas6", empty: "empty6",
			key: []field{fieldIPv6}, target: []field{fieldIPv6}, load: []load{loadIPv6},
		}
	}
	for _, vip := range services {
		if vip.Address.Unmap().Is6() != ipv6 {
			continue
		}
		e := entry{key: addrBytes(vip.Address.Unmap()), byClient: vip.ByClient}
		for _, replica := range sameFamily(vip) {
			e.targets = append(e.targets, addrBytes(replica.Unmap()))
		}
		for _, replica := range vip.Draining {
			e.draining = append(e.draining, addrBytes(replica.Unmap()))
		}
		b.entries = append(b.entries, e)
	}
	return b
}

// sameFamily is the replicas that the virtual IP can be translated to.
func sameFamily(vip VirtualIP) []netip.Addr {
	other := func(a netip.Addr) bool { return a.Unmap().Is6() != vip.Address.Unmap().Is6() }
	if !slices.ContainsFunc(vip.Replicas, other) {
		return vip.Replicas
	}
	return slices.DeleteFunc(slices.Clone(vip.Replicas), other)
}

// compilePublish makes the host's table. Elements are there for the ports in part only, as in compileClient.
func compilePublish(want Publish, part []Port) table {
	t := table{id: translateTable}
	var dispatch, refuse []rule
	var drawing []chain
	for _, ipv6 := range []bool{false, true} {
		b := portBalancer(ipv6, part)
		t.sets = append(t.sets, b.sets()...)
		dispatch = append(dispatch, b.dispatch(matchLocal))
		refuse = append(refuse, b.refuse(matchLocal)...)
		draws := map[draw]bool{}
		for _, port := range want.Ports {
			draws[drawOf(len(backends(port, ipv6)), port.ByClient)] = true
		}
		drawing = append(drawing, b.chains(draws)...)
	}
	var toReplica []rule
	for _, subnet := range want.Subnets {
		toReplica = append(toReplica, makeRule(matchFamily(subnet.Addr().Is6()), matchDirection("original", 0), matchTranslated, matchAnswerer(subnet), setPacketMark(markToReplica)))
	}
	in, out := matchInterface("iifname", want.Interface), matchInterface("oifname", want.Interface)
	t.chains = append([]chain{
		// The first packet of a connection is marked as it is translated, the others before they are routed.
		{"marks", &hook{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, -150, ""}, append([]rule{makeRule(in, setPacketMark(markAnswer), accept)}, toReplica...)},
		{"own-marks", &hook{nftables.ChainTypeRoute, unix.NF_INET_LOCAL_OUT, -150, ""}, toReplica},
		// Before others, such as Docker, who publish the same port for a replica here.
		{"prerouting", &hook{nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, -110, ""}, dispatch},
		{"output", &hook{nftables.ChainTypeNAT, unix.NF_INET_LOCAL_OUT, -110, ""}, dispatch},
		// Clients keep their address. Only loopback's cannot leave the host, nor answers come back to it.
		{"localhost", &hook{nftables.ChainTypeNAT, unix.NF_INET_POST_ROUTING, 90, ""}, []rule{
			makeRule(out, matchSource(netip.MustParsePrefix("127.0.0.0/8")), masquerade),
			makeRule(out, matchSource(netip.MustParsePrefix("::1/128")), masquerade),
		}},
		// Whoever is on the ingress network reaches nothing of this host, and nothing through it: only answers come in.
		{"input", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_IN, -10, ""}, append([]rule{
			makeRule(matchEstablished, accept),
			makeRule(in, matchNeighbours, accept),
			makeRule(in, matchTCP, resetTCP), // a replica taken out of rotation learns that its client has gone
			makeRule(in, drop),
		}, refuse...)},
		// And what the host's own programs tell everybody is not for that network.
		{"own", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_OUT, 0, ""}, []rule{
			makeRule(matchEstablished, accept),
			makeRule(out, matchTranslated, accept),
			makeRule(out, matchTCP, accept), // resets
			makeRule(out, matchNeighbours, accept),
			makeRule(out, drop),
		}},
		{"forward", &hook{nftables.ChainTypeFilter, unix.NF_INET_FORWARD, -10, ""}, []rule{
			makeRule(matchEstablished, accept),
			makeRule(in, matchTCP, resetTCP),
			makeRule(in, drop),
			makeRule(out, matchTranslated, accept),
			makeRule(out, drop),
		}},
	}, drawing...)
	return t
}

func portBalancer(ipv6 bool, ports []Port) *balancer {
	key, loads := []field{fieldProto, fieldPort}, []load{loadProto, loadPort}
	b := &balancer{verdicts: "ports4", targets: "backends4", empty: "empty4", key: key, target: []field{fieldIPv4, fieldPort}, load: loads, mark: markToReplica}
	if ipv6 {
		b = &balancer{ipv6: true, verdicts: "ports6", targets: "backends6", empty: "empty6", key: key, target: []field{fieldIPv6, fieldPort}, load: loads, mark: markToReplica}
	}
	for _, port := range ports {
		e := entry{key: string([]byte{protocols[port.Protocol], 0, 0, 0}) + portBytes(port.Published), byClient: port.ByClient}
		for _, backend := range backends(port, ipv6) {
			e.targets = append(e.targets, backendBytes(backend))
		}
		for _, backend := range port.Draining {
			e.draining = append(e.draining, backendBytes(backend))
		}
		b.entries = append(b.entries, e)
	}
	return b
}

func backendBytes(backend netip.AddrPort) string {
	return addrBytes(backend.Addr().Unmap()) + portBytes(backend.Port())
}

// backends is the replicas of one address family behind a published port.
func backends(port Port, ipv6 bool) []netip.AddrPort {
	var out []netip.AddrPort
	for _, backend := range port.Backends {
		if backend.Addr().Unmap().Is6() == ipv6 {
			out = append(out, backend)
		}
	}
	return out
}

// A kind is how items of one type are compared.
type kind[T any] struct {
	compare func(a, b T) int // by what identifies them
	equal   func(a, b T) bool
	empty   func(T) T                // the item without anything behind it
	keeps   func(before, now T) bool // now still has all that was behind before, which was something
}

var (
	vipKind  = kind[VirtualIP]{compareVIPs, equalVIPs, func(v VirtualIP) VirtualIP { return VirtualIP{Address: v.Address} }, keepsReplicas}
	portKind = kind[Port]{comparePorts, equalPorts, func(p Port) Port { return Port{Protocol: p.Protocol, Published: p.Published} }, keepsBackends}
)

func compareVIPs(a, b VirtualIP) int { return a.Address.Unmap().Compare(b.Address.Unmap()) }

func equalVIPs(a, b VirtualIP) bool {
	return a.Address == b.Address && a.ByClient == b.ByClient && slices.Equal(a.Replicas, b.Replicas) && slices.Equal(a.Draining, b.Draining)
}

func keepsReplicas(before, now VirtualIP) bool {
	return keepsAll(before.Replicas, before.Draining, now.Replicas, now.Draining)
}

func keepsBackends(before, now Port) bool {
	return keepsAll(before.Backends, before.Draining, now.Backends, now.Draining)
}

// keepsAll says whether everything before, which must be something, is among what there is now.
func keepsAll[T comparable](before, draining, now, drainingNow []T) bool {
	gone := func(target T) bool { return !slices.Contains(now, target) && !slices.Contains(drainingNow, target) }
	return len(before)+len(draining) > 0 && !slices.ContainsFunc(before, gone) && !slices.ContainsFunc(draining, gone)
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Published, b.Published))
}

func equalPorts(a, b Port) bool {
	return comparePorts(a, b) == 0 && a.ByClient == b.ByClient && slices.Equal(a.Backends, b.Backends) && slices.Equal(a.Draining, b.Draining)
}

// changed returns what is in only one of two sorted lists, or in both but not equal.
func (k kind[T]) changed(have, want []T) (old, new []T) {
	for len(have) > 0 || len(want) > 0 {
		order := 0
		switch {
		case len(want) == 0:
			order = -1
		case len(have) == 0:
			order = 1
		default:
			order = k.compare(have[0], want[0])
		}
		if order == 0 && k.equal(have[0], want[0]) {
			have, want = have[1:], want[1:]
			continue
		}
		if order <= 0 {
			old, have = append(old, have[0]), have[1:]
		}
		if order >= 0 {
			new, want = append(new, want[0]), want[1:]
		}
	}
	return old, new
}

// touched returns the items whose flows may go to the wrong place after a change: what is new or has lost
// something (or everything, if all is said), and, emptied, what went.
func (k kind[T]) touched(have, want []T, all bool) []T {
	old, new := k.changed(have, want)
	var out []T
	for _, item := range old {
		if _, stays := slices.BinarySearchFunc(want, item, k.compare); !stays {
			out = append(out, k.empty(item))
		}
	}
	if all {
		return append(out, want...)
	}
	for _, item := range new {
		at, was := slices.BinarySearchFunc(old, item, k.compare)
		if !was || !k.keeps(old[at], item) {
			out = append(out, item)
		}
	}
	return out
}

// sorted returns items in order, the first of those that compare equal; items itself
// if that is what it is.
func (k kind[T]) sorted(items []T) []T {
	ordered := true
	for i := 1; i < len(items) && ordered; i++ {
		ordered = k.compare(items[i-1], items[i]) < 0
	}
	if ordered {
		return items
	}
	items = slices.Clone(items)
	slices.SortStableFunc(items, k.compare)
	return slices.CompactFunc(items, func(a, b T) bool { return k.compare(a, b) == 0 })
}
