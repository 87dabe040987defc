package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
)

// optionNetwork is the IPAM option by which a network of the Engine's names the mesh's: at the
// time that its pool is asked for, nothing else tells.
const optionNetwork = "meshd.network"

// pool is what the Engine's pool IDs stand for: the subnet of one family of a network that is
// known by name, or else by that subnet.
type pool struct {
	six    bool
	name   string
	subnet netip.Prefix
}

func (p pool) String() string {
	family, what := "4", p.name
	if p.six {
		family = "6"
	}
	if what == "" {
		what = p.subnet.String()
	}
	return family + ":" + what
}

func parsePool(id string) (pool, error) {
	family, what, ok := strings.Cut(id, ":")
	if !ok || family != "4" && family != "6" {
		return pool{}, fmt.Errorf("address pool %q is none of meshd's", id)
	}
	p := pool{six: family == "6"}
	if subnet, err := netip.ParsePrefix(what); err == nil {
		p.subnet = subnet
	} else {
		p.name = what
	}
	return p, nil
}

// requestPool tells the Engine a network's subnet.
func (p *Plugin) requestPool(ctx context.Context, req requestPoolRequest) (requestPoolResponse, error) {
	if req.SubPool != "" {
		return requestPoolResponse{}, errors.New("--ip-range has no meaning on a network of meshd's: its hosts share all its addresses out among themselves; leave it out")
	}
	asked, err := subnetOf(req.Pool)
	if err != nil {
		return requestPoolResponse{}, err
	}
	out := pool{six: req.V6, name: req.Options[optionNetwork], subnet: asked}
	if out.name != "" {
		have, err := p.networkSubnet(ctx, out)
		switch {
		case err == nil:
			out.subnet = have
		case !asked.IsValid(): // else: as it was, such as when the Engine starts before the mesh is there
			return requestPoolResponse{}, err
		}
	}
	if !out.subnet.IsValid() {
		if out.subnet, err = p.freeSubnet(ctx, req.V6); err != nil {
			return requestPoolResponse{}, err
		}
	}
	return requestPoolResponse{PoolID: out.String(), Pool: out.subnet.String()}, nil
}

func subnetOf(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	subnet, err := netip.ParsePrefix(text)
	if err != nil {
		return subnet, fmt.Errorf("subnet %q is no CIDR: write it like 10.5.0.0/16", text)
	}
	return subnet, nil
}

func (p *Plugin) freeSubnet(ctx context.Context, six bool) (netip.Prefix, error) {
	free, err := p.mesh.FreeSubnets(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, s := range free {
		if s.Addr().Is6() == six {
			return s, nil
		}
	}
	return netip.Prefix{}, errors.New("there is no subnet left: name one with --subnet")
}

func (p *Plugin) releasePool(context.Context, releasePoolRequest) (nothing, error) {
	return nothing{}, nil
}

// findNetwork finds the mesh's network that a pool is of.
func (p *Plugin) findNetwork(ctx context.Context, of pool) (api.Network, error) {
	all, err := p.mesh.Networks(ctx)
	if err != nil {
		return api.Network{}, err
	}
	for _, n := range all {
		if of.name != "" && n.Name == of.name || of.name == "" && has(n, of.subnet) {
			return n, nil
		}
	}
	what := "network " + of.name
	if of.name == "" {
		what = "the network with " + of.subnet.String()
	}
	return api.Network{}, fmt.Errorf("%s is not in the mesh: if it was made just now, try again; else see meshd network ls", what)
}

func (p *Plugin) networkSubnet(ctx context.Context, of pool) (netip.Prefix, error) {
	n, err := p.findNetwork(ctx, of)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, s := range prefixes(n.Subnets) {
		if s.Addr().Is6() == of.six {
			return s, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("network %s has no such subnet", n.Name)
}

// requestAddress gives the Engine an address for an endpoint to come, or the gateway's. Nothing
// ever speaks to the gateway's; the Engine wants to know one.
func (p *Plugin) requestAddress(ctx context.Context, req requestAddressRequest) (requestAddressResponse, error) {
	from, err := parsePool(req.PoolID)
	if err != nil {
		return requestAddressResponse{}, err
	}
	want, err := address(req.Address)
	if err != nil {
		return requestAddressResponse{}, err
	}
	if req.Options[labelAddressType] == gatewayAddress {
		return p.gateway(ctx, from, want)
	}
	n, err := p.findNetwork(ctx, from)
	if err != nil {
		return requestAddressResponse{}, err
	}
	mac := req.Options[labelMAC]
	if held, ok := p.reservationOf(n.Name, mac); ok && from.six {
		if want.IsValid() && want != held.address.IP6.Addr() {
			return requestAddressResponse{}, fmt.Errorf(
				"address %s cannot be had beside %s: a container's two addresses have the same number in their subnets; leave --ip6 out, which gives %s",
				want, held.address.IP4.Addr(), held.address.IP6.Addr())
		}
		return requestAddressResponse{held.address.IP6.String()}, nil
	}
	got, err := p.mesh.Reserve(ctx, n.Name, want)
	if err != nil {
		return requestAddressResponse{}, err
	}
	p.mu.Lock()
	p.reserved[got.IP4.Addr().String()] = reservation{network: n.Name, mac: mac, address: got, made: time.Now()}
	p.mu.Unlock()
	if from.six {
		return requestAddressResponse{got.IP6.String()}, nil
	}
	return requestAddressResponse{got.IP4.String()}, nil
}

func (p *Plugin) gateway(ctx context.Context, of pool, want netip.Addr) (requestAddressResponse, error) {
	subnet := of.subnet
	if !subnet.IsValid() {
		have, err := p.networkSubnet(ctx, of)
		if err != nil {
			return requestAddressResponse{}, err
		}
		subnet = have
	}
	gateway := subnet.Masked().Addr().Next()
	if want.IsValid() && want != gateway {
		return requestAddressResponse{}, fmt.Errorf("gateway %s: containers on networks of meshd's have a way out of their own; leave --gateway out", want)
	}
	return requestAddressResponse{netip.PrefixFrom(gateway, subnet.Bits()).String()}, nil
}

func (p *Plugin) reservationOf(network, mac string) (reservation, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.reserved {
		if mac != "" && r.mac == mac && r.network == network {
			return r, true
		}
	}
	return reservation{}, false
}

// releaseAddress takes back an address that no endpoint got. One that an endpoint had is given back with it.
func (p *Plugin) releaseAddress(ctx context.Context, req releaseAddressRequest) (nothing, error) {
	gone, err := address(req.Address)
	if err != nil || !gone.IsValid() {
		return nothing{}, err
	}
	from, err := parsePool(req.PoolID)
	if err != nil {
		return nothing{}, err
	}
	for at, r := range p.reservations() {
		if (r.address.IP4.Addr() == gone || r.address.IP6.Addr() == gone) && (from.name == "" || from.name == r.network) {
			return nothing{}, p.unreserve(ctx, at, r)
		}
	}
	return nothing{}, nil
}

func (p *Plugin) reservations() map[string]reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]reservation, len(p.reserved))
	for at, r := range p.reserved {
		out[at] = r
	}
	return out
}

func (p *Plugin) unreserve(ctx context.Context, at string, r reservation) error {
	p.mu.Lock()
	delete(p.reserved, at)
	p.mu.Unlock()
	err := p.mesh.Release(ctx, r.network, r.address.IP4.Addr())
	if code(err) == api.CodeNoMesh {
		return nil
	}
	return err
}
