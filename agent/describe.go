package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/plugin/docker"
)

// Describe makes an endpoint with a key be what its engine says of it. What it publishes may be refused:
// then all else is as described, and the error says why.
func (s *session) Describe(ctx context.Context, d docker.Description) error {
	defer s.keys.lock(d.Key)()
	have, ok := s.locals.ByKey(d.Key)
	if !ok {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no endpoint of this host has the key %s", d.Key)}
	}
	want, err := s.identify(have, d)
	if err != nil {
		return err
	}
	refused := s.describePublish(d, &want)
	if reflect.DeepEqual(have, want) {
		return refused
	}
	return errors.Join(refused, s.locals.Identify(want), s.publishEndpoints(), s.keepPublished(ctx))
}

// identify is an endpoint with the names and the fitness that its engine gives it.
func (s *session) identify(have Local, d docker.Description) (Local, error) {
	want := have.clone()
	want.Name, want.Reason, want.Draining = d.Name, shorten(d.Reason), d.Draining
	want.Health = catalog.Health(d.Health)
	if d.Service != "" {
		if err := catalog.CheckName("service", d.Service); err != nil {
			return Local{}, invalid("%v", err)
		}
	}
	moved := want.Service != d.Service
	want.Service = d.Service
	view := s.store.View()
	for i := range want.Attachments {
		a := &want.Attachments[i]
		if a.Network == catalog.IngressNetwork {
			continue
		}
		a.Aliases = joinAliases(d.Aliases[a.Network], want.Service)
		if !moved {
			continue
		}
		a.VIP, a.VIPStamp, a.VIPMoved = 0, 0, 0
		if want.Service == "" {
			continue
		}
		index, stamp, existing := view.ChooseVIP(a.Network, want.Service)
		if index == 0 {
			return Local{}, &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("network %s has no virtual IPs left: make one with a larger --subnet", a.Network)}
		}
		if !existing {
			stamp = now()
		}
		a.VIP, a.VIPStamp = index, stamp
	}
	return want, nil
}

// joinAliases is the names that an endpoint can have besides its service's, sorted. Others are left
// out: engines take names that DNS has not.
func joinAliases(names []string, service string) string {
	var out []string
	for _, name := range names {
		name = strings.ToLower(name)
		if name != service && catalog.CheckAlias(name) == nil && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return strings.Join(out[:min(len(out), 64)], " ")
}

// describePublish replaces what an endpoint publishes. A port that is another's is left out.
func (s *session) describePublish(d docker.Description, want *Local) error {
	s.registering.Lock()
	defer s.registering.Unlock()
	before := append(slices.Clone(want.Publish), want.HostPublish...)
	want.Publish, want.HostPublish = nil, nil
	view := s.store.View()
	own := func(service, network string) bool { return service == want.Service && want.on(network) }
	var errs []error
	for _, p := range d.Publish {
		published := catalog.Publish{Published: p.Published, Target: p.Target, Protocol: p.Protocol, Stamp: now()}
		at := slices.IndexFunc(before, func(b catalog.Publish) bool {
			return b.Published == p.Published && b.Target == p.Target && b.Protocol == p.Protocol
		})
		if at >= 0 {
			published.Stamp = before[at].Stamp
		} else if err := s.portFree(view, p, own); err != nil {
			errs = append(errs, err)
			continue
		}
		if d.HostOnly {
			want.HostPublish = append(want.HostPublish, published)
		} else {
			want.Publish = append(want.Publish, published)
		}
	}
	return errors.Join(errs...)
}

// CheckPublish says whether a service could publish ports on a network now, without doing it.
func (s *session) CheckPublish(network, service string, ports []api.Publish) error {
	s.registering.Lock()
	defer s.registering.Unlock()
	view := s.store.View()
	own := func(s, n string) bool { return s == service && n == network }
	for _, p := range ports {
		if err := s.portFree(view, p, own); err != nil {
			return err
		}
	}
	return nil
}
