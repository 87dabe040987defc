// Package docker puts the containers of a Docker Engine on meshd's networks. It answers the
// Engine's questions as a network driver and as an IPAM driver named "meshd" (libnetwork's remote
// drivers: JSON over a Unix socket), and follows the Engine's events, which alone tell names,
// labels, aliases and health.
//
// The Engine may come and go, and so may the mesh: what both say is compared whenever they
// meet, and made equal.
package docker

import (
	"context"
	"net/netip"

	"github.com/meshd/meshd/api"
)

// Mesh is what the plugin asks of the daemon that it runs in. Errors are *api.Error where a person
// can mend it; the Engine shows their text as it is.
type Mesh interface {
	Networks
	Containers
}

// Networks is the mesh's networks.
type Networks interface {
	Networks(ctx context.Context) ([]api.Network, error)
	CreateNetwork(ctx context.Context, req api.NetworkRequest) (api.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
	// FreeSubnets returns subnets that a new network could have, IPv4 first.
	FreeSubnets(ctx context.Context) ([]netip.Prefix, error)
	// CheckSubnets says why a new network could not have these subnets.
	CheckSubnets(ctx context.Context, subnets []netip.Prefix) error
}

// Containers is the containers of this host as endpoints.
type Containers interface {
	Attach(ctx context.Context, req api.AttachRequest) (api.Attached, error)
	DetachKey(ctx context.Context, req api.DetachRequest) error
	Endpoints(ctx context.Context) ([]api.Endpoint, error)
	// Describe returns not_found if no endpoint has the key.
	Describe(ctx context.Context, d Description) error
	// CheckPublish says why a service could not publish ports.
	CheckPublish(ctx context.Context, network, service string, ports []api.Publish) error
	// Prepare has this host be able to give out addresses of a network, which may take seconds.
	Prepare(ctx context.Context, network string) error
	// Reserve promises an address to an endpoint to come: want, or any if that is the zero Addr.
	Reserve(ctx context.Context, network string, want netip.Addr) (Address, error)
	// Release takes Reserve back; it is no error if nothing was reserved.
	Release(ctx context.Context, network string, address netip.Addr) error
}

// Address is an endpoint's address on a network, with the lengths of the network's prefixes.
type Address struct{ IP4, IP6 netip.Prefix }

// Description is what an Engine says of a container, beside its networks.
type Description struct {
	Key      string // of its endpoint
	Name     string
	Service  string
	Aliases  map[string][]string // by network; those that DNS cannot have are left out
	Publish  []api.Publish
	HostOnly bool   // ports are published on this host alone
	Health   string // healthy, starting or unhealthy
	Reason   string // why it is not healthy
	Draining bool   // it takes nothing new, and keeps what it has
}
