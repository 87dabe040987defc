package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/api"
)

const (
	reconnect = 500 * time.Millisecond // between tries to reach the Engine
	lookTime  = 300 * time.Millisecond // between looks at the mesh's networks
	retryTime = 2 * time.Second        // after networks could not be made equal
	listTime  = 30 * time.Second       // between comparisons of all containers
	settleAge = 10 * time.Second       // of an endpoint before it may be taken for a left-over
	overlap   = time.Second            // of the events heard and the time before
	endTime   = time.Second            // after a container's end, to leave its networks
)

// follow follows the Engine whenever it is there, until ctx ends.
func (p *Plugin) follow(ctx context.Context) error {
	for {
		version, err := p.engine.connect(ctx)
		if err == nil {
			p.setVersion(version)
			p.log.Info("Docker is there", "version", version)
			err = p.session(ctx)
			p.setVersion("")
			if ctx.Err() == nil {
				p.log.Info("Docker has gone; containers stay on their networks", "why", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnect):
		}
	}
}

func (p *Plugin) setVersion(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version = version
}

// session follows the Engine until it goes, or ctx ends. Events are heard from a moment ago on, so that nothing is
// missed between what is listed and them.
func (p *Plugin) session(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stream := p.engine.events(ctx, time.Now().Add(-overlap))
	group.Go(func() error {
		for {
			select {
			case msg := <-stream.Messages:
				p.handle(ctx, msg)
			case err := <-stream.Err:
				if err == nil {
					err = errors.New("the stream of events ended")
				}
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	group.Go(func() error { return p.keepNetworks(ctx) })
	group.Go(func() error { return p.keepContainers(ctx) })
	return group.Wait()
}

// handle takes one event in. It waits for nobody: what comes of it is done elsewhere.
func (p *Plugin) handle(ctx context.Context, msg events.Message) {
	switch msg.Type {
	case events.NetworkEventType:
		p.handleNetwork(ctx, msg)
	case events.ContainerEventType:
		p.handleContainer(ctx, msg)
	}
}

func (p *Plugin) handleNetwork(ctx context.Context, msg events.Message) {
	switch msg.Action {
	case events.ActionCreate, events.ActionDestroy:
		p.wake()
	case events.ActionConnect:
		if _, ours := p.state.network(msg.Actor.ID); !ours {
			return
		}
		id, network := msg.Actor.Attributes["container"], msg.Actor.ID
		p.goOn(func(context.Context) {
			if err := p.bind(ctx, id, network); err != nil && ctx.Err() == nil {
				p.log.Warn("a container on a network of meshd's is not known by name yet", "container", fmt.Sprintf("%.12s", id), "err", err)
			}
			p.learn(ctx, id)
		})
	}
}

// bind finds out which endpoint is a container's.
func (p *Plugin) bind(ctx context.Context, id, networkID string) error {
	endpoints, err := p.engine.endpointsOn(ctx, networkID)
	if err != nil {
		return err
	}
	endpointID, ok := endpoints[id]
	if !ok {
		return nil // it has left already
	}
	e, ok := p.state.endpoint(endpointID)
	if !ok || e.Container == id {
		return nil
	}
	if e, err = p.state.editEndpoint(endpointID, func(e *endpoint) { e.Container = id }); err != nil {
		return err
	}
	p.poke(id)
	return p.dropEarlier(ctx, e)
}

// dropEarlier removes the endpoints that a container had when it ran before, in another namespace, and that nobody took off their
// networks: the Engine did so while the agent was away.
func (p *Plugin) dropEarlier(ctx context.Context, now endpoint) error {
	if now.Sandbox == "" {
		return nil
	}
	for _, e := range p.state.endpoints(func(e endpoint) bool {
		return e.Container == now.Container && e.Sandbox != "" && e.Sandbox != now.Sandbox && e.Created.Before(now.Created)
	}) {
		if err := p.drop(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// drop removes an endpoint that no container has any more.
func (p *Plugin) drop(ctx context.Context, e endpoint) error {
	p.log.Info("a container has gone, and nobody said so", "network", e.Network, "endpoint", fmt.Sprintf("%.12s", e.ID))
	if err := p.detach(ctx, e); err != nil {
		return err
	}
	return p.forget(ctx, e)
}

func (p *Plugin) handleContainer(ctx context.Context, msg events.Message) {
	id := msg.Actor.ID
	action, detail, _ := strings.Cut(string(msg.Action), ": ")
	changed := true
	p.mu.Lock()
	g, known := p.containers[id]
	if !known {
		g = &guest{ID: id, Name: msg.Actor.Attributes["name"], Labels: msg.Actor.Attributes} // which hold the labels
	}
	switch events.Action(action) {
	case events.ActionCreate:
		p.containers[id] = g
	case events.ActionStart:
		p.containers[id] = g
		g.Running, g.Paused, g.Stopping, g.Fitness = true, false, false, "starting"
	case events.ActionDie:
		g.Running, g.Stopping = false, false
	case events.ActionKill:
		g.Stopping = g.Stopping || g.stops(msg.Actor.Attributes["signal"])
	case events.ActionPause:
		g.Paused = true
	case events.ActionUnPause:
		g.Paused = false
	case events.ActionRename:
		g.Name = msg.Actor.Attributes["name"]
	case events.ActionHealthStatus:
		g.Fitness = detail
	case events.ActionDestroy:
		delete(p.containers, id)
	default:
		changed = false
	}
	if changed {
		g.changes++
	}
	p.mu.Unlock()
	switch events.Action(action) {
	case events.ActionCreate:
		p.goOn(func(context.Context) {
			p.learn(ctx, id)
			p.prepareFor(id)
		})
	case events.ActionStart, events.ActionRename, events.ActionUpdate:
		p.goOn(func(context.Context) { p.learn(ctx, id) })
	case events.ActionDie, events.ActionDestroy:
		p.goOn(func(context.Context) { p.checkEnded(ctx, id) })
	}
	if changed {
		p.poke(id)
	}
}

// prepareFor has addresses be there for a container that is to be started: the Engine asks for them with little patience, and
// the other hosts may have to agree to a block of them first.
func (p *Plugin) prepareFor(id string) {
	p.mu.Lock()
	var names []string
	if g := p.containers[id]; g != nil {
		names = sortedKeys(g.Networks)
	}
	p.mu.Unlock()
	for _, name := range names {
		if p.networkNamed(name) {
			p.prepare(name)
		}
	}
}

// prepare has addresses of a network be there soon.
func (p *Plugin) prepare(network string) {
	p.goOn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, plugTimeout)
		defer cancel()
		if err := p.mesh.Prepare(ctx, network); err != nil && ctx.Err() == nil {
			p.log.Debug("no addresses yet", "network", network, "err", err) // who needs one is told
		}
	})
}

// checkEnded has the containers compared if one that ended is still on a network a moment later: the Engine took it
// off while nobody heard.
func (p *Plugin) checkEnded(ctx context.Context, id string) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(endTime):
	}
	if len(p.state.endpoints(func(e endpoint) bool { return e.Container == id })) == 0 {
		return
	}
	p.recheckSoon()
}

// recheckSoon has all containers be compared.
func (p *Plugin) recheckSoon() {
	select {
	case p.recheck <- struct{}{}:
	default:
	}
}

// learn asks the Engine for all that it knows of a container.
func (p *Plugin) learn(ctx context.Context, id string) {
	for {
		p.mu.Lock()
		var before uint64
		if g := p.containers[id]; g != nil {
			before = g.changes
		}
		p.mu.Unlock()
		c, err := p.engine.inspect(ctx, id)
		if err != nil {
			return // it has gone, or the Engine has
		}
		fresh := describeGuest(c)
		p.mu.Lock()
		old := p.containers[id]
		current := old == nil || old.changes == before
		if current {
			if old != nil {
				fresh.changes, fresh.Stopping = old.changes, old.Stopping && fresh.Running
			}
			p.containers[id] = &fresh
		}
		p.mu.Unlock()
		if current {
			p.poke(id)
			return
		}
	}
}

// poke has a container described to the mesh, once more if that is under way.
func (p *Plugin) poke(id string) {
	p.mu.Lock()
	_, busy := p.working[id]
	p.working[id] = busy
	p.mu.Unlock()
	if busy {
		return
	}
	p.goOn(func(ctx context.Context) {
		for {
			p.describe(ctx, id)
			p.mu.Lock()
			again := p.working[id]
			if again {
				p.working[id] = false
			} else {
				delete(p.working, id)
			}
			p.mu.Unlock()
			if !again {
				return
			}
		}
	})
}

// describe tells the mesh what a container is.
func (p *Plugin) describe(ctx context.Context, id string) {
	p.mu.Lock()
	var g guest
	have := p.containers[id]
	if have != nil {
		g = *have
	}
	p.mu.Unlock()
	endpoints := p.state.endpoints(func(e endpoint) bool { return e.Container == id && e.Sandbox != "" })
	if have == nil || len(endpoints) == 0 {
		return
	}
	current := endpoints[len(endpoints)-1].Sandbox // earlier ones are about to be dropped
	endpoints = slices.DeleteFunc(endpoints, func(e endpoint) bool { return e.Sandbox != current })
	about := "container " + g.Name
	d, err := g.describe(endpoints)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, plugTimeout)
		defer cancel()
		err = p.mesh.Describe(ctx, d)
	}
	switch {
	case ctx.Err() != nil, code(err) == api.CodeNoMesh:
	case code(err) == api.CodeNotFound: // it is not attached yet, or no more
	default:
		p.report(about, err)
	}
}

// aboutNetwork and aboutContainer name what a problem is with.
func aboutNetwork(name string) string { return "network " + name }
func aboutContainer(e endpoint) string {
	return fmt.Sprintf("endpoint %.12s on network %s", e.ID, e.Network)
}
