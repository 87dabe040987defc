package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/internal/journal"
)

// Options is what an Applier needs besides its Config.
type Options struct {
	Logger  *slog.Logger     // nil: slog.Default()
	Changes *journal.Journal // takes down what Apply changes; nil: nobody reads it
	// Occupied, if set, is called within Apply when what Occupied returns has changed. It must not block.
	Occupied func()
}

// An Applier makes the kernel equal to a Config. It works from the namespace that the
// process is in, which is the host's. Its methods must not be called at the same time.
//
// The kernel's state outlives it: a new Applier adopts what it finds right and changes only the rest.
// What a namespace that is in no Config any more holds is removed by the Applier that
// last had it in its Config; so before the zero Config a new Applier must be
// given the last one.
type Applier struct {
	log     *slog.Logger
	changes *journal.Journal
	clients map[string]*client   // by endpoint id
	returns map[string]*returner // by endpoint id
	publish publisher
}

// New returns an Applier that has done nothing yet.
func New(options Options) *Applier {
	log := options.Logger
	if log == nil {
		log = slog.Default()
	}
	occupied := options.Occupied
	if occupied == nil {
		occupied = func() {}
	}
	return &Applier{
		log: log, changes: options.Changes,
		clients: map[string]*client{}, returns: map[string]*returner{},
		publish: publisher{log: log, changes: options.Changes, table: translated{id: translateTable},
			keeper: &portKeeper{log: log, changed: occupied, own: map[PortID]int{}}},
	}
}

// Occupied is the ports of the last Config that a process of the host has, sorted. They are not published here until
// it has ended. It may be called at any time.
func (a *Applier) Occupied() []PortID { return a.publish.keeper.occupied() }

// PortInUse says whether a process of the host has a port, on any of its addresses: Apply would not publish it here. It
// tries to take the port for an instant. It may be called at any time.
func (a *Applier) PortInUse(protocol string, port uint16) (bool, error) {
	return a.publish.keeper.inUse(PortID{protocol, port})
}

// Apply makes everything as config says. It does as much as it can: an error in one
// namespace does not keep the others from being done, and all errors come back joined. A namespace
// that has vanished is netns.ErrNotExist among them. It may be repeated at any time; if
// nothing differs, it changes nothing.
func (a *Applier) Apply(ctx context.Context, config Config) error {
	var errs []error
	wanted := map[string]bool{}
	for _, want := range config.Clients {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		wanted[want.Endpoint] = true
		if err := a.applyClient(want); err != nil {
			errs = append(errs, describe(want.Endpoint, err))
		}
	}
	for id, c := range a.clients {
		if wanted[id] {
			continue
		}
		if err := c.remove(); err != nil {
			errs = append(errs, describe(id, fmt.Errorf("removing: %w", err)))
		}
		delete(a.clients, id)
	}
	errs = append(errs, a.applyReplicas(ctx, config.Replicas))
	if err := ctx.Err(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := a.publish.apply(config.Publish); err != nil {
		errs = append(errs, fmt.Errorf("publishing ports: %w", err))
	}
	return errors.Join(append(errs, a.forgetStale())...)
}

// forgetStale ends what goes to replicas that have gone. It comes last, when whatever begins anew goes to a living one
// everywhere, for it takes longer than all the rest; and several namespaces are looked through at the same time.
func (a *Applier) forgetStale() error {
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	var mu sync.Mutex // guards errs
	var errs []error
	do := func(forget func() error, why func(error) error) {
		work.Go(func() error {
			if err := forget(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, why(err))
			}
			return nil
		})
	}
	do(a.publish.forgetStale, func(err error) error { return fmt.Errorf("publishing ports: %w", err) })
	for id, c := range a.clients {
		if c.stale != nil {
			do(c.forgetStale, func(err error) error { return describe(id, err) })
		}
	}
	_ = work.Wait() // the errors are in errs
	return errors.Join(errs...)
}

func (a *Applier) applyClient(want Client) error {
	c := a.clients[want.Endpoint]
	if c == nil {
		c = &client{translated: translated{id: translateTable}}
		a.clients[want.Endpoint] = c
	}
	ops, err := c.apply(want)
	logOps(a.log.With("endpoint", want.Endpoint), a.changes, ops)
	return err
}

// applyReplicas makes replicas answer through the hosts they were asked through.
func (a *Applier) applyReplicas(ctx context.Context, replicas []Replica) error {
	var errs []error
	wanted := map[string]bool{}
	for _, want := range replicas {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		wanted[want.Endpoint] = true
		r := a.returns[want.Endpoint]
		if r == nil {
			r = newReturner(a.changes)
			a.returns[want.Endpoint] = r
		}
		ops, err := r.apply(want)
		logOps(a.log.With("endpoint", want.Endpoint), a.changes, ops)
		if err != nil {
			errs = append(errs, fmt.Errorf("leading the answers of endpoint %s back: %w", want.Endpoint, err))
		}
	}
	for id, r := range a.returns {
		if wanted[id] {
			continue
		}
		if err := r.remove(); err != nil {
			errs = append(errs, fmt.Errorf("leading the answers of endpoint %s back: removing: %w", id, err))
		}
		delete(a.returns, id)
	}
	return errors.Join(errs...)
}

// Close lets go of the namespaces and of the host's ports, and leaves everything in the kernel as it is.
func (a *Applier) Close() {
	for _, c := range a.clients {
		c.forgetHandle()
	}
	a.clients = map[string]*client{}
	for _, r := range a.returns {
		r.forgetHandles()
	}
	a.returns = map[string]*returner{}
	a.publish.table.forgetHandle()
	a.publish.keeper.keep(nil)
}

// logOps says what was changed: all of it at the debug level, but no endless lists.
func logOps(log *slog.Logger, changes *journal.Journal, ops []op) {
	for _, o := range ops {
		changes.Note("nft %s", o)
	}
	const most = 20
	for _, o := range slices.Clip(ops[:min(len(ops), most)]) {
		log.Debug("nft", "change", o.String())
	}
	if len(ops) > most {
		log.Debug("nft", "more_changes", len(ops)-most)
	}
}
