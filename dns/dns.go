// Package dns answers the names of the mesh inside the endpoints' namespaces.
//
// All answers come from an immutable [Zone] that is swapped whole. What is not in
// the mesh's names goes on to the upstreams. A [Resolver] does both, on a socket
// in each endpoint's namespace.
package dns

import "net/netip"

// Config is everything that should be. The zero Config means that nothing should.
type Config struct {
	Domain    string // mesh.internal, without dots at its ends
	Networks  []Network
	Nodes     []Node
	Upstreams []netip.AddrPort // asked from the agent's own namespace, in this order
	Search    []string         // search domains of the host, for ResolvConf; may be empty
	Servers   []Server
}

// Network is one network's names.
type Network struct {
	Name      string
	Subnets   []netip.Prefix // addresses in them that have no name are not asked of the upstreams
	Services  []Service
	Endpoints []Host // NAME.endpoint
}

// Service is a service on one network: NAME gives the virtual IPs, tasks.NAME the replicas.
type Service struct {
	Name     string
	VIPs     []netip.Addr
	Replicas []Host // in rotation
	Ports    []Port // for _PORT._PROTOCOL.NAME
}

// Port is a port that a service is known to serve.
type Port struct {
	Name     string // its number, or a name
	Number   uint16
	Protocol string // "tcp" or "udp"
}

// Host is a name with addresses, IPv4 and IPv6.
type Host struct {
	Name  string
	Addrs []netip.Addr
}

// Node is a host of the mesh: NAME.node.
type Node struct {
	Name  string
	Addrs []netip.Addr // empty: the name exists and has no address
}

// Server is a namespace in which the names are answered, on 127.0.0.11:53.
type Server struct {
	Endpoint  string   // its id; no two servers have the same
	Namespace string   // path
	Networks  []string // names of other networks do not exist there; the first is searched first
	Forward   bool     // pass what is not ours on to the upstreams; else refuse it
	// Resolver says that the namespace has a resolver of its own on this address, behind a destination
	// NAT, as Docker's containers have. What is not ours goes to it, whatever Forward says, and it has the
	// address back as soon as we end, however we do.
	Resolver bool
}
