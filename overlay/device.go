package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

const (
	vxlanPort = 4789 // RFC 7348, section 5
	outerTTL  = 64   // RFC 1700's recommendation; mesh paths are one hop, so it matters little
)

// pass is one Apply at work: the mesh namespace as it was found.
type pass struct {
	log     *slog.Logger
	changes *journal.Journal
	mesh    *link.Namespace
	local   netip.Addr
	links   map[string]netlink.Link
	ports   map[int]link.PortState
	moved   []place  // addresses that are somewhere new
	known   *reading // of the tables
}

// network makes one network's devices and returns the forwarding and neighbour
// entries that it should have, also when a port of it failed.
func (p *pass) network(n Network) ([]entry, error) {
	bridge, err := p.bridge(n)
	if err != nil {
		return nil, err
	}
	vxlan, err := p.vxlan(n, bridge)
	if err != nil {
		return nil, err
	}
	entries := remoteEntries(n, bridge.Attrs().Index, vxlan.Attrs().Index)
	var errs []error
	for _, port := range n.Ports {
		outer, err := p.port(n, port, bridge)
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", port.Endpoint, err))
			continue
		}
		entries = append(entries, entry{kind: kindPort, group: bridge.Attrs().Index, link: outer.Attrs().Index, mac: macOf(port.MAC)})
	}
	return entries, errors.Join(errs...)
}

func (p *pass) bridge(n Network) (netlink.Link, error) {
	name := BridgeName(n.VNI)
	bridge, err := p.mesh.EnsureBridge(p.links[name], link.Bridge{Name: name, MTU: n.MTU})
	if err != nil {
		return nil, err
	}
	// The bridge holds the neighbour entries that ND is answered from, which needs
	// IPv6 on it; without an address it takes no part.
	if err := p.mesh.EnsureSysctls(
		link.Sysctl{Key: "ipv6/conf/" + name + "/disable_ipv6", Value: "0"},
		link.Sysctl{Key: "ipv6/conf/" + name + "/addr_gen_mode", Value: "1"}, // none
		link.Sysctl{Key: "ipv6/conf/" + name + "/accept_ra", Value: "0"},
	); err != nil {
		return nil, err
	}
	return bridge, p.mesh.EnsureUp(bridge)
}

func (p *pass) vxlan(n Network, bridge netlink.Link) (netlink.Link, error) {
	name := VXLANName(n.VNI)
	vxlan := p.links[name]
	if vxlan != nil {
		if why := vxlanMismatch(p.local, n.VNI, vxlan); why != "" {
			p.log.Info("making VXLAN device anew", "name", name, "why", why)
			if err := p.mesh.Delete(vxlan); err != nil {
				return nil, err
			}
			vxlan = nil
		}
	}
	if vxlan == nil {
		var err error
		if vxlan, err = p.createVXLAN(name, n); err != nil {
			return nil, err
		}
	}
	if err := p.mesh.EnsureSysctls(link.NoIPv6(name)); err != nil {
		return nil, err
	}
	if err := p.mesh.EnsureMTU(vxlan, n.MTU); err != nil {
		return nil, err
	}
	if err := p.mesh.EnsureMaster(vxlan, bridge); err != nil {
		return nil, err
	}
	flags := link.PortFlags{NeighSuppress: true}
	if err := p.mesh.EnsurePort(vxlan, p.ports[vxlan.Attrs().Index], flags); err != nil {
		return nil, err
	}
	return vxlan, p.mesh.EnsureUp(vxlan)
}

func (p *pass) createVXLAN(name string, n Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, n.MTU
	// No zero checksums over IPv6 (RFC 6935 is for tunnels that cannot do better): a
	// receiver merges packets only if they have one.
	device := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(n.VNI), SrcAddr: p.local.AsSlice(), Port: vxlanPort, TTL: outerTTL}
	if err := p.mesh.Netlink().LinkAdd(device); err != nil {
		return nil, fmt.Errorf("creating VXLAN device %s: %w", name, err)
	}
	p.changes.Note("ip link add %s type vxlan id %d", name, n.VNI)
	return p.mesh.Link(name)
}

