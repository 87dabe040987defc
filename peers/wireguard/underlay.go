package wireguard

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	overhead4 = 60 // bytes: IPv4 20, UDP 8, WireGuard 32
	overhead6 = 80 // bytes: IPv6 40, UDP 8, WireGuard 32
	// vxlanOverhead is what VXLAN over IPv6 takes of the device's MTU: 40 + 8 + 8 + 14 bytes (RFC 7348).
	vxlanOverhead = 70
	minIPv6MTU    = 1280 // bytes, RFC 8200
	usualMTU      = 1500 // bytes, where nothing else is known
)

// Underlay is how this host is reached from outside.
type Underlay struct {
	Addresses []netip.Addr // best first; empty: none was found
	MTU       int          // bytes; the smallest of the interfaces that they are on, 0 if there is none
}

// ReadUnderlay finds the addresses by which others may reach the host whose namespace is at
// path (empty: the caller's): the global unicast ones, private ones included, of interfaces that are up and belong to
// the host rather than to containers or tunnels. First those of the default route's interface,
// and on each interface IPv4 before IPv6.
func ReadUnderlay(path string) (Underlay, error) {
	if path == "" {
		path = "/proc/self/ns/net"
	}
	var out Underlay
	err := withNetlink(path, func(nl *netlink.Handle) error {
		links, err := readLinks(nl)
		if err != nil {
			return err
		}
		defaults, err := readDefaults(nl)
		if err != nil {
			return err
		}
		out = chooseUnderlay(links, defaults)
		return nil
	})
	if err != nil {
		return Underlay{}, fmt.Errorf("finding the host's addresses: %w", err)
	}
	return out, nil
}

// Candidates is the addresses with WireGuard's port.
func (u Underlay) Candidates(port uint16) []netip.AddrPort {
	out := make([]netip.AddrPort, len(u.Addresses))
	for i, a := range u.Addresses {
		out[i] = netip.AddrPortFrom(a, port)
	}
	return out
}

// DeviceMTU is the MTU in bytes for a WireGuard device whose packets pass an underlay
// of that MTU (0: unknown, then 1500) to and from these candidates. The warning is empty, or
// says that the underlay is too small and what to do.
func DeviceMTU(underlay int, candidates []netip.AddrPort) (mtu int, warning string) {
	if underlay <= 0 {
		underlay = usualMTU
	}
	overhead := overhead4
	if len(candidates) == 0 || slices.ContainsFunc(candidates, isIPv6) {
		overhead = overhead6
	}
	mtu = underlay - overhead
	if mtu < minIPv6MTU+vxlanOverhead {
		warning = fmt.Sprintf("the underlay's MTU of %d bytes is too small for IPv6 in overlay networks, which needs %d: "+
			"raise the MTU of the host's interfaces, or of the network between the hosts", underlay, minIPv6MTU+vxlanOverhead+overhead)
	}
	return max(mtu, minIPv6MTU), warning
}

func isIPv6(ap netip.AddrPort) bool { return ap.Addr().Unmap().Is6() }

// underlayLink is an interface of the host.
type underlayLink struct {
	index     int
	name      string
	flags     net.Flags
	mtu       int
	addresses []netip.Addr
}

// chooseUnderlay picks from the host's interfaces. defaults is the indices of interfaces with a
// default route, best first.
func chooseUnderlay(links []underlayLink, defaults []int) Underlay {
	rank := func(l underlayLink) int {
		if i := slices.Index(defaults, l.index); i >= 0 {
			return i
		}
		return len(defaults)
	}
	links = slices.Clone(links)
	slices.SortStableFunc(links, func(a, b underlayLink) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.index, b.index))
	})
	var out Underlay
	for _, l := range links {
		usable := l.dialable()
		if len(usable) == 0 {
			continue
		}
		out.Addresses = append(out.Addresses, usable...)
		if out.MTU == 0 || l.mtu < out.MTU {
			out.MTU = l.mtu
		}
	}
	return out
}

// dialable is the link's addresses that others may dial, IPv4 first.
func (l underlayLink) dialable() []netip.Addr {
	if l.flags&net.FlagUp == 0 || l.flags&net.FlagLoopback != 0 || notUnderlay(l.name) {
		return nil
	}
	var out []netip.Addr
	for _, a := range l.addresses {
		if a = a.Unmap(); a.IsGlobalUnicast() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) })
	return out
}

// notUnderlay tells interfaces of container engines, virtual machines and tunnels by their names.
func notUnderlay(name string) bool {
	for _, prefix := range []string{
		"docker", "br-", "veth", "meshd", "wg", "cni", "podman", "flannel", "cali", "lxc", "lxdbr", "virbr", "vnet", "vxlan", "kube-", "nodelocaldns",
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func readLinks(nl *netlink.Handle) ([]underlayLink, error) {
	links, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []underlayLink
	for _, link := range links {
		at := link.Attrs()
		l := underlayLink{index: at.Index, name: at.Name, flags: at.Flags, mtu: at.MTU}
		addrs, err := nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of %s: %w", at.Name, err)
		}
		for _, a := range addrs {
			// Not yet, or no longer, to be used; or a second one that comes and goes: privacy
			// addresses, and with IPv4 (the same bit) those that fail over between hosts.
			const passing = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
			if p := toPrefix(a.IPNet); p.IsValid() && a.Flags&passing == 0 {
				l.addresses = append(l.addresses, p.Addr())
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// readDefaults returns the interfaces of the default routes, IPv4's first, lowest metric first.
func readDefaults(nl *netlink.Handle) ([]int, error) {
	var out []int
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := nl.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
		for _, r := range routes {
			if r.Dst != nil && toPrefix(r.Dst).Bits() != 0 {
				continue
			}
			if r.LinkIndex > 0 {
				out = append(out, r.LinkIndex)
			}
			for _, hop := range r.MultiPath {
				out = append(out, hop.LinkIndex)
			}
		}
	}
	return out, nil
}
