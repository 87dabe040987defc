package catalog

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// maxRoutes bounds what a document says of its host's routes.
const maxRoutes = 64

// SummarizeRoutes makes the few words that a document has for its host's routes: prefixes that lie
// in others are left out, two halves become one, and of more than 64 the smallest go. It is sorted.
func SummarizeRoutes(routes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range routes {
		if r = r.Masked(); r.IsValid() && r.Bits() > 0 {
			out = append(out, r)
		}
	}
	for merged := true; merged; {
		slices.SortFunc(out, netip.Prefix.Compare)
		out, merged = mergeRoutes(out)
	}
	if len(out) > maxRoutes {
		slices.SortStableFunc(out, func(a, b netip.Prefix) int { return cmp.Compare(hostBits(b), hostBits(a)) })
		out = out[:maxRoutes]
		slices.SortFunc(out, netip.Prefix.Compare)
	}
	return out
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// mergeRoutes goes once over sorted prefixes, in which wider ones come before those in them.
func mergeRoutes(sorted []netip.Prefix) (out []netip.Prefix, merged bool) {
	for _, r := range sorted {
		if len(out) > 0 {
			last := out[len(out)-1]
			if last.Overlaps(r) {
				continue
			}
			parent := netip.PrefixFrom(last.Addr(), last.Bits()-1).Masked()
			if last.Bits() == r.Bits() && r.Bits() > 1 && parent.Contains(r.Addr()) {
				out[len(out)-1], merged = parent, true
				continue
			}
		}
		out = append(out, r)
	}
	return out, merged
}

func checkRoutes(routes []netip.Prefix) error {
	if len(routes) > maxRoutes {
		return fmt.Errorf("%d routes, more than %d", len(routes), maxRoutes)
	}
	for _, r := range routes {
		if !r.IsValid() || r != r.Masked() || r.Bits() == 0 {
			return fmt.Errorf("route %s is not a prefix", r)
		}
	}
	return nil
}
