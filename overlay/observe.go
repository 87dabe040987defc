package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// Observed is one network as the kernel has it, whatever the Config says.
type Observed struct {
	VNI       uint32
	MTU       int                   // bytes, of the VXLAN device
	Local     netip.Addr            // this host's VTEP
	Up        bool                  // bridge and VXLAN device are up and joined
	Remotes   []netip.Addr          // VTEPs that broadcast goes to, sorted
	Tunnels   map[string]netip.Addr // MAC → VTEP
	Neighbors map[netip.Addr]string // IP → MAC that is answered for it
	Ports     map[string]string     // MAC → interface in the mesh namespace; see PortName
}

// Observe reads our networks from the kernel, sorted by VNI. Without a mesh
// namespace there are none.
func (m *Manager) Observe() ([]Observed, error) {
	mesh, err := link.Open(m.path)
	if errors.Is(err, netns.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening mesh namespace: %w", err)
	}
	defer mesh.Close()
	links, err := mesh.Links()
	if err != nil {
		return nil, err
	}
	entries, err := observeEntries(mesh, links)
	if err != nil {
		return nil, err
	}
	var networks []Observed
	for name, l := range links {
		vxlan, ok := l.(*netlink.Vxlan)
		if !ok || !isOurs(name) {
			continue
		}
		networks = append(networks, observed(links, vxlan, entries))
	}
	slices.SortFunc(networks, func(a, b Observed) int { return cmp.Compare(a.VNI, b.VNI) })
	return networks, nil
}

func observed(links map[string]netlink.Link, vxlan *netlink.Vxlan, entries []entry) Observed {
	local, _ := netip.AddrFromSlice(vxlan.SrcAddr)
	o := Observed{
		VNI:       uint32(vxlan.VxlanId),
		MTU:       vxlan.MTU,
		Local:     local.Unmap(),
		Tunnels:   make(map[string]netip.Addr),
		Neighbors: make(map[netip.Addr]string),
		Ports:     make(map[string]string),
	}
	names := make(map[int]string, len(links))
	for name, l := range links {
		names[l.Attrs().Index] = name
	}
	bridge := 0
	if l, ok := links[BridgeName(o.VNI)]; ok {
		bridge = l.Attrs().Index
		o.Up = isUp(l) && isUp(vxlan) && vxlan.MasterIndex == bridge
	}
	for _, e := range entries {
		if e.wrong || e.group != bridge && e.group != vxlan.Index {
			continue
		}
		switch e.kind {
		case kindFlood:
			o.Remotes = append(o.Remotes, e.ip)
		case kindTunnel:
			o.Tunnels[e.mac.String()] = e.ip
		case kindNeighbor:
			o.Neighbors[e.ip] = e.mac.String()
		case kindPort:
			if e.link != vxlan.Index {
				o.Ports[e.mac.String()] = names[e.link]
			}
		}
	}
	slices.SortFunc(o.Remotes, netip.Addr.Compare)
	return o
}

func isUp(l netlink.Link) bool { return l.Attrs().RawFlags&unix.IFF_UP != 0 }
