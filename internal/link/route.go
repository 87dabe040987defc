package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks our routes in the kernel (`ip route` shows "proto 109"), so
// that they are known from the kernel's and other people's.
const RouteProtocol = 109

// Route is a way to a destination through an interface.
type Route struct {
	To  netip.Prefix // masked; 0.0.0.0/0 or ::/0 for a default route
	Via netip.Addr   // the next hop, directly on the interface; the zero Addr: To is on the link itself
	// Metric decides between routes to one destination: the lowest counts. 0 is the kernel's default.
	Metric int
}

// defaultMetric6 is what the kernel makes of metric 0 in IPv6.
const defaultMetric6 = 1024

// EnsureRoutes makes our routes through the interface exactly those given: routes of
// others stay, and ErrTaken is returned if theirs are where ours should be.
func (n *Namespace) EnsureRoutes(l netlink.Link, want []Route) error {
	have, err := n.routes(l)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		if err := n.nl.RouteAdd(route(l, r)); err != nil {
			errs = append(errs, fmt.Errorf("adding route to %s through %s: %w", r.To, l.Attrs().Name, classify(err)))
			continue
		}
		n.changes.Note("ip route add %s dev %s", r.To, l.Attrs().Name)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, r := range have {
		if slices.Contains(want, r) {
			continue
		}
		if err := n.nl.RouteDel(route(l, r)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("deleting route to %s through %s: %w", r.To, l.Attrs().Name, classify(err)))
			continue
		}
		n.changes.Note("ip route del %s dev %s", r.To, l.Attrs().Name)
	}
	return errors.Join(errs...)
}

func (n *Namespace) routes(l netlink.Link) ([]Route, error) {
	filter := &netlink.Route{LinkIndex: l.Attrs().Index, Protocol: RouteProtocol}
	var have []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := Dump(func() ([]netlink.Route, error) {
			return n.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("listing routes through %s: %w", l.Attrs().Name, classify(err))
		}
		for _, r := range list {
			metric := r.Priority
			if family == netlink.FAMILY_V6 && metric == defaultMetric6 {
				metric = 0
			}
			have = append(have, Route{To: destination(r, family), Via: via(r), Metric: metric})
		}
	}
	return have, nil
}

func route(l netlink.Link, r Route) *netlink.Route {
	kernel := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: IPNet(r.To), Protocol: RouteProtocol, Priority: r.Metric}
	if r.Via.IsValid() {
		kernel.Gw = r.Via.AsSlice()
	} else if r.To.Addr().Is4() {
		kernel.Scope = netlink.SCOPE_LINK
	}
	return kernel
}

func destination(r netlink.Route, family int) netip.Prefix {
	if r.Dst != nil {
		return Prefix(r.Dst)
	}
	if family == netlink.FAMILY_V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func via(r netlink.Route) netip.Addr {
	addr, _ := netip.AddrFromSlice(r.Gw)
	return addr.Unmap()
}
