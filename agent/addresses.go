package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/peers/syncer"
)

// allocator hands out addresses of the blocks that this node owns, and claims
// more of them. A claim is used only once every member believed alive has
// acknowledged it; so no two nodes that can speak to each other use one block.
type allocator struct {
	store  *store
	locals *locals
	alive  func() []catalog.NodeID // without this node
	// confirm returns once these nodes hold and have applied a version of our document, or
	// a *syncer.UnconfirmedError when ctx ends before.
	confirm func(ctx context.Context, version catalog.DocumentVersion, nodes []catalog.NodeID) error

	idle map[catalog.Claim]time.Duration // Review's own, from one call to the next

	mu   sync.Mutex               // guards busy
	busy map[string]chan struct{} // by network, capacity 1: filled while an address is chosen there
}

// claimTimeout is how long an endpoint waits for its host to get a block. A host that
// died stops being asked when membership has noticed, which is sooner.
const claimTimeout = 20 * time.Second

// Allocate chooses a free address on a network for a new endpoint. hold is called with it
// before another can be chosen, and makes it busy.
func (a *allocator) Allocate(ctx context.Context, network string, hold func(index uint32) error) error {
	full := func(view *catalog.View) error {
		if resting := view.Quarantined(network, now()); len(resting) > 0 {
			first := slices.Min(slices.Collect(maps.Values(resting)))
			return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(
				"network %s has no addresses left until %s, when those of hosts that left or were evicted come back: wait, or let it grow with: meshd network grow %s",
				network, first.Time().Format(time.TimeOnly), network)}
		}
		return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(
			"network %s has no addresses left: let it grow with: meshd network grow %s, or remove endpoints that are no longer needed", network, network)}
	}
	return a.allocate(ctx, network, claims.Plan, full, hold)
}

// AllocateAt is Allocate for one address in particular. It may be one that rests: who asks for
// it by name wants the same again.
func (a *allocator) AllocateAt(ctx context.Context, network string, index uint32, hold func(index uint32) error) error {
	plan := func(r claims.Request) claims.Next {
		r.Busy = func(i uint32) bool { return a.locals.AddressHeld(network, i) }
		return claims.PlanAt(r, index)
	}
	refused := func(view *catalog.View) error { return a.notToBeHad(view, network, index) }
	return a.allocate(ctx, network, plan, refused, hold)
}

// notToBeHad says why an address that was asked for cannot be given out here.
func (a *allocator) notToBeHad(view *catalog.View, network string, index uint32) error {
	n, _ := view.Network(network)
	address := n.Space.Address(index)
	block, ok := n.Space.BlockOf(index)
	first, end := n.Space.Range(block)
	message := fmt.Sprintf("address %s is in use on this host: choose another, or leave it out to have one chosen", address)
	switch {
	case !ok || index < first:
		layout := n.Space[0].Layout
		message = fmt.Sprintf("address %s is not for endpoints: network %s has %s-%s for them", address, network,
			n.Space.Address(2), n.Space.Address(layout.VIPFirst-1))
	case n.Blocks[block] != a.store.self && n.Blocks[block] != "":
		node := nodeName(view, n.Blocks[block])
		for _, e := range n.Endpoints {
			if e.IP4 == address {
				return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"address %s is in use by %s on host %s: choose another, or leave it out to have one chosen", address, e.Name, node)}
			}
		}
		message = fmt.Sprintf("address %s is host %s's to give, which has %s-%s: run the container there, or choose an address outside that range", address, node,
			n.Space.Address(first), n.Space.Address(end-1))
	}
	return &api.Error{Code: api.CodeConflict, Message: message}
}

// allocate follows a plan until there is an address to hold.
func (a *allocator) allocate(ctx context.Context, network string, plan func(claims.Request) claims.Next,
	full func(*catalog.View) error, hold func(index uint32) error) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	turn := a.turn(network)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(
			"no address: network %s is still waiting for other hosts to agree to an earlier one: see meshd status, or try again", network)}
	}
	for {
		if a.store.Own().Left {
			return &api.Error{Code: api.CodeUnavailable, Message: "this host is leaving its mesh: nothing can be attached here any more"}
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("getting an address on network %s: %w", network, err)
		}
		own := a.store.Own().Claims // asked before the view, which then shows them
		view := a.store.View()
		next := plan(claims.Request{
			View: view, Network: network, Self: a.store.self, Claims: own, Now: now(),
			Confirmed: a.locals.Confirmed,
			Busy:      func(i uint32) bool { return a.locals.AddressBusy(network, i, now()) },
		})
		switch next.Step {
		case claims.Hand:
			return hold(next.Index)
		case claims.Full:
			return full(view)
		default:
			if err := a.claim(ctx, next.Claim); err != nil {
				return err
			}
		}
	}
}

