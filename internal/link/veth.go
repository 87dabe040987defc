package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veth is a pair of interfaces that joins an outer namespace, where its name is
// ours alone, to an inner one.
type Veth struct {
	Outer          string           // name in the outer namespace, at most 15 bytes
	Master         netlink.Link     // bridge in the outer namespace that the outer end belongs to; nil: none
	OuterAddresses []netip.Prefix   // empty: the outer end takes no part in IPv6 either
	Inner          string           // name in the inner namespace
	MAC            net.HardwareAddr // of the inner end; nil: the kernel draws one
	Addresses      []netip.Prefix   // of the inner end; IPv6 ones are left out where the kernel has no IPv6
	MTU            int              // bytes, of both ends
}

// Pair is the two ends of a veth as they are now.
type Pair struct {
	Outer, Inner netlink.Link
	Created      bool
}

// EnsureVeth makes the pair, or adopts it and mends what is different. An outer
// interface of that name that is not one end of this pair is deleted, as it is ours
// by name. An inner one that is not is deleted only if it has our MAC; else the
// error is ErrTaken.
//
// Both ends are up when it returns; prepare, if not nil, is called with the outer
// end before that.
func (n *Namespace) EnsureVeth(inner *Namespace, v Veth, prepare func(outer netlink.Link) error) (Pair, error) {
	pair, err := n.findPair(inner, v)
	if err != nil {
		return Pair{}, err
	}
	if pair.Outer == nil {
		if pair, err = n.createPair(inner, v); err != nil {
			return Pair{}, err
		}
	}
	if err := n.ensureOuter(pair.Outer, v); err != nil {
		return pair, err
	}
	if prepare != nil {
		if err := prepare(pair.Outer); err != nil {
			return pair, err
		}
	}
	// The outer end comes first: then the inner one has its carrier, and sends, from
	// the moment it is up.
	if err := n.EnsureUp(pair.Outer); err != nil {
		return pair, err
	}
	return pair, inner.ensureInner(pair.Inner, v)
}

// findPair returns the pair if it is there and right, and clears what is in its way.
func (n *Namespace) findPair(inner *Namespace, v Veth) (Pair, error) {
	pair, err := lookUpPair(n, inner, v)
	if err != nil {
		return Pair{}, err
	}
	if pair.Outer != nil {
		mates, err := n.mates(inner, pair)
		if err != nil || mates {
			return pair, err
		}
		if err := n.Delete(pair.Outer); err != nil { // its other end goes with it
			return Pair{}, err
		}
		if pair, err = lookUpPair(n, inner, v); err != nil {
			return Pair{}, err
		}
	}
	if pair.Inner == nil {
		return Pair{}, nil
	}
	ours := v.MAC != nil && pair.Inner.Type() == "veth" && bytes.Equal(pair.Inner.Attrs().HardwareAddr, v.MAC)
	if !ours {
		return Pair{}, fmt.Errorf("interface %s in %s: %w: it exists already; rename or delete it there", v.Inner, inner.handle.Path(), ErrTaken)
	}
	return Pair{}, inner.Delete(pair.Inner)
}

func lookUpPair(outer, inner *Namespace, v Veth) (Pair, error) {
	var pair Pair
	var err error
	if pair.Outer, err = outer.lookUp(v.Outer); err != nil {
		return Pair{}, err
	}
	pair.Inner, err = inner.lookUp(v.Inner)
	return pair, err
}

