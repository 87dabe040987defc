package docker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/meshd/meshd/api"
)

// keepContainers compares all containers when the Engine has come, when the mesh has, and every now and then.
func (p *Plugin) keepContainers(ctx context.Context) error {
	ticker := time.NewTicker(reconnect)
	defer ticker.Stop()
	member := false
	var last time.Time
	var pause time.Duration
	for {
		_, err := p.mesh.Networks(ctx)
		if err == nil && !member {
			pause = 0
		}
		member = err == nil
		if member && time.Since(last) >= pause {
			last, pause = time.Now(), min(max(2*pause, 4*reconnect), listTime) // often in the beginning, when much happens
			if err := p.resync(ctx); err != nil && ctx.Err() == nil {
				p.log.Warn("Docker's containers were not compared with the mesh's endpoints", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.recheck:
			pause = 0
		case <-ticker.C:
		}
	}
}

// resync makes our endpoints those of the Engine's containers, whatever happened while one of us was away.
func (p *Plugin) resync(ctx context.Context) error {
	began := time.Now()
	list, err := p.engine.containers(ctx)
	if err != nil {
		return err
	}
	alive := make(map[string]bool) // endpoints
	ends := make(map[string]time.Time)
	for _, c := range list {
		ends[c.ID] = time.Time{}
		concerns := false
		if c.NetworkSettings != nil {
			for name, settings := range c.NetworkSettings.Networks {
				concerns = concerns || p.networkNamed(name)
				if settings != nil && settings.EndpointID != "" {
					alive[settings.EndpointID] = true
				}
			}
		}
		if !concerns {
			continue
		}
		inspected, err := p.engine.inspect(ctx, c.ID)
		if err != nil {
			continue // it went meanwhile, or the next time tells
		}
		ends[c.ID] = endOf(inspected)
		if err := p.adopt(ctx, inspected); err != nil {
			return err
		}
		p.learn(ctx, c.ID)
		p.startAgain(ctx, inspected)
	}
	p.mu.Lock()
	for id := range p.containers {
		if _, present := ends[id]; !present {
			delete(p.containers, id)
		}
	}
	p.mu.Unlock()
	gone := func(e endpoint) bool { return !alive[e.ID] && isOver(e, ends, began) }
	return p.sweep(ctx, alive, gone, began)
}

// endOf is when a container that does not run ended; zero: it runs, or never did.
func endOf(c container.InspectResponse) time.Time {
	if c.State == nil || c.State.Running {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, c.State.FinishedAt)
	if err != nil || at.Year() <= 1 {
		return time.Time{}
	}
	return at
}

// isOver says whether an endpoint that the Engine does not list is a left-over, and not on its way: its container was removed,
// or has ended since. Ends is of all containers, as listed after began. Of one whose container is not known, only its age tells.
func isOver(e endpoint, ends map[string]time.Time, began time.Time) bool {
	if began.Sub(e.Created) > settleAge {
		return true
	}
	end, present := ends[e.Container]
	return e.Container != "" && e.Created.Before(began) && (!present || end.After(e.Created))
}

// startAgain starts a container that should run, and that the Engine could not start when it came up, because
// we or the mesh were not there yet: the Engine does not try again.
func (p *Plugin) startAgain(ctx context.Context, c container.InspectResponse) {
	if !failedForUs(c) {
		return
	}
	p.log.Info("starting a container that Docker could not start", "container", c.Name, "why", c.State.Error)
	p.report("container "+strings.TrimPrefix(c.Name, "/"), p.engine.start(ctx, c.ID))
}

// failedForUs says whether a container with a restart policy, which ran before, failed to start for lack of the plugin,
// or by what the plugin answered.
func failedForUs(c container.InspectResponse) bool {
	if c.State == nil || c.State.Running || c.HostConfig == nil || c.HostConfig.RestartPolicy.IsNone() {
		return false
	}
	started, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
	ours := strings.Contains(c.State.Error, "/meshd.sock/") || strings.Contains(c.State.Error, "%2Fmeshd.sock/") || strings.Contains(c.State.Error, "remote: ")
	return err == nil && started.Year() > 1 && ours
}

// networkNamed says whether the Engine has a network of ours with this name.
func (p *Plugin) networkNamed(name string) bool {
	for _, n := range p.state.networks() {
		if n.Name == name {
			return true
		}
	}
	return false
}

// adopt takes in the endpoints of a container that nobody told us of, or whose container was not known.
func (p *Plugin) adopt(ctx context.Context, c container.InspectResponse) error {
	if c.NetworkSettings == nil || c.State == nil || !c.State.Running || c.NetworkSettings.SandboxKey == "" {
		return nil
	}
	for _, settings := range c.NetworkSettings.Networks {
		if settings == nil || settings.EndpointID == "" {
			continue
		}
		n, ours := p.state.network(settings.NetworkID)
		if !ours || !n.Ready {
			continue
		}
		e, known := p.state.endpoint(settings.EndpointID)
		if known && e.Container == c.ID {
			continue
		}
		if !known {
			e = endpoint{
				ID: settings.EndpointID, NetworkID: settings.NetworkID, Network: n.Name,
				IP: settings.IPAddress.String(), MAC: settings.MacAddress.String(),
				Sandbox: c.NetworkSettings.SandboxKey, Created: time.Now(), Publish: publishedBy(c),
			}
			var taken []string
			for _, other := range p.state.endpoints(func(o endpoint) bool { return o.Sandbox == e.Sandbox }) {
				taken = append(taken, other.Interface)
			}
			e.Interface = freeInterface(taken)
		}
		e.Container = c.ID
		if err := p.state.putEndpoint(e); err != nil {
			return err
		}
		if err := p.dropEarlier(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// publishedBy is the ports that a container asked to publish; those that cannot be are left out.
func publishedBy(c container.InspectResponse) []api.Publish {
	var out []api.Publish
	if c.HostConfig == nil {
		return nil
	}
	for port, bindings := range c.HostConfig.PortBindings {
		for _, b := range bindings {
			var host uint16
			if _, err := fmt.Sscan(b.HostPort, &host); err != nil || host == 0 {
				continue
			}
			out = append(out, api.Publish{Published: host, Target: port.Num(), Protocol: string(port.Proto())})
		}
	}
	return out
}

// sweep removes the endpoints that no container has, gives back addresses that came to nothing, and attaches
// what is not attached.
func (p *Plugin) sweep(ctx context.Context, alive map[string]bool, gone func(endpoint) bool, began time.Time) error {
	for _, e := range p.state.endpoints(gone) {
		if err := p.drop(ctx, e); err != nil {
			return err
		}
	}
	for at, r := range p.reservations() {
		if began.Sub(r.made) > reservationLife {
			if err := p.unreserve(ctx, at, r); err != nil {
				return err
			}
		}
	}
	rows, err := p.mesh.Endpoints(ctx)
	if err != nil {
		return err
	}
	attached := make(map[string]bool)
	for _, row := range rows {
		if !strings.HasPrefix(row.Key, keyPrefix) {
			continue
		}
		attached[row.Key+" "+row.Network] = true
		key := row.Key
		if len(p.state.endpoints(func(e endpoint) bool { return e.Sandbox != "" && e.key() == key })) == 0 {
			if err := p.mesh.DetachKey(ctx, api.DetachRequest{Key: key}); err != nil && code(err) != api.CodeNotFound {
				return err
			}
		}
	}
	for _, e := range p.state.endpoints(func(e endpoint) bool { return e.Sandbox != "" && alive[e.ID] }) {
		if !attached[e.key()+" "+e.Network] && namespaceThere(e.Sandbox) {
			p.plugIn(e)
		}
	}
	return nil
}
