// Package ingress leads connections to replicas. Inside an endpoint's namespace it
// translates virtual IPs; on the host it translates published ports, and sends them over the
// ingress network to a replica anywhere in the mesh.
//
// Translation is one nftables look-up however many services there are: a verdict
// map leads from the virtual IP to a chain for its number of replicas, which
// draws a slot, and a flat map leads from (virtual IP, slot) to the replica. Published
// ports are translated the same way, by (protocol, port) instead of the virtual IP. A slot is
// drawn at random, or, so that a client stays with its replica, by the client's address.
//
// Nobody translates the client's address: a replica sees it. In the replica's namespace a connection arrives at an address that
// stands for the host that it came through, and by that its answers find back.
//
// What is in the kernel: the nftables table "inet meshd" in each client's namespace and the host's; in
// each replica's the tables "inet meshd-return" and "netdev meshd-return", and the aliases of hosts as local addresses; there and on the host routing table 19780 and the
// rules that lead there; on the host the iptables chain MESHD-INGRESS with jumps to it, and forwarding switched on, which
// stays. As long as the process lives it has a socket on each published port of the host, so that processes do
// not take them unawares.
package ingress

import "net/netip"

// Config is everything that should be. The zero Config means that nothing should.
type Config struct {
	Clients  []Client
	Replicas []Replica
	Publish  Publish
}

// Client is a namespace in which virtual IPs are translated.
type Client struct {
	Endpoint  string      // its id
	Namespace string      // path
	Services  []VirtualIP // sorted by Address; clients may share it
}

// VirtualIP is one address of one service. Connections and datagrams to any of its
// ports, and pings, go to the same port of a replica, drawn at random with
// equal chances. Without replicas they are refused at once.
type VirtualIP struct {
	Address  netip.Addr
	Replicas []netip.Addr // of Address's family, sorted
	// Draining replicas get no new connections and keep those they have. Connections to what is in
	// neither list are reset at once. Sorted.
	Draining []netip.Addr
	// ByClient has all connections of one client address go to one replica, the same on every host. When replicas
	// come or go, clients of the others stay where they are.
	ByClient bool
}

// Publish is the published ports of this host. It needs the host's own interface on the ingress network,
// which overlay makes.
type Publish struct {
	Interface string         // name of that interface, such as meshd-in; empty: nothing is published here
	Subnets   []netip.Prefix // of the ingress network, both families: where the replicas are
	Ports     []Port         // sorted by Protocol, Published
}

// Port is a port that answers on every host.
type Port struct {
	Protocol  string // "tcp" or "udp"
	Published uint16
	Backends  []netip.AddrPort // replicas on the ingress network with their target port, both families, sorted
	Draining  []netip.AddrPort // as VirtualIP.Draining
	ByClient  bool             // as VirtualIP.ByClient
	// Shared: an engine of this host has the port too, for a replica that is here. It is neither guarded
	// against that engine nor left to it: the rules, which come before all sockets, take what arrives.
	Shared bool
}
