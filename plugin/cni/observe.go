package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
)

// Interface is what is really there of an interface in a container's namespace.
type Interface struct {
	MAC       string
	MTU       int
	Addresses []netip.Prefix // but link-local ones
	Routes    []link.Route   // that meshd made
}

// gatewayInterface is the container's way out, if one of its networks has one.
const gatewayInterface = "gw0"

// Observe looks for interfaces in the namespace at a path. One that is not there is left out.
func Observe(namespace string, names ...string) (map[string]Interface, error) {
	ns, err := link.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	found := make(map[string]Interface)
	for _, name := range names {
		i, err := observe(ns, name)
		if errors.Is(err, link.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking at %s in %s: %w", name, namespace, err)
		}
		found[name] = i
	}
	return found, nil
}

func observe(ns *link.Namespace, name string) (Interface, error) {
	l, err := ns.Link(name)
	if err != nil {
		return Interface{}, err
	}
	out := Interface{MAC: l.Attrs().HardwareAddr.String(), MTU: l.Attrs().MTU}
	addresses, err := ns.Netlink().AddrList(l, unix.AF_UNSPEC)
	if err != nil {
		return Interface{}, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addresses {
		if p := link.Prefix(a.IPNet); p.IsValid() && !p.Addr().IsLinkLocalUnicast() {
			out.Addresses = append(out.Addresses, p)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := ns.Netlink().RouteList(l, family)
		if err != nil {
			return Interface{}, fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range routes {
			if r.Protocol != link.RouteProtocol {
				continue
			}
			to := link.Prefix(r.Dst)
			if !to.IsValid() {
				to = netip.PrefixFrom(unspecified(family), 0)
			}
			out.Routes = append(out.Routes, link.Route{To: to, Via: addr(r.Gw)})
		}
	}
	return out, nil
}

func unspecified(family int) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip) // the zero Addr of none
	return a.Unmap()
}
