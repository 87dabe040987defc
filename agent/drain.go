package agent

import (
	"context"
	"errors"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/sockets"
)

const (
	// drainHeard is how long draining waits until every other host has acted on it.
	drainHeard = 3 * time.Second
	// drainLook is how often it is counted what is still being served.
	drainLook = 100 * time.Millisecond
)

// drained is the reason of an endpoint whose time to finish is over.
const drained = "drained: its time to finish what it had is over"

// Drain takes an endpoint, or all of this host, out of rotation, on every host, or puts them back. Where the endpoint is, its
// host's agent does it.
func (s *session) Drain(ctx context.Context, req api.DrainRequest) error {
	if req.Endpoint == "" {
		return s.drainHere(ctx, req)
	}
	var err error
	var node catalog.NodeID
	if node, req.Endpoint, err = s.resolveEndpoint(req.Endpoint); err != nil {
		return err
	}
	if node == s.store.self {
		return s.drainHere(ctx, req)
	}
	return s.colleague(node).Drain(ctx, req)
}

func (s *session) drainHere(ctx context.Context, req api.DrainRequest) error {
	if req.Limit < 0 {
		return invalid("a limit is not less than zero")
	}
	ids, err := s.drainable(req.Endpoint)
	if err != nil {
		return err
	}
	until := catalog.Millis(0)
	if req.Limit > 0 && !req.Undo {
		until = now() + catalog.Millis(req.Limit.Milliseconds())
	}
	for _, id := range ids {
		if err := s.locals.SetDraining(id, !req.Undo, until); err != nil {
			return err
		}
	}
	if err := s.spreadDraining(ctx); err != nil {
		return err
	}
	for _, id := range ids {
		if l, ok := s.locals.Get(id); ok {
			s.watchDraining(l)
		}
	}
	if req.Wait && !req.Undo {
		return s.awaitIdle(ctx, ids, req.Limit)
	}
	return nil
}

// drainable is the ids of one endpoint of this host, or for no name of all that belong to a service.
func (s *session) drainable(name string) ([]string, error) {
	if name != "" {
		id, err := s.resolveLocal(name)
		return []string{id}, err
	}
	var ids []string
	for _, l := range s.locals.All() {
		if !l.Infrastructure && l.Service != "" {
			ids = append(ids, l.ID)
		}
	}
	return ids, nil
}

// spreadDraining tells the others, and returns once all that are alive have acted on it, or have had the time
// to: from then on nothing new comes.
func (s *session) spreadDraining(ctx context.Context) error {
	version, err := s.publish()
	if err != nil {
		return err
	}
	_ = s.loop.Sync(ctx) // this host acts on it by now; what else failed is in status
	heard, cancel := context.WithTimeout(ctx, drainHeard)
	defer cancel()
	if err := s.syncer.Confirm(heard, version, s.aliveOthers()); err != nil {
		s.log.Warn("some hosts may still send new connections to what is being drained", "err", err)
	}
	return ctx.Err()
}

// watchDraining has an endpoint's time to finish end: what it still has is reset everywhere.
func (s *session) watchDraining(l Local) {
	if !l.Draining || l.DrainUntil == 0 {
		return
	}
	s.tasks.Go(func() error {
		select {
		case <-s.ctx.Done():
			return nil
		case <-time.After(time.Duration(l.DrainUntil-now()) * time.Millisecond):
		}
		if err := s.publishEndpoints(); err != nil {
			s.log.Warn("ending what an endpoint was given time for", "endpoint", l.ID, "err", err)
		}
		return nil
	})
}

// told is an endpoint as the mesh is told of it.
func (l Local) told(at catalog.Millis) catalog.Endpoint {
	e := l.Endpoint
	if e.Draining && l.DrainUntil != 0 && at >= l.DrainUntil {
		e.Health, e.Reason = catalog.Unhealthy, drained
	}
	return e
}

// awaitIdle waits until nobody from elsewhere is connected to the endpoints any more, or until the limit; 0: as long
// as it takes.
func (s *session) awaitIdle(ctx context.Context, ids []string, limit time.Duration) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	ticker := time.NewTicker(drainLook)
	defer ticker.Stop()
	listening := make(map[string]map[uint16]bool)
	for {
		busy := 0
		for _, id := range ids {
			l, ok := s.locals.Get(id)
			if !ok {
				continue
			}
			n, ports, err := sockets.Served(l.Namespace, listening[id])
			if err != nil {
				s.log.Debug("an endpoint counts as idle", "endpoint", id, "err", err)
				continue
			}
			listening[id] = ports
			busy += n
		}
		if busy == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil // that is what the limit is for
			}
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
