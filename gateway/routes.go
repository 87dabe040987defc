package gateway

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/meshd/meshd/internal/link"
)

// HostRoutes returns the prefixes that this host reaches other than by a default
// route, connected and static, in the namespace of the calling thread, sorted. Routes
// through the interfaces named in except are left out: our own.
func HostRoutes(except ...string) ([]netip.Prefix, error) {
	routes, err := hostRoutes(except)
	if err != nil {
		return nil, err
	}
	prefixes := make([]netip.Prefix, 0, len(routes))
	for _, r := range routes {
		prefixes = append(prefixes, r.to)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes), nil
}

// CheckSubnets returns an error if one of the gateway's subnets overlaps a route of
// this host that does not lead to our own bridge: the host, or the endpoints,
// would lose what lies there.
func CheckSubnets(bridge string, subnets []netip.Prefix) error {
	routes, err := hostRoutes([]string{bridge})
	if err != nil {
		return err
	}
	for _, s := range subnets {
		for _, r := range routes {
			if r.to.Overlaps(s) {
				return fmt.Errorf("gateway.subnet %s overlaps %s, which this host reaches through %s: set gateway.subnet to a free range", s, r.to, r.device)
			}
		}
	}
	return nil
}

type hostRoute struct {
	to     netip.Prefix
	device string
}

func hostRoutes(except []string) ([]hostRoute, error) {
	host, err := link.Current()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	links, err := host.Links()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for name, l := range links {
		names[l.Attrs().Index] = name
	}
	list, err := link.Dump(func() ([]netlink.Route, error) {
		return host.Netlink().RouteList(nil, netlink.FAMILY_ALL)
	})
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var routes []hostRoute
	for _, r := range list {
		to := link.Prefix(r.Dst)
		device := names[r.LinkIndex]
		if device == "" {
			device = "several next hops"
		}
		local := to.Addr().IsLinkLocalUnicast() || to.Addr().IsMulticast() || to.Addr().IsLoopback()
		if to.Bits() <= 0 || local || slices.Contains(except, device) {
			continue
		}
		routes = append(routes, hostRoute{to.Masked(), device})
	}
	return routes, nil
}
