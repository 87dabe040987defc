package wireguard

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// ErrNoKernelWireGuard is returned when the kernel's WireGuard is asked for and there is none.
var ErrNoKernelWireGuard = errors.New("this kernel has no WireGuard: " +
	"load its module (modprobe wireguard), or set wireguard.mode to auto or userspace")

// createKernelLink makes a WireGuard link in the host's namespace, where its UDP socket
// stays, and moves it to the mesh namespace.
func createKernelLink(hostPath, meshPath, name string) error {
	return createAndMove(hostPath, meshPath, &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name}})
}

// createAndMove makes the link in one namespace and moves it to the other. It takes up the one
// that a predecessor made and did not live to move.
func createAndMove(fromPath, toPath string, want netlink.Link) error {
	name := want.Attrs().Name
	to, err := netns.Open(toPath)
	if err != nil {
		return fmt.Errorf("opening the mesh namespace: %w", err)
	}
	defer func() { _ = to.Close() }()
	return withNetlink(fromPath, func(nl *netlink.Handle) error {
		link, err := findLink(nl, name)
		if err != nil {
			return err
		}
		if link == nil {
			if err := nl.LinkAdd(want); err != nil {
				return explainLinkAdd(name, err)
			}
			if link, err = nl.LinkByName(name); err != nil {
				return fmt.Errorf("finding link %s: %w", name, err)
			}
		}
		if link.Type() != want.Type() {
			return fmt.Errorf("a link of type %s in the host's namespace has the name %s: remove it (ip link del %s)", link.Type(), name, name)
		}
		if err := nl.LinkSetNsFd(link, to.FD()); err != nil {
			return errors.Join(fmt.Errorf("moving link %s to the mesh namespace: %w", name, err), nl.LinkDel(link))
		}
		return nil
	})
}

func explainLinkAdd(name string, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return ErrNoKernelWireGuard
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("creating WireGuard link %s: %w: run meshd as root (it needs CAP_NET_ADMIN)", name, err)
	default:
		return fmt.Errorf("creating WireGuard link %s: %w", name, err)
	}
}
