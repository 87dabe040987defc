// Package overlay makes the overlay networks of one host: in the mesh namespace a
// bridge and a VXLAN device (RFC 7348) for each network, and in the endpoints'
// namespaces the interfaces on them.
//
// Learning is off: forwarding (FDB) and neighbour entries come from the [Config]
// alone. ARP and ND for known endpoints are answered on the host; broadcast and
// multicast go by head-end replication to the hosts that have the network, and so
// do questions for addresses that nobody told us of.
//
// A gratuitous ARP, or an unsolicited neighbour advertisement, does not cross to other
// hosts: the kernel holds it back wherever it answers for neighbours. So each host sends
// its own endpoints one when the Config says that an address is somewhere new. An address that
// moves without the Config saying so is found when the old entry ages.
package overlay

import (
	"net"
	"net/netip"
)

// Config is everything that should be. The zero Config means that nothing should.
type Config struct {
	Local    netip.Addr // this host's VTEP: its mesh address, on a device of the mesh namespace
	Networks []Network  // sorted by VNI
}

// Network is one overlay network as this host sees it.
type Network struct {
	Name      string
	VNI       uint32
	MTU       int          // bytes, of the bridge, the VXLAN device and every port
	Remotes   []netip.Addr // VTEPs of the other hosts that have endpoints here: broadcast goes to them
	Neighbors []Neighbor   // endpoints on other hosts
	Ports     []Port       // endpoints on this host
}

// Neighbor is an endpoint on another host.
type Neighbor struct {
	IP   []netip.Addr // IPv4 and IPv6
	MAC  net.HardwareAddr
	VTEP netip.Addr // its host's
}

// Port is an interface in the namespace of an endpoint on this host.
type Port struct {
	Endpoint  string // its id: 12 hex digits; the veth's outer name is made of it
	Namespace string // path
	Interface string // name inside, such as eth0
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // with the network's prefix length
	Subnets   []netip.Prefix // further ones of the network: they are on the link as well
}
