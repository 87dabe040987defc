// Package gateway connects the endpoints of one host to what the host reaches: a
// bridge in the host's namespace, an interface and default routes in each endpoint's, and
// masquerading between. Endpoints cannot reach each other through it, and nobody outside
// can open a connection to them.
package gateway

import "net/netip"

// Config is everything that should be. The zero Config means that nothing should.
type Config struct {
	Bridge  string         // name, such as meshd0
	Subnets []netip.Prefix // one IPv4 and at most one IPv6; the first address of each is the bridge's
	MTU     int            // bytes
	Ports   []Port         // sorted by Endpoint
}

// Port is an endpoint's way out.
type Port struct {
	Endpoint  string       // its id: 12 hex digits; the veth's outer name is made of it
	Namespace string       // path
	Interface string       // name inside, such as gw0
	Addresses []netip.Addr // one of each of Config.Subnets
}
