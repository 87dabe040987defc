package ingress

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/internal/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loopbackMetric is high, so that ::1 stays on lo for everybody else.
const loopbackMetric = 4096

// enableLoopback lets answers to connections from localhost come back through the link. Packets that really
// carry a loopback address on the link are dropped by the kernel (IPv6) or by the host's table (IPv4), as is all
// that comes from the network and is no answer; only translated ones pass.
func (p *publisher) enableLoopback(host *link.Namespace, l netlink.Link) error {
	err := host.EnsureSysctls(link.Sysctl{Key: "ipv4/conf/" + l.Attrs().Name + "/route_localnet", Value: "1"})
	if err != nil || !link.HasIPv6() {
		return err
	}
	// IPv6 has no route_localnet. But the kernel delivers a packet to ::1 on the interface that has
	// a local route to ::1, so the link gets one.
	have, err := loopbackRoutes(host)
	if err != nil {
		return err
	}
	want := loopbackRoute(l.Attrs().Index)
	if slices.ContainsFunc(have, func(r netlink.Route) bool { return r.LinkIndex == want.LinkIndex }) {
		return nil
	}
	if err := host.Netlink().RouteAdd(want); err != nil {
		return fmt.Errorf("adding local route to ::1 through %s: %w", l.Attrs().Name, err)
	}
	p.changes.Note("ip route add local ::1 dev %s", l.Attrs().Name)
	return nil
}

func loopbackRoute(index int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: index,
		Dst:       link.IPNet(netip.PrefixFrom(netip.IPv6Loopback(), 128)),
		Table:     unix.RT_TABLE_LOCAL,
		Type:      unix.RTN_LOCAL,
		Priority:  loopbackMetric,
		Protocol:  link.RouteProtocol,
	}
}

func loopbackRoutes(host *link.Namespace) ([]netlink.Route, error) {
	have, err := link.Dump(func() ([]netlink.Route, error) {
		return host.Netlink().RouteListFiltered(netlink.FAMILY_V6, loopbackRoute(0),
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return nil, fmt.Errorf("listing local routes to ::1: %w", err)
	}
	return have, nil
}

// disableLoopback takes the route away; the rest goes with the link.
func disableLoopback(host *link.Namespace) error {
	if !link.HasIPv6() {
		return nil
	}
	have, err := loopbackRoutes(host)
	errs := []error{err}
	for _, r := range have {
		if err := host.Netlink().RouteDel(loopbackRoute(r.LinkIndex)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("deleting local route to ::1: %w", err))
		}
	}
	return errors.Join(errs...)
}
