package docker

import (
	"context"
	"slices"
)

// checkContainer refuses a container whose labels or ports cannot be served, while the Engine can still
// tell its user. The Engine does not say which container an endpoint is for: it is one that is to be on
// that network, with these ports. Where several could be meant, only what is true of all is said.
func (p *Plugin) checkContainer(ctx context.Context, e endpoint) error {
	var ports []uint16
	for _, b := range e.Publish {
		ports = append(ports, b.Published)
	}
	slices.Sort(ports)
	var services []string
	var refusal error
	p.mu.Lock()
	for _, g := range p.containers {
		_, on := g.Networks[e.Network]
		if g.Running || g.learned && (!on || !slices.Equal(g.Ports, ports)) {
			continue
		}
		id, err := g.identify()
		if err != nil {
			refusal = err
		}
		if !slices.Contains(services, id.Service) {
			services = append(services, id.Service)
		}
	}
	p.mu.Unlock()
	if len(services) != 1 {
		return nil
	}
	if refusal != nil {
		return refusal
	}
	if len(e.Publish) == 0 {
		return nil
	}
	return p.mesh.CheckPublish(ctx, e.Network, services[0], e.Publish)
}
