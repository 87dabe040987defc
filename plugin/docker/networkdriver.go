package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/internal/link"
)

// createNetwork learns of a network of the Engine's. Its name is not known here, and comes with an event; what
// is wrong with its subnets can be said at once.
func (p *Plugin) createNetwork(ctx context.Context, req createNetworkRequest) (nothing, error) {
	if req.NetworkID == "" || len(req.IPv4Data) != 1 {
		return nothing{}, fmt.Errorf("a network of meshd's has one IPv4 subnet, not %d: leave --subnet out, or name one", len(req.IPv4Data))
	}
	if err := checkOptions(req.Options); err != nil {
		return nothing{}, err
	}
	networks, err := p.mesh.Networks(ctx)
	if err != nil {
		return nothing{}, err
	}
	var asked []netip.Prefix
	for _, d := range slices.Concat(req.IPv4Data, req.IPv6Data) {
		subnet, err := subnetOf(d.Pool)
		if err != nil {
			return nothing{}, err
		}
		ofMesh := slices.ContainsFunc(networks, func(n api.Network) bool { return d.AddressSpace == Driver && has(n, subnet) })
		if !ofMesh && !dockersChoice(subnet) {
			asked = append(asked, subnet)
		}
	}
	if len(asked) > 0 {
		if err := p.mesh.CheckSubnets(ctx, asked); err != nil {
			return nothing{}, err
		}
	}
	if err := p.state.putNetwork(req.NetworkID, known{}); err != nil {
		return nothing{}, err
	}
	if s := p.swapFor(req.IPv4Data); s != nil {
		s.newcome()
	}
	return nothing{}, nil
}

// deleteNetwork removes the mesh's network too, if nobody uses it. Else it comes back: other hosts
// have containers on it.
func (p *Plugin) deleteNetwork(ctx context.Context, req networkRequest) (nothing, error) {
	p.hide(req.NetworkID)
	p.mu.Lock()
	ours := p.removing[req.NetworkID]
	p.mu.Unlock()
	n, known := p.state.network(req.NetworkID)
	if err := p.state.dropNetwork(req.NetworkID); err != nil {
		return nothing{}, err
	}
	if ours || !known || !n.Ready {
		return nothing{}, nil
	}
	p.awaitLeaving(ctx)
	if err := p.mesh.RemoveNetwork(ctx, n.Name); err != nil {
		p.log.Info("a network was removed from Docker and stays in the mesh", "network", n.Name, "why", err)
	}
	p.wake()
	return nothing{}, nil
}

