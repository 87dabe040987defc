package agent

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/peers/wireguard"
)

// Inputs is everything that the desired state of a host follows from.
type Inputs struct {
	Self       catalog.NodeID
	PrivateKey [32]byte // of WireGuard
	ListenPort uint16
	View       *catalog.View
	// Alive says who takes part now. Nil means that nobody knows yet: then all count
	// as alive, so that a restart withdraws nothing.
	Alive map[catalog.NodeID]bool
	// RTT is how far away other hosts are, where that is known and steady (see distances).
	RTT    map[catalog.NodeID]time.Duration
	Locals []Local // endpoints on this host, sorted by ID
	// Fenced takes all endpoints of this host off their networks: another host runs with
	// its identity, and so with its addresses.
	Fenced bool

	Domain         string
	Search         []string // the host's own search domains
	Upstreams      []netip.AddrPort
	GatewaySubnets []netip.Prefix
	GatewayMTU     int
}

// Desired is the whole state that a host should have.
type Desired struct {
	WireGuard wireguard.Config
	Overlay   overlay.Config
	Gateway   gateway.Config
	Ingress   ingress.Config
	DNS       dns.Config
}

const (
	// VXLANOverhead is what VXLAN over IPv6 adds to an inner IP packet: IPv6 40, UDP
	// 8, VXLAN 8 (RFC 7348) and the inner Ethernet header 14 bytes.
	VXLANOverhead = 70
	// GatewayBridge is the gateway bridge's name on the host.
	GatewayBridge = "meshd0"

	// keepalive is the same on all hosts: by it a tunnel that went silent is noticed, and a NAT
	// on the way keeps its mapping. Among more than manyPeers it is longer: see keepaliveAmong.
	keepalive = 25 * time.Second
	manyPeers = 50

	// minMTU is what IPv6 needs (RFC 8200).
	minMTU = 1280
	// minTunnelMTU carries an overlay's smallest MTU. The tunnel's packets become fragments on
	// an underlay that is narrower than they are: slower, but VXLAN itself would lose them.
	minTunnelMTU = minMTU + VXLANOverhead

	gatewayInterface = "gw0"
	ingressInterface = "ing0"
	hostInterface    = "meshd-in" // the host's own on the ingress network
)

// Compile turns inputs into the desired state. It is pure: the same inputs give
// the same, sorted output.
func Compile(in Inputs) Desired {
	mtu := OverlayMTU(in.View)
	return Desired{
		WireGuard: compileWireGuard(in),
		Overlay:   compileOverlay(in, mtu),
		Gateway:   compileGateway(in),
		Ingress:   compileIngress(in),
		DNS:       compileDNS(in),
	}
}

// OverlayMTU is the MTU of every overlay network, in bytes: what fits through the
// narrowest tunnel of the mesh. An overlay network is one link, on which nobody is
// told that a packet was too big, so it must fit everywhere.
func OverlayMTU(view *catalog.View) int {
	narrowest := 0
	for _, m := range view.Members {
		if present(m) && m.MTU > 0 && (narrowest == 0 || m.MTU < narrowest) {
			narrowest = m.MTU
		}
	}
	return max(narrowest-VXLANOverhead, minMTU)
}

// present says whether a member is part of the mesh, alive or not.
func present(m catalog.Member) bool { return m.Known && !m.Evicted && !m.Left }

func (in Inputs) alive(id catalog.NodeID) bool {
	return in.Alive == nil || id == in.Self || in.Alive[id]
}

// leaving says whether a member has said that it leaves and is still there: it waits to hear that this is known,
// and membership's farewell is to come. Nothing but the tunnel is left of it.
func (in Inputs) leaving(m catalog.Member) bool {
	return m.Known && !m.Evicted && m.Left && in.Alive[m.ID]
}

func (in Inputs) inRotation(e catalog.NetworkEndpoint) bool {
	return e.InRotation() && in.alive(e.Node)
}

// draining says whether an endpoint takes nothing new and may finish what it has.
func (in Inputs) draining(e catalog.NetworkEndpoint) bool {
	return e.Draining && e.Health != catalog.Unhealthy && in.alive(e.Node)
}

// keepaliveAmong is how often the tunnel to each of so many peers that are alive is kept up. All tunnels
// together cost about the same however many they are, as WireGuard shakes hands again for
// nearly each: 0.4 kB/s. It goes in steps, so that not all change when a host joins.
func keepaliveAmong(peers int) time.Duration {
	interval := keepalive
	for every := manyPeers; every < 2*peers && peers > manyPeers; every *= 2 {
		interval *= 2
	}
	return interval
}

func compileWireGuard(in Inputs) wireguard.Config {
	peers := 0
	for _, m := range in.View.Members {
		if present(m) && m.ID != in.Self {
			peers++
		}
	}
	cfg := wireguard.Config{PrivateKey: in.PrivateKey, ListenPort: int(in.ListenPort)}
	for _, m := range in.View.Members {
		if m.ID == in.Self {
			cfg.Address = netip.PrefixFrom(m.Address, catalog.MeshPrefix(in.View.Mesh).Bits())
			cfg.MTU = max(m.MTU, minTunnelMTU) // one that was evicted has no document any more
			continue
		}
		if !present(m) && !in.leaving(m) {
			continue
		}
		interval := keepalive // to find a silent one again
		if in.alive(m.ID) {
			interval = keepaliveAmong(peers)
		}
		cfg.Peers = append(cfg.Peers, wireguard.Peer{
			ID:        string(m.ID),
			PublicKey: m.WireGuard,
			Address:   m.Address,
			Endpoints: m.Candidates,
			Keepalive: interval,
		})
	}
	return cfg
}