// lookUp is Link with nil for an interface that is not there.
func (n *Namespace) lookUp(name string) (netlink.Link, error) {
	l, err := n.Link(name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return l, err
}

// mates says whether the two interfaces are each other's other end. Interface
// numbers alone do not tell: they are unique within a namespace only.
func (n *Namespace) mates(inner *Namespace, pair Pair) (bool, error) {
	if pair.Inner == nil || pair.Outer.Type() != "veth" || pair.Inner.Type() != "veth" {
		return false, nil
	}
	outer, in := pair.Outer.Attrs(), pair.Inner.Attrs()
	if outer.ParentIndex != in.Index || in.ParentIndex != outer.Index {
		return false, nil
	}
	id, err := n.nl.GetNetNsIdByFd(inner.handle.FD())
	if err != nil {
		return false, fmt.Errorf("asking for the number of %s: %w", inner.handle.Path(), classify(err))
	}
	return id == outer.NetNsID, nil
}

func (n *Namespace) createPair(inner *Namespace, v Veth) (Pair, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.Outer, v.MTU
	err := n.nl.LinkAdd(&netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         v.Inner,
		PeerHardwareAddr: v.MAC,
		PeerNamespace:    netlink.NsFd(inner.handle.FD()),
		PeerMTU:          uint32(v.MTU),
	})
	if err != nil {
		return Pair{}, fmt.Errorf("creating veth %s to %s in %s: %w", v.Outer, v.Inner, inner.handle.Path(), classify(err))
	}
	n.changes.Note("ip link add %s type veth peer name %s", v.Outer, v.Inner)
	pair, err := lookUpPair(n, inner, v)
	if err == nil && (pair.Outer == nil || pair.Inner == nil) {
		err = fmt.Errorf("veth %s vanished while it was made: %w", v.Outer, ErrNotFound)
	}
	pair.Created = true
	return pair, err
}

func (n *Namespace) ensureOuter(l netlink.Link, v Veth) error {
	if len(v.OuterAddresses) == 0 {
		if err := n.EnsureSysctls(NoIPv6(v.Outer)); err != nil {
			return err
		}
	}
	if err := n.EnsureMTU(l, v.MTU); err != nil {
		return err
	}
	if err := n.EnsureMaster(l, v.Master); err != nil {
		return err
	}
	if v.Master != nil {
		return nil
	}
	return n.EnsureAddresses(l, usable(v.OuterAddresses))
}

func (n *Namespace) ensureInner(l netlink.Link, v Veth) error {
	// Docker switches IPv6 off in its containers; on our interface it has to be on.
	// Router advertisements from other endpoints are nobody's business.
	if err := n.EnsureSysctls(
		Sysctl{Key: "ipv6/conf/" + v.Inner + "/disable_ipv6", Value: "0"},
		Sysctl{Key: "ipv6/conf/" + v.Inner + "/accept_ra", Value: "0"},
	); err != nil {
		return err
	}
	if v.MAC != nil && !bytes.Equal(l.Attrs().HardwareAddr, v.MAC) {
		if err := n.nl.LinkSetHardwareAddr(l, v.MAC); err != nil {
			return fmt.Errorf("setting MAC of %s to %s: %w", v.Inner, v.MAC, classify(err))
		}
		n.changes.Note("ip link set %s address %s", v.Inner, v.MAC)
	}
	if err := n.EnsureMTU(l, v.MTU); err != nil {
		return err
	}
	if err := n.EnsureUp(l); err != nil {
		return err
	}
	return n.EnsureAddresses(l, usable(v.Addresses))
}

// EnsureMaster makes the interface a port of the bridge, or of none if it is nil.
func (n *Namespace) EnsureMaster(l, bridge netlink.Link) error {
	index := 0
	if bridge != nil {
		index = bridge.Attrs().Index
	}
	if l.Attrs().MasterIndex == index {
		return nil
	}
	if err := n.nl.LinkSetMasterByIndex(l, index); err != nil {
		return fmt.Errorf("making %s a port: %w", l.Attrs().Name, classify(err))
	}
	n.changes.Note("ip link set %s master #%d", l.Attrs().Name, index)
	return nil
}

// NoIPv6 is the setting that keeps the namespace's IPv6 off an interface.
func NoIPv6(name string) Sysctl {
	return Sysctl{Key: "ipv6/conf/" + name + "/disable_ipv6", Value: "1"}
}

func usable(prefixes []netip.Prefix) []netip.Prefix {
	if HasIPv6() {
		return prefixes
	}
	var v4 []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		}
	}
	return v4
}

// maxName is the longest interface name.
const maxName = unix.IFNAMSIZ - 1

// ValidName returns an error if the kernel would not take the interface name.
func ValidName(name string) error {
	if name == "" || len(name) > maxName || name == "." || name == ".." || bytes.ContainsAny([]byte(name), "/: \t\n") {
		return fmt.Errorf("interface name %q: it must have 1 to %d bytes without slash, colon and space", name, maxName)
	}
	return nil
}