// turn is filled by who chooses an address on a network: one at a time, and it waits
// for acknowledgements. Other networks go on.
func (a *allocator) turn(network string) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy == nil {
		a.busy = make(map[string]chan struct{})
	}
	if a.busy[network] == nil {
		a.busy[network] = make(chan struct{}, 1)
	}
	return a.busy[network]
}

// claim has every member believed alive acknowledge a claim, new or not.
func (a *allocator) claim(ctx context.Context, c catalog.Claim) error {
	version, err := a.store.Update(func(d *catalog.Document) { d.Claims = claims.Add(d.Claims, c) })
	if err != nil {
		return err
	}
	if err := a.acknowledged(ctx, version); err != nil {
		return err
	}
	own := a.store.Own().Claims
	if !claims.Won(a.store.View(), a.store.self, own, c) {
		return a.drop(c) // somebody claimed it before us: choose another
	}
	return a.locals.Confirm(c)
}

// drop gives claims up: they may not be used any more.
func (a *allocator) drop(claims ...catalog.Claim) error {
	err := a.locals.Unconfirm(claims...)
	_, written := a.store.Update(func(d *catalog.Document) {
		d.Claims = slices.DeleteFunc(d.Claims, func(c catalog.Claim) bool { return slices.Contains(claims, c) })
	})
	return errors.Join(err, written)
}

// Review gives up the claims that others have won and those on networks that are no more, and
// gives back the blocks that nobody has been in for a while. At is the time since some moment, by
// a clock that does not jump. It is not called twice at a time.
func (a *allocator) Review(at time.Duration) error {
	found := a.review(at)
	a.idle = found.Idle
	err := a.locals.Unconfirm(found.Void...)
	if len(found.Lost) > 0 {
		err = errors.Join(err, a.drop(found.Lost...))
	}
	networks := map[string]bool{}
	for _, c := range found.Empty {
		networks[c.Network] = true
	}
	for network := range networks {
		err = errors.Join(err, a.giveBack(network, at))
	}
	return err
}

func (a *allocator) review(at time.Duration) claims.Findings {
	// What is asked first is in the view, also while Allocate claims more.
	confirmed, own := a.locals.ConfirmedClaims(), a.store.Own()
	if own.Left {
		return claims.Findings{}
	}
	return claims.Review{
		View: a.store.View(), Self: a.store.self, Claims: own.Claims, Confirmed: confirmed,
		Endpoints: a.locals.Holding(now()), Idle: a.idle, Now: at, Rest: claims.IdleRest,
	}.Find()
}

// giveBack gives back the empty blocks of a network, unless an address is being chosen
// there: then another time.
func (a *allocator) giveBack(network string, at time.Duration) error {
	turn := a.turn(network)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	default:
		return nil
	}
	var empty []catalog.Claim
	for _, c := range a.review(at).Empty { // one may have been taken from them until now
		if c.Network == network {
			empty = append(empty, c)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	return a.drop(empty...)
}

// acknowledged waits until every member believed alive holds the version. Who is believed
// alive is asked again and again: a host that died must not be waited for.
func (a *allocator) acknowledged(ctx context.Context, version catalog.DocumentVersion) error {
	for {
		round, cancel := context.WithTimeout(ctx, time.Second)
		err := a.confirm(round, version, a.alive())
		cancel()
		if err == nil {
			return nil
		}
		if errors.Is(ctx.Err(), context.Canceled) { // not for the others' sake
			return fmt.Errorf("waiting for other hosts to agree to an address: %w", ctx.Err())
		}
		if ctx.Err() != nil {
			return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf(
				"no address: these hosts did not agree to it in time: %s: check them with meshd members, or try again", a.unconfirmedBy(err))}
		}
	}
}

// unconfirmedBy names the hosts that have not acknowledged.
func (a *allocator) unconfirmedBy(err error) string {
	var missing *syncer.UnconfirmedError
	if !errors.As(err, &missing) {
		return err.Error()
	}
	view := a.store.View()
	var names []string
	for _, id := range missing.Nodes {
		names = append(names, nodeName(view, id))
	}
	return strings.Join(names, ", ")
}

func compareClaims(a, b catalog.Claim) int {
	return cmp.Or(strings.Compare(a.Network, b.Network), cmp.Compare(a.Block, b.Block), cmp.Compare(a.Stamp, b.Stamp))
}

// nodeName is a member's name, or its ID while its document has not come.
func nodeName(view *catalog.View, id catalog.NodeID) string {
	if m, ok := view.Member(id); ok && m.Name != "" {
		return m.Name
	}
	return string(id)
}

// newInstance names a run of the agent as no other.
func newInstance() string { return rand.Text() }

// newEndpointID is 12 random hex digits.
func newEndpointID() string {
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // never fails
	return fmt.Sprintf("%x", raw)
}
