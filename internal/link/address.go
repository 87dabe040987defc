package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EnsureAddresses makes the interface's addresses exactly those given; IPv6
// link-local ones are the kernel's and stay. IPv6 addresses get no duplicate address
// detection: who owns them is decided elsewhere, and they must work at once.
func (n *Namespace) EnsureAddresses(l netlink.Link, want []netip.Prefix) error {
	for {
		have, err := n.addresses(l)
		if err != nil {
			return err
		}
		for _, p := range want {
			if slices.Contains(have, p) {
				continue
			}
			if err := n.nl.AddrAdd(l, address(p)); err != nil {
				return fmt.Errorf("adding address %s to %s: %w", p, l.Attrs().Name, classify(err))
			}
			n.changes.Note("ip addr add %s dev %s", p, l.Attrs().Name)
		}
		deleted := false
		for _, p := range have {
			if slices.Contains(want, p) {
				continue
			}
			if err := n.nl.AddrDel(l, address(p)); err != nil {
				return fmt.Errorf("deleting address %s from %s: %w", p, l.Attrs().Name, classify(err))
			}
			n.changes.Note("ip addr del %s dev %s", p, l.Attrs().Name)
			deleted = true
		}
		if !deleted {
			return n.ensureConnected(l, want)
		}
		// With the first IPv4 address of a subnet the kernel deletes its others too
		// (unless promote_secondaries is set): look again.
	}
}

// ensureConnected brings back the routes to the addresses' own subnets, which the kernel
// makes with an address and does not make again when somebody deletes them.
func (n *Namespace) ensureConnected(l netlink.Link, addresses []netip.Prefix) error {
	have := make(map[netip.Prefix]bool)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := Dump(func() ([]netlink.Route, error) { return n.nl.RouteList(l, family) })
		if err != nil {
			return fmt.Errorf("listing routes through %s: %w", l.Attrs().Name, classify(err))
		}
		for _, r := range list {
			have[destination(r, family)] = true
		}
	}
	for _, p := range addresses {
		if p.IsSingleIP() || have[p.Masked()] {
			continue
		}
		err := n.nl.RouteAdd(connected(l, p))
		// Without a carrier, or before it is up, an interface has none.
		if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding route to %s through %s: %w", p.Masked(), l.Attrs().Name, classify(err))
		}
		if err == nil {
			n.changes.Note("ip route add %s dev %s", p.Masked(), l.Attrs().Name)
		}
	}
	return nil
}

// connected is the route as the kernel itself makes it.
func connected(l netlink.Link, p netip.Prefix) *netlink.Route {
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: IPNet(p.Masked()), Protocol: unix.RTPROT_KERNEL}
	if p.Addr().Is4() {
		route.Scope, route.Src = netlink.SCOPE_LINK, p.Addr().AsSlice()
	} else {
		route.Priority = 256 // IP6_RT_PRIO_ADDRCONF
	}
	return route
}

func (n *Namespace) addresses(l netlink.Link) ([]netip.Prefix, error) {
	list, err := Dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses of %s: %w", l.Attrs().Name, classify(err))
	}
	var have []netip.Prefix
	for _, a := range list {
		if p := Prefix(a.IPNet); p.IsValid() && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()) {
			have = append(have, p)
		}
	}
	return have, nil
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: IPNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// IPNet converts a prefix, host bits and all, for package netlink.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Prefix is the reverse of IPNet. It is the zero Prefix for nil.
func Prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if bits == 128 && addr.Is4In6() {
		ones -= 96
	}
	return netip.PrefixFrom(addr.Unmap(), ones)
}
