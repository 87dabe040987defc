package dns

import (
	"net/netip"
	"strings"
)

// finding is what the zone knows of a name that is ours to answer.
type finding struct {
	record  *record // nil: there is no such name
	pointer string  // of an address, absolute
	apex    string  // whose SOA record goes with a negative answer
}

// exists is a finding for a name that is there and has no records of its own.
func exists(apex string) finding { return finding{record: &record{hollow: true}, apex: apex} }

// find looks a canonical name up as an endpoint on these networks sees it. It says
// false if the name is none of ours.
func (z *Zone) find(networks []string, name string) (finding, bool) {
	if rest, ok := below(name, z.domain); ok {
		return z.inDomain(networks, rest), true
	}
	if r, ok := parseReverse(name); ok {
		return z.reverse(networks, name, r)
	}
	if f, ok := z.bare(networks, name); ok {
		return f, true
	}
	if f, ok := z.qualified(networks, name); ok {
		return f, true
	}
	return owned(networks, name)
}

// inDomain finds a name below the domain, where all is ours.
func (z *Zone) inDomain(networks []string, rest string) finding {
	if rest == "" {
		return exists(z.domain)
	}
	if rec := z.nodes.records[rest]; rec != nil {
		return finding{record: rec, apex: z.domain}
	}
	for _, network := range networks {
		sub, ok := below(rest, network)
		if !ok {
			continue
		}
		if sub == "" {
			return exists(z.domain)
		}
		if rec := z.record(network, sub); rec != nil {
			return finding{record: rec, apex: z.domain}
		}
	}
	return finding{apex: z.domain}
}

// bare finds db, tasks.db, _80._tcp.db, NAME.endpoint and NODE.node. The first
// network that has the service answers for all its names.
func (z *Zone) bare(networks []string, name string) (finding, bool) {
	base := withoutService(name)
	if rec := z.nodes.records[base]; rec != nil && !rec.hollow {
		return finding{record: z.nodes.records[name], apex: base}, true
	}
	for _, network := range networks {
		if rec := z.record(network, base); rec != nil && !rec.hollow {
			return finding{record: z.record(network, name), apex: base}, true
		}
	}
	return finding{}, false
}

// qualified finds the same names with a network's name after them.
func (z *Zone) qualified(networks []string, name string) (finding, bool) {
	for _, network := range networks {
		sub, ok := below(name, network)
		if !ok || sub == "" {
			continue
		}
		if rec := z.record(network, sub); rec != nil && !(rec.hollow && isPublic(network)) {
			return finding{record: rec, apex: network}, true
		}
	}
	return finding{}, false
}

// owned says what to make of a name that nobody has: below suffixes of ours it does
// not exist, whatever the upstreams think.
func owned(networks []string, name string) (finding, bool) {
	for _, suffix := range append([]string{nodeLabel, endpointLabel}, networks...) {
		sub, ok := below(name, suffix)
		if !ok || isPublic(suffix) {
			continue
		}
		if sub == "" {
			return exists(suffix), true
		}
		return finding{apex: suffix}, true
	}
	if rest, ok := strings.CutPrefix(name, tasksLabel+"."); ok && single(rest) && !isPublic(rest) {
		return finding{apex: rest}, true
	}
	return finding{}, false
}

// reverse finds the name of an address of the networks, or of a node.
func (z *Zone) reverse(networks []string, name string, r reverse) (finding, bool) {
	if r.isAddress() {
		for _, n := range z.seen(networks) {
			if pointer, ok := n.pointers[r.prefix.Addr()]; ok {
				apex := name
				if subnet, ok := covering(n, r); ok {
					apex = r.apexIn(name, subnet)
				}
				return finding{record: &record{}, pointer: pointer, apex: apex}, true
			}
		}
	}
	for _, n := range z.seen(networks) {
		subnet, ok := covering(n, r)
		switch {
		case !ok:
		case r.isAddress():
			return finding{apex: r.apexIn(name, subnet)}, true
		default:
			return exists(r.apexIn(name, subnet)), true
		}
	}
	return finding{}, false
}

// covering is the subnet that all of r lies in.
func covering(n *names, r reverse) (netip.Prefix, bool) {
	for _, subnet := range n.subnets {
		if subnet.Contains(r.prefix.Addr()) && subnet.Bits() <= r.prefix.Bits() {
			return subnet, true
		}
	}
	return netip.Prefix{}, false
}

// seen is all that an endpoint on these networks may know the names of.
func (z *Zone) seen(networks []string) []*names {
	all := make([]*names, 0, len(networks)+1)
	for _, network := range networks {
		if n := z.networks[network]; n != nil {
			all = append(all, n)
		}
	}
	return append(all, z.nodes)
}

func (z *Zone) record(network, name string) *record {
	if n := z.networks[network]; n != nil {
		return n.records[name]
	}
	return nil
}
