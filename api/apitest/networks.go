package apitest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/meshd/meshd/api"
)

// CreateNetwork implements api.Networks.
func (b *Backend) CreateNetwork(_ context.Context, req api.NetworkRequest) (api.Network, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return api.Network{}, err
	}
	if slices.ContainsFunc(b.networks, func(n api.Network) bool { return n.Name == req.Name }) {
		return api.Network{}, refuse(api.CodeConflict, "network %s exists already: choose another name", req.Name)
	}
	n := api.Network{Name: req.Name, VNI: uint32(4097 + len(b.networks)), Subnets: req.Subnets, MTU: 1350, Internal: req.Internal}
	if len(n.Subnets) == 0 {
		n.Subnets = []string{fmt.Sprintf("10.%d.0.0/16", 64+len(b.networks)), "fd00:1:2:3::/64"}
	}
	b.networks = append(b.networks, n)
	b.change("network %s %v internal=%v", n.Name, n.Subnets, n.Internal)
	return n, nil
}

// GrowNetwork implements api.Networks.
func (b *Backend) GrowNetwork(_ context.Context, req api.GrowthRequest) (api.Network, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return api.Network{}, err
	}
	i, err := b.network(req.Name)
	if err != nil {
		return api.Network{}, err
	}
	n := &b.networks[i]
	if req.Subnet == "" {
		req.Subnet = fmt.Sprintf("10.%d.0.0/16", 128+len(n.Subnets))
	}
	n.Subnets = append(slices.Clone(n.Subnets), req.Subnet)
	b.change("network %s grows by %s", n.Name, req.Subnet)
	return *n, nil
}

// Networks implements api.Networks.
func (b *Backend) Networks(context.Context) ([]api.Network, error) {
	err := b.locked()
	defer b.mu.Unlock()
	return slices.Clone(b.networks), err
}

// Network implements api.Networks.
func (b *Backend) Network(_ context.Context, name string) (api.NetworkDetail, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return api.NetworkDetail{}, err
	}
	i, err := b.network(name)
	if err != nil {
		return api.NetworkDetail{}, err
	}
	detail := api.NetworkDetail{Network: b.networks[i], Created: created, Blocks: []api.Block{{Range: "10.64.0.0-10.64.0.255", Node: "host-a"}}}
	for _, e := range b.endpoints {
		if e.Network == name {
			detail.Members = append(detail.Members, e)
		}
	}
	return detail, nil
}

// network finds a network's index. The lock is held.
func (b *Backend) network(name string) (int, error) {
	i := slices.IndexFunc(b.networks, func(n api.Network) bool { return n.Name == name })
	if i < 0 {
		return 0, refuse(api.CodeNotFound, "no network %s: make it with `meshd network create %s`", name, name)
	}
	return i, nil
}

// RemoveNetwork implements api.Networks.
func (b *Backend) RemoveNetwork(_ context.Context, name string) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	i, err := b.network(name)
	if err != nil {
		return err
	}
	if n := b.networks[i].Endpoints; n > 0 {
		return refuse(api.CodeConflict, "network %s is in use by %d endpoints: end them first, see `meshd network inspect %s`", name, n, name)
	}
	b.networks = slices.Delete(b.networks, i, i+1)
	b.change("rm network %s", name)
	return nil
}

// Services implements api.Networks.
func (b *Backend) Services(context.Context) ([]api.Service, error) {
	err := b.locked()
	defer b.mu.Unlock()
	var services []api.Service
	for _, e := range b.endpoints {
		i := slices.IndexFunc(services, func(s api.Service) bool { return s.Name == e.Service && s.Network == e.Network })
		if i < 0 {
			i = len(services)
			services = append(services, b.service(e.Service, e.Network))
		}
		services[i].Endpoints = append(services[i].Endpoints, e)
	}
	return services, err
}

// service is one as it was updated last. The lock is held.
func (b *Backend) service(name, network string) api.Service {
	s := api.Service{Name: name, Network: network, VIP: "10.64.255.1", VIP6: "fd00:1:2:3::ff01", Affinity: "none", Prefer: "none",
		Ports: []api.ServicePort{{Publish: api.Publish{Published: 8080, Target: 80, Protocol: "tcp"}}}}
	req, ok := b.updates[name+"."+network]
	if !ok {
		return s
	}
	for _, p := range req.Publish {
		port := api.ServicePort{Publish: p}
		if p.Protocol == "tcp" {
			port.HeldOn = []string{"host-b"}
		}
		s.Ports = append(s.Ports, port)
	}
	for _, p := range req.Unpublish {
		if p.Port == 8080 {
			s.Ports, s.Withdrawn = s.Ports[1:], []api.Port{{Port: 8080, Protocol: "tcp"}}
		}
	}
	if req.Affinity != "" {
		s.Affinity = req.Affinity
	}
	if req.Prefer != "" {
		s.Prefer = req.Prefer
	}
	return s
}

// UpdateService implements api.Networks. Port 443 is another service's.
func (b *Backend) UpdateService(ctx context.Context, name string, req api.ServiceRequest) (api.Service, error) {
	s, err := b.Service(ctx, name)
	if err != nil {
		return api.Service{}, err
	}
	if slices.ContainsFunc(req.Publish, func(p api.Publish) bool { return p.Published == 443 }) {
		return api.Service{}, refuse(api.CodeConflict, "port 443/tcp is published by service web.appnet: choose another port")
	}
	name = s.Name + "." + s.Network
	b.mu.Lock()
	if b.updates == nil {
		b.updates = map[string]api.ServiceRequest{}
	}
	b.updates[name] = req
	b.change("update %s %+v", name, req)
	b.mu.Unlock()
	return b.Service(ctx, name)
}

