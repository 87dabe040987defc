package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// Bridge is a bridge without spanning tree (the kernel's default), so its ports
// forward at once, and without multicast snooping, so multicast goes to all ports.
type Bridge struct {
	Name string
	MAC  net.HardwareAddr // nil: the kernel draws one, and changes it with the ports
	MTU  int              // bytes
}

// EnsureBridge makes the bridge, or adopts it, and mends what is different. Have is
// the interface of that name, nil if there is none: what is no bridge is replaced.
// The bridge is not set up: its sysctls come first.
func (n *Namespace) EnsureBridge(have netlink.Link, b Bridge) (netlink.Link, error) {
	off := false
	if have != nil && have.Type() != "bridge" {
		if err := n.Delete(have); err != nil {
			return nil, err
		}
		have = nil
	}
	if have == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = b.Name, b.MTU, b.MAC
		if err := n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
			return nil, fmt.Errorf("creating bridge %s: %w", b.Name, classify(err))
		}
		n.changes.Note("ip link add %s type bridge", b.Name)
		return n.Link(b.Name)
	}
	bridge, ok := have.(*netlink.Bridge)
	if !ok {
		return nil, fmt.Errorf("bridge %s: %w", b.Name, errors.ErrUnsupported)
	}
	if snooping := bridge.MulticastSnooping; snooping != nil && *snooping {
		if err := n.nl.BridgeSetMcastSnoop(bridge, false); err != nil {
			return nil, fmt.Errorf("switching multicast snooping of %s off: %w", b.Name, classify(err))
		}
		n.changes.Note("ip link set %s type bridge mcast_snooping 0", b.Name)
	}
	if b.MAC != nil && !bytes.Equal(bridge.HardwareAddr, b.MAC) {
		if err := n.nl.LinkSetHardwareAddr(bridge, b.MAC); err != nil {
			return nil, fmt.Errorf("setting MAC of %s to %s: %w", b.Name, b.MAC, classify(err))
		}
		n.changes.Note("ip link set %s address %s", b.Name, b.MAC)
	}
	return bridge, n.EnsureMTU(bridge, b.MTU)
}
