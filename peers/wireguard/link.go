package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/netns"
)

const (
	kernelType = "wireguard" // a link's type as the kernel names it
	tunType    = "tuntap"    // as netlink names it

	// tunQueueLen is the TUN device's transmit queue in packets. The kernel's 500 counts the
	// segments of large packets and drops them under load.
	tunQueueLen = 10000
)

// withNetlink runs fn with netlink in the namespace at path.
func withNetlink(path string, fn func(*netlink.Handle) error) error {
	ns, err := netns.Open(path)
	if err != nil {
		return fmt.Errorf("opening namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	nl, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	return fn(nl)
}

// findLink returns nil if there is no such link.
func findLink(nl *netlink.Handle, name string) (netlink.Link, error) {
	link, err := nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("finding link %s: %w", name, err)
	}
	return link, nil
}

// linkType is the type of the link in the namespace, or "" if it is not there.
func linkType(path, name string) (string, error) {
	var kind string
	err := withNetlink(path, func(nl *netlink.Handle) error {
		link, err := findLink(nl, name)
		if link != nil {
			kind = link.Type()
		}
		return err
	})
	return kind, err
}

// deleteLink removes the link, if it is there and of this type; "" is any. A namespace
// that is not there holds none.
func deleteLink(path, name, kind string) error {
	err := withNetlink(path, func(nl *netlink.Handle) error {
		link, err := findLink(nl, name)
		if link == nil || kind != "" && link.Type() != kind {
			return err
		}
		if err := nl.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("removing link %s: %w", name, err)
		}
		return nil
	})
	if errors.Is(err, netns.ErrNotExist) {
		return nil
	}
	return err
}

// configureLink sets up what of the device is not WireGuard's: MTU, address, route.
func configureLink(path, name string, cfg Config, changes *journal.Journal) error {
	if err := netns.Do(path, func() error { return enableIPv6(name) }); err != nil {
		return err
	}
	return withNetlink(path, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding WireGuard device %s: %w", name, err)
		}
		if link.Attrs().MTU != cfg.MTU {
			if err := nl.LinkSetMTU(link, cfg.MTU); err != nil {
				return fmt.Errorf("setting the MTU of %s to %d: %w", name, cfg.MTU, err)
			}
			changes.Note("ip link set %s mtu %d", name, cfg.MTU)
		}
		if link.Type() == tunType && link.Attrs().TxQLen != tunQueueLen {
			if err := nl.LinkSetTxQLen(link, tunQueueLen); err != nil {
				return fmt.Errorf("setting the queue length of %s: %w", name, err)
			}
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			if err := nl.LinkSetUp(link); err != nil {
				return fmt.Errorf("setting %s up: %w", name, err)
			}
			changes.Note("ip link set %s up", name)
		}
		if err := setAddress(nl, link, cfg.Address, changes); err != nil {
			return err
		}
		return setRoute(nl, link, cfg.Address.Masked(), changes)
	})
}

// enableIPv6 makes the device in the calling thread's namespace take IPv6 addresses, and no
// others than ours: a link-local one would only make it send what no peer may receive.
func enableIPv6(name string) error {
	dir := filepath.Join("/proc/sys/net/ipv6/conf", name)
	if err := setSysctl(filepath.Join(dir, "disable_ipv6"), "0"); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("this kernel has no IPv6, which the mesh's addresses need: enable it (no ipv6.disable=1 at boot): %w", err)
		}
		return err
	}
	_ = setSysctl(filepath.Join(dir, "addr_gen_mode"), "1") // a nicety: none
	return nil
}

func setSysctl(path, want string) error {
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading sysctl: %w", err)
	}
	if strings.TrimSpace(string(have)) == want {
		return nil
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		return fmt.Errorf("setting sysctl to %s: %w", want, err)
	}
	return nil
}

// setAddress gives the link the address and takes all others but link-local ones. Without
// duplicate address detection: the address is checked by WireGuard's keys, and is wanted now.
func setAddress(nl *netlink.Handle, link netlink.Link, want netip.Prefix, changes *journal.Journal) error {
	name := link.Attrs().Name
	have, err := nl.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", name, err)
	}
	there := false
	var others []netlink.Addr
	for _, a := range have {
		switch {
		case toPrefix(a.IPNet) == want:
			there = true
		case !a.IP.IsLinkLocalUnicast():
			others = append(others, a)
		}
	}
	if !there {
		add := &netlink.Addr{IPNet: toIPNet(want), Flags: unix.IFA_F_NODAD}
		if err := nl.AddrAdd(link, add); err != nil {
			return fmt.Errorf("adding address %s to %s: %w", want, name, err)
		}
		changes.Note("ip addr add %s dev %s", want, name)
	}
	for _, a := range others {
		if err := nl.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %s from %s: %w", a.IPNet, name, err)
		}
	}
	return nil
}

// setRoute restores the route to the mesh, which comes with the address, if somebody removed it.
func setRoute(nl *netlink.Handle, link netlink.Link, mesh netip.Prefix, changes *journal.Journal) error {
	route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: toIPNet(mesh)}
	have, err := nl.RouteListFiltered(netlink.FAMILY_V6, &route, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("listing the routes of %s: %w", link.Attrs().Name, err)
	}
	if len(have) > 0 {
		return nil
	}
	route.Protocol = unix.RTPROT_KERNEL
	if err := nl.RouteAdd(&route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding route %s to %s: %w", mesh, link.Attrs().Name, err)
	}
	changes.Note("ip route add %s dev %s", mesh, link.Attrs().Name)
	return nil
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix is the zero Prefix for what is none.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}
	}
	if addr = addr.Unmap(); addr.BitLen() != bits {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, ones)
}
