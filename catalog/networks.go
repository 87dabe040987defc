package catalog

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// resolveNetworks settles collisions between live networks, which only partitions
// make. They are taken by (Created, Name), and each keeps what no earlier one has; so a
// newer network never moves an older one.
func resolveNetworks(records map[string]NetworkRecord) []Network {
	live := slices.DeleteFunc(slices.Collect(maps.Values(records)), func(r NetworkRecord) bool { return r.Deleted })
	slices.SortFunc(live, func(a, b NetworkRecord) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	vnis := map[uint32]bool{}
	var chosen4, chosen6 []netip.Prefix
	networks := make([]Network, 0, len(live))
	for _, r := range live {
		n := Network{Name: r.Name, VNI: freeVNI(r.VNI, vnis), Subnet4: r.Subnet4, Subnet6: r.Subnet6, Internal: r.Internal, Labels: r.Labels, Created: r.Created}
		vnis[n.VNI] = true
		if !r.Explicit {
			n.Subnet4 = freeSubnet(r.Subnet4, slices.Concat(chosen4, r.growthSubnets()))
			n.Subnet6 = freeSubnet(r.Subnet6, chosen6)
			chosen4 = append(chosen4, n.Subnet4)
			chosen6 = append(chosen6, n.Subnet6)
		}
		n.Space = spaceOf(n.Subnet4, r.More...)
		networks = append(networks, n)
	}
	slices.SortFunc(networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return networks
}

// freeVNI returns the first VNI from want on that is not taken, going round.
func freeVNI(want uint32, taken map[uint32]bool) uint32 {
	for range maxVNI {
		if !taken[want] {
			break
		}
		want = want%maxVNI + 1
	}
	return want
}

// freeSubnet returns the first subnet of want's size, from want on, that overlaps none of
// taken, going round in the range that want lies in. If there is none, it is want.
func freeSubnet(want netip.Prefix, taken []netip.Prefix) netip.Prefix {
	home := homeRange(want)
	// Each of taken stands in the way of a bounded number of tries, unless it is far larger
	// than want; then the tries jump over it.
	for p, turns := want, 0; turns < 2; {
		i := slices.IndexFunc(taken, p.Overlaps)
		if i < 0 {
			return p
		}
		next := following(wider(p, taken[i]), p.Bits())
		if !next.IsValid() || !home.Contains(next.Addr()) || next.Addr().Less(p.Addr()) {
			next = netip.PrefixFrom(home.Addr(), p.Bits())
			turns++
		}
		p = next
	}
	return want
}

func wider(a, b netip.Prefix) netip.Prefix {
	if b.Bits() < a.Bits() {
		return b
	}
	return a
}

// following returns the prefix of that length right behind p; invalid at the end of the space.
func following(p netip.Prefix, bits int) netip.Prefix {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits() - 1; i >= 0; i-- {
		mask := byte(0x80) >> (i % 8)
		b[i/8] ^= mask
		if b[i/8]&mask != 0 {
			a, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(a, bits)
		}
	}
	return netip.Prefix{}
}

var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

// homeRange is where another subnet is looked for in place of p: the private range
// it lies in, and for IPv6 its half of a /48, as hosts have the other half (MeshPrefix).
func homeRange(p netip.Prefix) netip.Prefix {
	if p.Addr().Is6() {
		return netip.PrefixFrom(p.Addr(), 49).Masked()
	}
	for _, r := range privateRanges {
		if r.Overlaps(p) && r.Bits() <= p.Bits() {
			return r
		}
	}
	return netip.PrefixFrom(p.Addr(), 8).Masked()
}
