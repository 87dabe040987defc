package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
)

// entries makes the forwarding and neighbour tables of our devices hold what is
// wanted and nothing else, and announces what is new.
func (p *pass) entries(want []entry) error {
	trusted := p.known.trusted(p.mesh)
	if trusted && slices.Equal(want, p.known.want) {
		return nil
	}
	have, wanted := p.known.have, firsts(want)
	links, err := p.mesh.Links()
	if err != nil {
		return err
	}
	if !trusted {
		if have, err = p.known.observe(p.mesh, links); err != nil {
			return err
		}
	}
	p.known.expect(want, wanted)
	names := make(map[int]string, len(links))
	for name, l := range links {
		names[l.Attrs().Index] = name
	}
	var errs []error
	defer func() {
		if len(errs) > 0 {
			p.known.have = nil // who knows
		}
	}()
	for _, o := range plan(wanted, have) {
		if err := change(p.mesh.Netlink(), o); err != nil {
			errs = append(errs, fmt.Errorf("%s (#%d is %s): %w", o, o.entry.link, names[o.entry.link], err))
			continue
		}
		p.changes.Note("%s (#%d is %s)", o, o.entry.link, names[o.entry.link])
		if e := o.entry; e.kind == kindNeighbor && !o.delete {
			p.moved = append(p.moved, place{e.link, e.ip, e.mac})
		}
	}
	return errors.Join(append(errs, announce(p.mesh, p.moved))...)
}

func change(nl *netlink.Handle, o op) error {
	n := toKernel(o.entry)
	switch {
	case o.delete:
		err := nl.NeighDel(n)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			return nil // it went with its interface
		}
		return err
	case o.entry.kind == kindFlood:
		return nl.NeighAppend(n)
	}
	return nl.NeighSet(n)
}

func toKernel(e entry) *netlink.Neigh {
	n := &netlink.Neigh{LinkIndex: e.link, Family: unix.AF_BRIDGE, HardwareAddr: e.mac[:]}
	switch e.kind {
	case kindTunnel, kindFlood:
		n.State, n.Flags, n.IP = netlink.NUD_PERMANENT, netlink.NTF_SELF, e.ip.AsSlice()
	case kindPort:
		n.State, n.Flags = netlink.NUD_NOARP, netlink.NTF_MASTER // "static" in bridge(8)
	case kindNeighbor:
		n.State, n.IP, n.Family = netlink.NUD_PERMANENT, e.ip.AsSlice(), unix.AF_INET
		if e.ip.Is6() {
			n.Family = unix.AF_INET6
		}
	}
	return n
}

// observeEntries reads the tables of our devices. What the kernel puts there by
// itself (local addresses of ports, multicast) is left out.
func observeEntries(mesh *link.Namespace, links map[string]netlink.Link) ([]entry, error) {
	bridges, vxlans := make(map[int]bool), make(map[int]bool)
	for name, l := range links {
		if !isOurs(name) {
			continue
		}
		switch l.Type() {
		case "bridge":
			bridges[l.Attrs().Index] = true
		case "vxlan":
			vxlans[l.Attrs().Index] = true
		}
	}
	var entries []entry
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		rows, err := link.Dump(func() ([]netlink.Neigh, error) { return mesh.Netlink().NeighList(0, family) })
		if err != nil {
			return nil, fmt.Errorf("listing forwarding and neighbour entries: %w", err)
		}
		for _, row := range rows {
			e, ok := fromKernel(row)
			if ok && (e.kind == kindTunnel || e.kind == kindFlood) && vxlans[e.link] || ok && bridges[e.group] {
				entries = append(entries, e)
			}
		}
	}
	return entries, nil
}

func fromKernel(n netlink.Neigh) (entry, bool) {
	e := entry{group: n.LinkIndex, link: n.LinkIndex, mac: macOf(n.HardwareAddr)}
	ip, _ := netip.AddrFromSlice(n.IP)
	e.ip = ip.Unmap()
	switch {
	case n.Family != unix.AF_BRIDGE:
		e.kind = kindNeighbor
		e.wrong = n.State != netlink.NUD_PERMANENT
		return e, e.ip.IsValid() && !e.ip.IsMulticast() && n.State&netlink.NUD_NOARP == 0
	case n.MasterIndex != 0:
		e.kind, e.group, e.ip = kindPort, n.MasterIndex, netip.Addr{}
		e.wrong = n.State != netlink.NUD_NOARP
		return e, n.State&netlink.NUD_PERMANENT == 0 && n.Vlan == 0 // permanent: a port's own address
	case e.mac == mac{}:
		e.kind = kindFlood
	default:
		e.kind = kindTunnel
		e.wrong = n.State&netlink.NUD_PERMANENT == 0
	}
	return e, e.ip.IsValid()
}
