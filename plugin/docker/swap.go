package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Docker makes a network that names no IPAM driver with its own, and that cannot be changed: such a network is made anew. Somebody
// may be about to start a container on it, in the same line of a script. So both steps overlap: the new network is made up to where the Engine
// asks us for it; there the old one is removed up to where the Engine tells us of that, from when on it finds the old one no
// more by its name; then the new one is let in. What remains is the Engine's own writing to disk.

// swapWait is how long one step waits for the other. The Engine waits as long.
const swapWait = time.Second

// swap is a network being made anew.
type swap struct {
	old    string // id
	subnet netip.Prefix
	remove func() error

	once    sync.Once
	hidden  chan struct{} // closed once the old one is found no more
	removed chan error    // capacity 1: what came of remove
}

// newcome is called when the Engine asks for the new network. It returns once it may be there.
func (s *swap) newcome() {
	s.once.Do(func() { go func() { s.removed <- s.remove() }() })
	timer := time.NewTimer(swapWait)
	defer timer.Stop()
	select {
	case <-s.hidden:
	case err := <-s.removed: // without asking us
		s.removed <- err
	case <-timer.C:
	}
}

// swapFor returns the swap that makes a network with these subnets, if one is under way.
func (p *Plugin) swapFor(data []ipamData) *swap {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swapping == nil || !slices.ContainsFunc(data, func(d ipamData) bool {
		return d.AddressSpace == Driver && d.Pool == p.swapping.subnet.String()
	}) {
		return nil
	}
	return p.swapping
}

// hide says that the Engine finds a network no more.
func (p *Plugin) hide(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.swapping; s != nil && s.old == id {
		select {
		case <-s.hidden:
		default:
			close(s.hidden)
		}
	}
}

// replaceInEngine makes a network of the Engine's anew. Docker 20.10 lets the new one be made beside the old one; later
// ones refuse a second of the name, so the old one goes first.
func (p *Plugin) replaceInEngine(ctx context.Context, n engineNetwork) error {
	if len(n.Subnets) == 0 {
		return fmt.Errorf("making network %s in Docker: the mesh has no subnet for it", n.Name)
	}
	s := &swap{
		old: n.ID, subnet: n.Subnets[0], hidden: make(chan struct{}), removed: make(chan error, 1),
		remove: func() error { return p.removeFromEngine(ctx, n) },
	}
	p.setSwap(s)
	id, err := p.engine.createNetwork(ctx, n)
	p.setSwap(nil)
	s.once.Do(func() { s.removed <- s.remove() }) // if the Engine did not come so far
	if err := <-s.removed; err != nil {
		return err
	}
	if err != nil {
		return p.createInEngine(ctx, n)
	}
	return p.state.putNetwork(id, known{Name: n.Name, Ready: true})
}

func (p *Plugin) setSwap(s *swap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swapping = s
}
