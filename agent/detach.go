package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/netns"
)

// Detach takes an endpoint off its networks.
func (s *session) Detach(ctx context.Context, name string) error {
	id, err := s.resolveLocal(name)
	if err != nil {
		return err
	}
	return s.unplug(ctx, id)
}

// resolveLocal finds an endpoint of this host by ID, an unambiguous start of one, or name.
func (s *session) resolveLocal(name string) (string, error) {
	var found []string
	for _, l := range s.locals.All() {
		if l.Infrastructure {
			continue
		}
		if l.ID == name {
			return l.ID, nil
		}
		if l.Name == name || name != "" && strings.HasPrefix(l.ID, name) {
			found = append(found, l.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", s.notLocal(name)
	default:
		return "", invalid("%q could be any of %s: give more of the id", name, strings.Join(found, ", "))
	}
}

// notLocal says where an endpoint is that is not here.
func (s *session) notLocal(name string) error {
	found := elsewhere(s.store.View(), name)
	if len(found) == 0 {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no endpoint %q on this host: see meshd endpoint ls", name)}
	}
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf(
		"endpoint %s is on host %s: run the command there", name, nodeName(s.store.View(), found[0].Node))}
}

// resolveEndpoint finds an endpoint, and its host, by ID, an unambiguous start of one, or name. One of this host goes before
// others of its name.
func (s *session) resolveEndpoint(name string) (catalog.NodeID, string, error) {
	id, err := s.resolveLocal(name)
	var unknown *api.Error
	if !errors.As(err, &unknown) || unknown.Code != api.CodeNotFound {
		return s.store.self, id, err
	}
	view := s.store.View()
	switch found := elsewhere(view, name); len(found) {
	case 1:
		return found[0].Node, found[0].ID, nil
	case 0:
		return "", "", &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no endpoint %q: see meshd endpoint ls", name)}
	default:
		var all []string
		for _, e := range found {
			all = append(all, fmt.Sprintf("%s on host %s", e.ID, nodeName(view, e.Node)))
		}
		return "", "", invalid("%q could be any of %s: give the id", name, strings.Join(all, ", "))
	}
}

// elsewhere is the endpoints that have an ID, or, if there is none, a start of it or a name.
func elsewhere(view *catalog.View, name string) []catalog.NetworkEndpoint {
	var found []catalog.NetworkEndpoint
	for _, n := range view.Networks {
		if n.Name == catalog.IngressNetwork {
			continue
		}
		for _, e := range n.Endpoints {
			if e.ID == name {
				return []catalog.NetworkEndpoint{e}
			}
			known := slices.ContainsFunc(found, func(f catalog.NetworkEndpoint) bool { return f.ID == e.ID })
			if !known && (e.Name == name || strings.HasPrefix(e.ID, name)) {
				found = append(found, e)
			}
		}
	}
	return found
}

// unplug removes an endpoint: first from the mesh, so that nobody is sent there any
// more, then from this host.
func (s *session) unplug(ctx context.Context, id string) error {
	local, ok := s.locals.Get(id)
	if !ok {
		return netns.Delete(filepath.Join(s.cfg.RuntimeDir, "endpoints", id))
	}
	removed := s.locals.Remove(id, now())
	published := s.publishEndpoints()
	_ = s.loop.Sync(ctx) // what others' parts failed at is reported in status
	return errors.Join(removed, published, netns.Delete(local.Namespace))
}

// watchProcess has the endpoint go when its process ends.
func (s *session) watchProcess(l Local) {
	if l.Process == (Process{}) {
		return
	}
	s.tasks.Go(func() error {
		for {
			err := waitProcess(s.ctx, l.Process)
			if s.ctx.Err() != nil {
				return nil // the next agent looks again
			}
			if err == nil {
				break
			}
			s.log.Warn("cannot see when an endpoint's process ends, trying again", "endpoint", l.ID, "err", err)
			select {
			case <-s.ctx.Done():
				return nil
			case <-time.After(5 * time.Second):
			}
		}
		if _, ok := s.locals.Get(l.ID); !ok {
			return nil
		}
		if err := s.unplug(s.ctx, l.ID); err != nil {
			s.log.Warn("removing an endpoint whose process ended", "endpoint", l.ID, "err", err)
		}
		return nil
	})
}

// sweep removes namespaces that a former agent bound and no endpoint has.
func (s *session) sweep() error {
	paths, err := filepath.Glob(filepath.Join(s.cfg.RuntimeDir, "endpoints", "*"))
	if err != nil {
		return fmt.Errorf("looking for left-over namespaces: %w", err)
	}
	all := s.locals.All()
	var errs []error
	for _, path := range paths {
		if !slices.ContainsFunc(all, func(l Local) bool { return l.Namespace == path }) {
			errs = append(errs, netns.Delete(path))
		}
	}
	return errors.Join(errs...)
}
