package ingress

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// returnRoutes is the number of the routing table for what is marked, and the priority of the rules that
// lead there: before everything else but the local table.
const returnRoutes = 19780

// A way is routing by mark in one namespace: a table with one route, and the rules that lead to it.
type way struct {
	ns      *link.Namespace
	changes *journal.Journal
}

// ensureRoute makes the table's route: everything goes out of the interface, to the neighbour hop or, if it is nil, to
// whoever has the address.
func (w way) ensureRoute(l netlink.Link, family int, hop *netip.Addr) error {
	have, err := w.routes(family)
	if err != nil {
		return err
	}
	want := &netlink.Route{
		LinkIndex: l.Attrs().Index, Table: returnRoutes, Protocol: link.RouteProtocol, Dst: link.IPNet(everything(family)),
	}
	switch {
	case hop != nil:
		want.Gw, want.Flags = hop.AsSlice(), int(netlink.FLAG_ONLINK)
	case family == netlink.FAMILY_V4:
		want.Scope = netlink.SCOPE_LINK
	}
	for _, h := range have {
		if h.LinkIndex == want.LinkIndex && h.Gw.Equal(want.Gw) {
			return nil
		}
	}
	if err := w.ns.Netlink().RouteReplace(want); err != nil {
		return fmt.Errorf("adding the route of marked packets through %s: %w", l.Attrs().Name, err)
	}
	w.changes.Note("ip route replace %s dev %s table %d", everything(family), l.Attrs().Name, returnRoutes)
	return nil
}

func everything(family int) netip.Prefix {
	if family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func (w way) routes(family int) ([]netlink.Route, error) {
	have, err := link.Dump(func() ([]netlink.Route, error) {
		return w.ns.Netlink().RouteListFiltered(family, &netlink.Route{Table: returnRoutes}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the routes of marked packets: %w", err)
	}
	return have, nil
}

func (w way) flushRoutes(family int) error {
	have, err := w.routes(family)
	if err != nil {
		return err
	}
	return deleteRoutes(w.ns, have, "the route of marked packets")
}

// deleteRoutes deletes routes that may have gone meanwhile; what is what they are, for errors.
func deleteRoutes(ns *link.Namespace, routes []netlink.Route, what string) error {
	var errs []error
	for _, r := range routes {
		if err := ns.Netlink().RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("deleting %s: %w", what, err))
		}
	}
	return errors.Join(errs...)
}

// remove takes the table and the rules away.
func (w way) remove() error {
	var errs []error
	for _, ipv6 := range families() {
		errs = append(errs, w.ensureRules(familyOf(ipv6), nil), w.flushRoutes(familyOf(ipv6)))
	}
	return errors.Join(errs...)
}

// newRule is a routing rule that leads to the table; what it matches is for the caller to say.
func newRule(family, priority int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Table, r.Priority, r.Protocol = family, returnRoutes, priority, link.RouteProtocol
	return r
}

// ensureRules makes the rules that lead to the table those wanted.
func (w way) ensureRules(family int, want []*netlink.Rule) error {
	have, err := link.Dump(func() ([]netlink.Rule, error) {
		return w.ns.Netlink().RuleListFiltered(family, &netlink.Rule{Table: returnRoutes}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("listing routing rules: %w", err)
	}
	var errs []error
	for _, rule := range want {
		if slices.ContainsFunc(have, func(h netlink.Rule) bool { return sameRule(&h, rule) }) {
			continue
		}
		if err := w.ns.Netlink().RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("adding the routing rule of marked packets: %w", err))
			continue
		}
		w.changes.Note("ip rule add priority %d table %d", rule.Priority, returnRoutes)
	}
	for i := range have {
		h := &have[i]
		if slices.ContainsFunc(want, func(rule *netlink.Rule) bool { return sameRule(h, rule) }) {
			continue
		}
		h.Family = family
		if err := w.ns.Netlink().RuleDel(h); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("deleting a routing rule of marked packets: %w", err))
			continue
		}
		w.changes.Note("ip rule del priority %d table %d", h.Priority, returnRoutes)
	}
	return errors.Join(errs...)
}

func sameRule(a, b *netlink.Rule) bool {
	ports := func(r *netlink.RulePortRange) netlink.RulePortRange {
		if r == nil {
			return netlink.RulePortRange{}
		}
		return *r
	}
	return a.Priority == b.Priority && a.Mark == b.Mark && link.Prefix(a.Src) == link.Prefix(b.Src) && link.Prefix(a.Dst) == link.Prefix(b.Dst) && a.IPProto == b.IPProto && ports(a.Sport) == ports(b.Sport)
}