// Service implements api.Networks.
func (b *Backend) Service(ctx context.Context, name string) (api.Service, error) {
	services, err := b.Services(ctx)
	if err != nil {
		return api.Service{}, err
	}
	for _, s := range services {
		if name == s.Name || name == s.Name+"."+s.Network {
			return s, nil
		}
	}
	return api.Service{}, refuse(api.CodeNotFound, "no service %s: see `meshd service ls`", name)
}

// Attach implements api.Endpoints.
func (b *Backend) Attach(ctx context.Context, req api.AttachRequest) (api.Attached, error) {
	if b.OnAttach != nil {
		if err := b.OnAttach(ctx, req); err != nil {
			return api.Attached{}, err
		}
	}
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return api.Attached{}, err
	}
	if have, ok := b.keyed(req); ok {
		return have, nil
	}
	b.attached++
	a := api.Attached{ID: fmt.Sprintf("%012x", b.attached), Name: req.Name, Nameserver: "127.0.0.11"}
	if a.Name == "" {
		a.Name = a.ID
	}
	service := req.Service
	if service == "" {
		service = a.Name
	}
	for _, network := range req.Networks {
		i, err := b.network(network)
		if err != nil {
			return api.Attached{}, err
		}
		b.networks[i].Endpoints++
		a.Search = append(a.Search, network+".mesh.internal")
		a.Interfaces = append(a.Interfaces, api.Endpoint{ID: a.ID, Name: a.Name, Service: service, Network: network, Node: "host-a",
			IP: fmt.Sprintf("10.64.0.%d", b.attached+1), IP6: fmt.Sprintf("fd00:1:2:3::%d", b.attached+1), MAC: "02:00:00:00:00:01", Health: "healthy", Self: true,
			Key: req.Key, Interface: req.Interface, Owner: req.Owner})
	}
	a.Search = append(a.Search, "mesh.internal")
	b.endpoints = append(b.endpoints, a.Interfaces...)
	b.change("attach %s name=%s service=%s networks=%v publish=%v", a.ID, a.Name, service, req.Networks, req.Publish)
	return a, nil
}

// Drain implements api.Endpoints.
func (b *Backend) Drain(_ context.Context, req api.DrainRequest) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	health, verb, found := "draining", "drain ", false
	if req.Undo {
		health, verb = "healthy", "undrain "
	}
	for i, e := range b.endpoints {
		if req.Endpoint == "" || e.Name == req.Endpoint || strings.HasPrefix(e.ID, req.Endpoint) {
			b.endpoints[i].Health, found = health, true
			b.changes = append(b.changes, fmt.Sprintf("%s%s limit=%s wait=%v", verb, e.ID, req.Limit, req.Wait))
		}
	}
	if !found && req.Endpoint != "" {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no endpoint %q on this host: see meshd endpoint ls", req.Endpoint)}
	}
	return nil
}

// Detach implements api.Endpoints.
func (b *Backend) Detach(_ context.Context, endpoint string) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	found := ""
	b.endpoints = slices.DeleteFunc(b.endpoints, func(e api.Endpoint) bool {
		hit := e.Name == endpoint || strings.HasPrefix(e.ID, endpoint)
		if i, err := b.network(e.Network); hit && err == nil {
			b.networks[i].Endpoints--
			found = e.ID
		}
		return hit
	})
	if found == "" {
		return refuse(api.CodeNotFound, "no endpoint %s on this host: see `meshd endpoint ls`", endpoint)
	}
	b.change("detach %s", found)
	return nil
}

// keyed finds what a key and network have been attached as. The lock is held.
func (b *Backend) keyed(req api.AttachRequest) (api.Attached, bool) {
	i := slices.IndexFunc(b.endpoints, func(e api.Endpoint) bool {
		return req.Key != "" && e.Key == req.Key && slices.Contains(req.Networks, e.Network)
	})
	if i < 0 {
		return api.Attached{}, false
	}
	e := b.endpoints[i]
	return api.Attached{ID: e.ID, Name: e.Name, Nameserver: "127.0.0.11", Interfaces: []api.Endpoint{e}}, true
}

// DetachKey implements api.Endpoints.
func (b *Backend) DetachKey(_ context.Context, req api.DetachRequest) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	before := len(b.endpoints)
	b.endpoints = slices.DeleteFunc(b.endpoints, func(e api.Endpoint) bool {
		return e.Key == req.Key && (req.Network == "" || e.Network == req.Network)
	})
	if len(b.endpoints) == before {
		return refuse(api.CodeNotFound, "no endpoint of this host has the key %s and network %q: see meshd endpoint ls", req.Key, req.Network)
	}
	b.change("detach key=%s network=%s", req.Key, req.Network)
	return nil
}

// Endpoints implements api.Endpoints.
func (b *Backend) Endpoints(context.Context) ([]api.Endpoint, error) {
	err := b.locked()
	defer b.mu.Unlock()
	return slices.Clone(b.endpoints), err
}