// awaitLeaving waits a moment for the containers that are on their way off.
func (p *Plugin) awaitLeaving(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for p.leaving.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// createEndpoint accepts a container on a network, at the address that the Engine got from us.
func (p *Plugin) createEndpoint(ctx context.Context, req createEndpointRequest) (createEndpointResponse, error) {
	var response createEndpointResponse
	n, err := p.readyNetwork(ctx, req.NetworkID)
	if err != nil {
		return response, err
	}
	if req.EndpointID == "" || req.Interface == nil {
		return response, errors.New("the Engine's endpoint has no id, or no interface")
	}
	e := endpoint{ID: req.EndpointID, NetworkID: req.NetworkID, Network: n.Name, MAC: req.Interface.MacAddress, Created: time.Now()}
	ip, err := address(req.Interface.Address)
	if err != nil {
		return response, err
	}
	if e.Publish, err = publishOf(req.Options); err != nil {
		return response, err
	}
	if err := p.checkContainer(ctx, e); err != nil {
		return response, err
	}
	if err := p.reserveAgain(ctx, n.Name, ip); err != nil {
		return response, err
	}
	e.IP = ip.String()
	if e.MAC == "" {
		e.MAC = link.RandomMAC()
		response.Interface = &endpointInterface{MacAddress: e.MAC}
	}
	if err := p.state.putEndpoint(e); err != nil {
		return createEndpointResponse{}, err
	}
	p.mu.Lock()
	delete(p.reserved, e.IP)
	p.mu.Unlock()
	return response, nil
}

// readyNetwork waits a moment for a network that was made just now.
func (p *Plugin) readyNetwork(ctx context.Context, id string) (known, error) {
	ctx, cancel := context.WithTimeout(ctx, 1200*time.Millisecond)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	p.wake()
	for {
		n, known := p.state.network(id)
		if n.Ready {
			return n, nil
		}
		p.mu.Lock()
		why := p.problems[aboutNetwork(n.Name)]
		p.mu.Unlock()
		if known && n.Name != "" && why != "" {
			return n, errors.New(why)
		}
		select {
		case <-ctx.Done():
			return n, errors.New("this network is not in the mesh yet: try again in a second, and see meshd status if that does not help")
		case <-ticker.C:
		}
	}
}

// reserveAgain makes sure of an address that the Engine has, also if an earlier agent gave it.
func (p *Plugin) reserveAgain(ctx context.Context, network string, ip netip.Addr) error {
	if !ip.IsValid() {
		return fmt.Errorf("the container has no address on network %s: the network was made with another IPAM driver; remove it and make it again", network)
	}
	p.mu.Lock()
	_, ok := p.reserved[ip.String()]
	p.mu.Unlock()
	if ok {
		return nil
	}
	_, err := p.mesh.Reserve(ctx, network, ip)
	return err
}

// join puts a container on the network. Docker 20.10 makes the container's namespace only after
// the answer; then it is waited for in the background.
func (p *Plugin) join(ctx context.Context, req joinRequest) (joinResponse, error) {
	published, err := publishOf(req.Options)
	if err != nil {
		return joinResponse{}, err
	}
	var taken []string
	for _, e := range p.state.endpoints(func(e endpoint) bool { return e.Sandbox == req.SandboxKey }) {
		taken = append(taken, e.Interface)
	}
	e, err := p.state.editEndpoint(req.EndpointID, func(e *endpoint) {
		e.Sandbox, e.Interface = req.SandboxKey, freeInterface(taken)
		if len(published) > 0 {
			e.Publish = published
		}
	})
	if err != nil {
		return joinResponse{}, err
	}
	plugged := p.plugIn(e)
	if !namespaceThere(e.Sandbox) {
		return joinResponse{DisableGatewayService: true}, nil
	}
	select {
	case <-plugged.done:
		if plugged.err != nil {
			return joinResponse{}, plugged.err
		}
	case <-ctx.Done(): // it goes on
	}
	return joinResponse{DisableGatewayService: true}, nil
}

// freeInterface names an interface as no other of the container: eth0 and the like are Docker's to give.
func freeInterface(taken []string) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("mesh%d", i); !slices.Contains(taken, name) {
			return name
		}
	}
}

// leave takes a container off the network. What fails at it is mended when all is compared next: told of it, the Engine would
// keep the endpoint for ever, and its network could not be removed.
func (p *Plugin) leave(ctx context.Context, req endpointRequest) (nothing, error) {
	e, ok := p.state.endpoint(req.EndpointID)
	if !ok {
		return nothing{}, nil
	}
	p.unplug(ctx, e)
	_, err := p.state.editEndpoint(e.ID, func(e *endpoint) { e.Sandbox, e.Interface = "", "" })
	if _, known := p.state.endpoint(e.ID); known { // else it was dropped meanwhile, as its container had ended
		p.putOff(e, err)
	}
	return nothing{}, nil
}

// putOff tells of what could not be done for an endpoint that goes.
func (p *Plugin) putOff(e endpoint, err error) {
	if err != nil {
		p.log.Warn("a container's end was not dealt with yet", "network", e.Network, "endpoint", fmt.Sprintf("%.12s", e.ID), "err", err)
		p.recheckSoon()
	}
}

// deleteEndpoint forgets a container's presence on the network.
func (p *Plugin) deleteEndpoint(ctx context.Context, req endpointRequest) (nothing, error) {
	e, ok := p.state.endpoint(req.EndpointID)
	if !ok {
		return nothing{}, nil
	}
	p.unplug(ctx, e)
	p.putOff(e, p.forget(ctx, e))
	p.wake() // its network may have waited for it to go
	return nothing{}, nil
}

// forget drops an endpoint, and its address if it never got one in the mesh.
func (p *Plugin) forget(ctx context.Context, e endpoint) error {
	if err := p.state.dropEndpoint(e.ID); err != nil {
		return err
	}
	ip, err := address(e.IP)
	if err != nil {
		return err
	}
	if err := p.mesh.Release(ctx, e.Network, ip); err != nil && code(err) != api.CodeNoMesh {
		return err
	}
	return nil
}
