package docker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
)

// keepNetworks makes the Engine's networks and the mesh's equal, whenever one of them changes.
func (p *Plugin) keepNetworks(ctx context.Context) error {
	ticker := time.NewTicker(lookTime)
	defer ticker.Stop()
	var seen []api.Network
	again := time.Now()
	for {
		networks, err := p.meshNetworks(ctx)
		for i := range networks {
			networks[i].Endpoints, networks[i].Usage = 0, 0 // what changes all the time
		}
		late := !again.IsZero() && !time.Now().Before(again)
		if err == nil && (late || !reflect.DeepEqual(seen, networks)) {
			p.wake()
		}
		if err == nil {
			seen = networks
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			continue
		case <-p.wakeup:
		}
		again = time.Time{}
		if err := p.syncNetworks(ctx); err != nil { // what is wrong was reported
			again = time.Now().Add(retryTime)
		}
	}
}

// meshNetworks is the mesh's networks. A host that belongs to none, as after it has left, has none.
func (p *Plugin) meshNetworks(ctx context.Context) ([]api.Network, error) {
	networks, err := p.mesh.Networks(ctx)
	if code(err) == api.CodeNoMesh {
		return nil, nil
	}
	return networks, err
}

// syncNetworks compares all networks, and does what makes them equal until nothing is left to do.
func (p *Plugin) syncNetworks(ctx context.Context) error {
	for range 4 { // a new network takes three: into the mesh, out of Docker and in again, adopted
		mesh, err := p.meshNetworks(ctx)
		if err != nil {
			return err
		}
		list, err := p.engine.networks(ctx)
		if err != nil {
			return err
		}
		if err := p.forgetNetworks(list); err != nil {
			return err
		}
		for i := range list {
			n, _ := p.state.network(list[i].ID)
			list[i].Ready = n.Ready
			list[i].InUse = len(p.state.endpoints(func(e endpoint) bool { return e.NetworkID == list[i].ID })) > 0
		}
		ops := planNetworks(mesh, list)
		done := 0
		var errs []error
		for _, o := range ops {
			if o.do != opReport {
				p.log.Debug("networks", "op", o.String())
			}
			err := p.apply(ctx, o)
			if code(err) == api.CodeNoMesh {
				continue // containers are still on a network of a mesh that this host has left
			}
			p.report(aboutNetwork(o.network.Name), err)
			if err == nil {
				done++
			} else if o.do != opReport {
				errs = append(errs, err)
			}
		}
		p.clearReports(ops)
		if done == 0 {
			return errors.Join(errs...)
		}
	}
	return nil
}

// clearReports takes back what was reported of networks that nothing has to be done about any more.
func (p *Plugin) clearReports(ops []op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for about := range p.problems {
		name, ok := strings.CutPrefix(about, "network ")
		if ok && !slices.ContainsFunc(ops, func(o op) bool { return o.network.Name == name }) {
			delete(p.problems, about)
		}
	}
}

// forgetNetworks drops what the Engine has no more, as after its data were removed.
func (p *Plugin) forgetNetworks(list []engineNetwork) error {
	for id := range p.state.networks() {
		if !slices.ContainsFunc(list, func(e engineNetwork) bool { return e.ID == id }) {
			p.mu.Lock()
			ours := p.removing[id]
			p.mu.Unlock()
			n, _ := p.state.network(id)
			if ours || n.Name == "" {
				continue // it is on its way out, or in
			}
			if err := p.state.dropNetwork(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Plugin) apply(ctx context.Context, o op) error {
	n := o.network
	switch o.do {
	case opReport:
		return errors.New(o.why)
	case opAdopt:
		return p.state.putNetwork(n.ID, known{Name: n.Name, Ready: true})
	case opCreateInMesh:
		req := api.NetworkRequest{Name: n.Name, Internal: n.Internal, Labels: portable(n.Labels)}
		for _, s := range n.Subnets {
			req.Subnets = append(req.Subnets, s.String())
		}
		_, err := p.mesh.CreateNetwork(ctx, req)
		if code(err) == api.CodeNoMesh {
			return err
		}
		if err != nil { // its endpoints are told why they cannot be
			return errors.Join(err, p.state.putNetwork(n.ID, known{Name: n.Name}))
		}
		p.prepare(n.Name) // whoever made it here will use it here
		return nil
	case opRemoveFromEngine:
		return p.removeFromEngine(ctx, n)
	case opCreateInEngine:
		return p.createInEngine(ctx, n)
	case opReplaceInEngine:
		return p.replaceInEngine(ctx, n)
	}
	return nil
}

func (p *Plugin) createInEngine(ctx context.Context, n engineNetwork) error {
	id, err := p.engine.createNetwork(ctx, n)
	if err != nil {
		return fmt.Errorf("making network %s in Docker: %w", n.Name, err)
	}
	return p.state.putNetwork(id, known{Name: n.Name, Ready: true})
}

// removeFromEngine takes a network off the Engine without taking it from the mesh.
func (p *Plugin) removeFromEngine(ctx context.Context, n engineNetwork) error {
	p.mu.Lock()
	p.removing[n.ID] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.removing, n.ID)
		p.mu.Unlock()
	}()
	if err := p.engine.removeNetwork(ctx, n.ID); err != nil {
		return fmt.Errorf("removing network %s from Docker: %w", n.Name, err)
	}
	return p.state.dropNetwork(n.ID)
}