// vxlanMismatch says in what a device differs from what it should be, of what cannot
// be changed on a living one. It is empty if there is nothing.
func vxlanMismatch(local netip.Addr, vni uint32, l netlink.Link) string {
	have, ok := l.(*netlink.Vxlan)
	if !ok {
		return "it is a " + l.Type()
	}
	source, _ := netip.AddrFromSlice(have.SrcAddr)
	switch {
	case have.VxlanId != int(vni):
		return fmt.Sprintf("its network identifier is %d, not %d", have.VxlanId, vni)
	case source.Unmap() != local:
		return fmt.Sprintf("its local address is %s, not %s", source, local)
	case have.Port != vxlanPort:
		return fmt.Sprintf("its port is %d, not %d", have.Port, vxlanPort)
	case have.TTL != outerTTL:
		return fmt.Sprintf("its TTL is %d, not %d", have.TTL, outerTTL)
	case have.Learning:
		return "it learns addresses"
	case have.Proxy || have.L2miss || have.L3miss || have.RSC:
		return "it answers or reports neighbours"
	case have.UDP6ZeroCSumTx || have.UDP6ZeroCSumRx:
		return "it sends or takes packets without checksum"
	case have.VtepDevIndex != 0 || len(have.Group) != 0:
		return "it is bound to a device or group"
	}
	return ""
}

// port makes the interface of one endpoint. The bridge takes from it only frames
// with the endpoint's MAC (where the kernel knows locked ports).
func (p *pass) port(n Network, port Port, bridge netlink.Link) (netlink.Link, error) {
	if err := link.ValidName(port.Interface); err != nil {
		return nil, err
	}
	inner, err := p.inside(port)
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	pair, err := p.mesh.EnsureVeth(inner, link.Veth{
		Outer:     PortName(port.Endpoint, n.Name),
		Master:    bridge,
		Inner:     port.Interface,
		MAC:       port.MAC,
		Addresses: port.Addresses,
		MTU:       n.MTU,
	}, func(outer netlink.Link) error {
		return p.mesh.EnsurePort(outer, p.ports[outer.Attrs().Index], link.PortFlags{Locked: true})
	})
	if err != nil {
		return nil, err
	}
	routes := toAll(pair.Inner)
	for _, subnet := range port.Subnets {
		routes = append(routes, link.Route{To: subnet})
	}
	if err := inner.EnsureRoutes(pair.Inner, routes); err != nil {
		return pair.Outer, err
	}
	if pair.Created {
		for _, address := range port.Addresses {
			p.moved = append(p.moved, place{bridge.Attrs().Index, address.Addr(), macOf(port.MAC)})
		}
		p.log.Info("attached endpoint", "endpoint", port.Endpoint, "network", n.Name, "interface", port.Interface)
	}
	return pair.Outer, nil
}

// toAll is the routes of what is meant for all: IPv4's multicast, and its broadcast to nowhere in particular. Without them
// that goes where the default route leads, away from the network, and nowhere on one without a way out. Of several networks
// the one that came first has it. IPv6 has such routes by itself.
func toAll(inner netlink.Link) []link.Route {
	index := inner.Attrs().Index // no two interfaces of a namespace have one, so the routes never collide
	return []link.Route{{To: allGroups, Metric: index}, {To: allHosts, Metric: index}}
}

var (
	allGroups = netip.MustParsePrefix("224.0.0.0/4")
	allHosts  = netip.MustParsePrefix("255.255.255.255/32")
)

// inside opens the namespace that a port leads to. An endpoint's is made ready; the host's is its owner's business.
func (p *pass) inside(port Port) (*link.Namespace, error) {
	inner, err := link.Open(port.Namespace)
	if err != nil {
		return nil, err
	}
	inner.Keep(p.changes)
	if port.Namespace == netns.Host {
		return inner, nil
	}
	if err := loopback(inner); err != nil {
		inner.Close()
		return nil, err
	}
	return inner, nil
}

// loopback sets the loopback interface up: the endpoint's name server listens on it. Container engines do
// so themselves, `ip netns add` does not. It has IPv6, which Docker turns off there: what the endpoint sends to itself, and the
// resets that it gets from its own translation, go this way.
func loopback(inner *link.Namespace) error {
	lo, err := inner.Link("lo")
	if err != nil {
		return err
	}
	if link.HasIPv6() {
		if err := inner.EnsureSysctls(link.Sysctl{Key: "ipv6/conf/lo/disable_ipv6", Value: "0"}); err != nil {
			return err
		}
	}
	return inner.EnsureUp(lo)
}