func compileOverlay(in Inputs, mtu int) overlay.Config {
	vteps := make(map[catalog.NodeID]netip.Addr)
	for _, m := range in.View.Members {
		if present(m) {
			vteps[m.ID] = m.Address
		}
	}
	cfg := overlay.Config{Local: vteps[in.Self]}
	for _, n := range in.View.Networks {
		ports := overlayPorts(in, n)
		if len(ports) == 0 {
			continue
		}
		net := overlay.Network{Name: n.Name, VNI: n.VNI, MTU: mtu, Ports: ports}
		remotes := make(map[netip.Addr]bool)
		for _, e := range n.Endpoints {
			vtep, known := vteps[e.Node]
			mac, err := parseMAC(e.MAC)
			if e.Node == in.Self || !known || err != nil {
				continue
			}
			net.Neighbors = append(net.Neighbors, overlay.Neighbor{IP: addresses(e), MAC: mac, VTEP: vtep})
			remotes[vtep] = true
		}
		net.Remotes = slices.SortedFunc(maps.Keys(remotes), netip.Addr.Compare)
		cfg.Networks = append(cfg.Networks, net)
	}
	slices.SortFunc(cfg.Networks, func(a, b overlay.Network) int { return int(a.VNI) - int(b.VNI) })
	return cfg
}

// overlayPorts is this host's interfaces on a network. An endpoint of ours
// that the view does not show has lost its address to another one: it gets no
// port, which is the fence.
func overlayPorts(in Inputs, n catalog.Network) []overlay.Port {
	if in.Fenced {
		return nil
	}
	var ports []overlay.Port
	mine := ownEndpoints(in, n)
	for _, l := range in.Locals {
		for i, a := range l.Attachments {
			if a.Network != n.Name {
				continue
			}
			e, placed := mine[l.ID]
			mac, err := parseMAC(a.MAC)
			if !placed || err != nil {
				continue
			}
			own := n.Space.SubnetOf(e.IP4)
			port := overlay.Port{
				Endpoint:  l.ID,
				Namespace: l.Namespace,
				Interface: l.interfaceName(i),
				MAC:       mac,
				Addresses: []netip.Prefix{
					netip.PrefixFrom(e.IP4, own.Bits()),
					netip.PrefixFrom(e.IP6, n.Subnet6.Bits()),
				},
				Subnets: otherSubnets(n, own),
			}
			if l.Infrastructure { // the network is none of the host's routes: what is published finds its way by marks
				port.Subnets = nil
				port.Addresses = []netip.Prefix{netip.PrefixFrom(e.IP4, 32), netip.PrefixFrom(e.IP6, 128)}
			}
			ports = append(ports, port)
		}
	}
	return ports
}

// ownEndpoints is this host's endpoints on a network, by id.
func ownEndpoints(in Inputs, n catalog.Network) map[string]catalog.NetworkEndpoint {
	mine := make(map[string]catalog.NetworkEndpoint)
	for _, e := range n.Endpoints {
		if e.Node == in.Self {
			mine[e.ID] = e
		}
	}
	return mine
}

// otherSubnets is the IPv4 subnets of a network but one.
func otherSubnets(n catalog.Network, own netip.Prefix) []netip.Prefix {
	if len(n.Space) == 1 {
		return nil
	}
	return slices.DeleteFunc(n.Space.Subnets(), func(p netip.Prefix) bool { return p == own })
}

func compileGateway(in Inputs) gateway.Config {
	cfg := gateway.Config{Bridge: GatewayBridge, Subnets: in.GatewaySubnets, MTU: in.GatewayMTU}
	for _, l := range in.Locals {
		if l.GatewayIndex == 0 {
			continue
		}
		port := gateway.Port{Endpoint: l.ID, Namespace: l.Namespace, Interface: gatewayInterface}
		for _, subnet := range in.GatewaySubnets {
			port.Addresses = append(port.Addresses, catalog.AddressAt(subnet, l.GatewayIndex))
		}
		cfg.Ports = append(cfg.Ports, port)
	}
	return cfg
}

func compileDNS(in Inputs) dns.Config {
	cfg := dns.Config{Domain: in.Domain, Search: in.Search, Upstreams: in.Upstreams}
	for _, n := range in.View.Networks {
		if n.Name == catalog.IngressNetwork {
			continue
		}
		cfg.Networks = append(cfg.Networks, dnsNetwork(in, n))
	}
	for _, m := range in.View.Members {
		if present(m) {
			cfg.Nodes = append(cfg.Nodes, dns.Node{Name: dnsLabel(m.Name), Addrs: underlayAddresses(m)})
		}
	}
	for _, l := range in.Locals {
		if l.Infrastructure {
			continue
		}
		server := dns.Server{Endpoint: l.ID, Namespace: l.Namespace, Forward: l.GatewayIndex != 0, Resolver: l.Resolver}
		for _, a := range l.Attachments {
			if a.Network != catalog.IngressNetwork {
				server.Networks = append(server.Networks, a.Network)
			}
		}
		cfg.Servers = append(cfg.Servers, server)
	}
	return cfg
}

// underlayAddresses is what NODE.node answers: where the host's other services
// are reached, which its mesh address, inside the mesh namespace, is not.
func underlayAddresses(m catalog.Member) []netip.Addr {
	var addrs []netip.Addr
	for _, c := range m.Candidates {
		if !slices.Contains(addrs, c.Addr()) {
			addrs = append(addrs, c.Addr())
		}
	}
	return addrs
}

func dnsLabel(name string) string { return strings.ToLower(name) }

func addresses(e catalog.NetworkEndpoint) []netip.Addr { return []netip.Addr{e.IP4, e.IP6} }

func parseMAC(s string) (net.HardwareAddr, error) { return net.ParseMAC(s) }
