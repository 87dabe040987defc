package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// An endpoint with a key grows and shrinks by a network at a time, as container engines
// attach a container to its networks.

// attachKeyed makes the endpoint of a key, or puts it on more networks.
func (s *session) attachKeyed(ctx context.Context, req api.AttachRequest) (api.Attached, error) {
	if req.NetNS == "" {
		return api.Attached{}, invalid("no namespace: a key goes with the path of a namespace, not with a process")
	}
	if (req.Interface != "" || req.IP != "" || req.MAC != "") && len(req.Networks) != 1 {
		return api.Attached{}, invalid("interface, IP or MAC for %d networks: name one network with it", len(req.Networks))
	}
	defer s.keys.lock(req.Key)()
	have, ok := s.locals.ByKey(req.Key)
	if !ok {
		return s.attachNew(ctx, req)
	}
	same, err := netns.Same(req.NetNS, have.Namespace)
	if err != nil && !errors.Is(err, netns.ErrNotExist) {
		return api.Attached{}, err
	}
	if !same { // what had the key is no more, and nobody told us
		if err := s.unplug(ctx, have.ID); err != nil {
			return api.Attached{}, err
		}
		return s.attachNew(ctx, req)
	}
	return s.extend(ctx, have, req)
}

// extend puts an endpoint on those networks of a request that it is not on. Either all of it
// succeeds, or the endpoint stays as it was.
func (s *session) extend(ctx context.Context, have Local, req api.AttachRequest) (api.Attached, error) {
	before := have.clone()
	local, err := s.registerNetworks(have, req)
	if err != nil {
		return api.Attached{}, err
	}
	err = s.plugInMore(ctx, local, len(before.Attachments))
	if err == nil {
		err = ctx.Err() // nobody would hear of it
	}
	if err != nil {
		return api.Attached{}, errors.Join(err, s.shrink(context.WithoutCancel(ctx), before))
	}
	local, ok := s.locals.Get(local.ID)
	if !ok {
		return api.Attached{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("endpoint %s was detached meanwhile: attach it again", have.ID)}
	}
	return s.describeAttached(local), nil
}

// registerNetworks checks what a request adds to an endpoint, and keeps all but the
// attachments, which come when they have addresses: until then it serves as it is.
func (s *session) registerNetworks(local Local, req api.AttachRequest) (Local, error) {
	s.registering.Lock()
	defer s.registering.Unlock()
	var missing []string
	for _, name := range req.Networks {
		if !local.on(name) {
			missing = append(missing, name)
			continue
		}
		if have := local.Interfaces[name]; req.Interface != "" && req.Interface != have {
			return Local{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
				"endpoint %s is on network %s already, as %s: a second interface %s there is not possible", local.ID, name, have, req.Interface)}
		}
	}
	if req.Service != "" && local.Service == "" {
		if err := catalog.CheckName("service", req.Service); err != nil {
			return Local{}, invalid("%v", err)
		}
		local.Service = req.Service
	}
	if req.Service != "" && req.Service != local.Service {
		return Local{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
			"endpoint %s belongs to service %s: it cannot belong to %s as well, name one service for all its networks", local.ID, local.Service, req.Service)}
	}
	if len(req.Publish) > 0 && local.Service == "" {
		local.Service = local.Name
	}
	req.Networks = missing
	if len(missing) > 0 {
		if err := s.chooseNetworks(req, &local); err != nil {
			return Local{}, err
		}
		if err := s.chooseInterfaces(req, &local, local.Namespace); err != nil {
			return Local{}, err
		}
	}
	if err := s.choosePublish(req, &local); err != nil {
		return Local{}, err
	}
	return local, s.locals.Describe(local)
}

// chooseInterfaces names the interfaces of an endpoint with a key on a request's networks.
func (s *session) chooseInterfaces(req api.AttachRequest, local *Local, namespace string) error {
	if req.Key == "" {
		return nil
	}
	local.Key, local.Source, local.Resolver = req.Key, req.NetNS, req.Resolver
	taken, err := interfacesIn(namespace)
	if err != nil {
		return err
	}
	for _, name := range local.Interfaces {
		taken = append(taken, name)
	}
	for _, network := range req.Networks {
		name := req.Interface
		if name == "" {
			for i := 0; name == "" || slices.Contains(taken, name); i++ {
				name = fmt.Sprintf("eth%d", i)
			}
		}
		if err := link.ValidName(name); err != nil {
			return invalid("%v", err)
		}
		if name == gatewayInterface || name == ingressInterface {
			return invalid("interface %s: this name is meshd's own, choose another", name)
		}
		if slices.Contains(taken, name) {
			return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("the namespace has an interface %s already: choose another name", name)}
		}
		taken = append(taken, name)
		local.describeAttachment(network, name, req.Owner)
	}
	return nil
}

// plugInMore gives an endpoint addresses and interfaces for its attachments from the
// first new one on, and tells the mesh.
func (s *session) plugInMore(ctx context.Context, local Local, first int) error {
	for _, a := range local.Attachments[first:] {
		err := s.place(ctx, local, a.Network, func(index uint32) error {
			a.Index = index
			return s.locals.AddAttachment(local.ID, a, local.Interfaces[a.Network], local.Owners[a.Network])
		})
		if err != nil {
			return err
		}
	}
	local, ok := s.locals.Get(local.ID)
	if !ok {
		return nil // detached meanwhile
	}
	if err := s.chooseVIPs(&local); err != nil {
		return err
	}
	if err := s.publishEndpoints(); err != nil {
		return err
	}
	return s.verifyPlugged(local, s.loop.Sync(ctx))
}

// shrink takes an endpoint back to what it was before.
func (s *session) shrink(ctx context.Context, before Local) error {
	current, ok := s.locals.Get(before.ID)
	if !ok {
		return nil
	}
	for _, a := range current.Attachments {
		if !before.on(a.Network) {
			if err := s.locals.RemoveAttachment(before.ID, a.Network, now()); err != nil {
				return err
			}
		}
	}
	if err := s.locals.Describe(before); err != nil {
		return err
	}
	published := s.publishEndpoints()
	_ = s.loop.Sync(ctx) // what others' parts failed at is reported in status
	return published
}

// DetachKey takes an endpoint off a network, or off all. One without networks is removed.
func (s *session) DetachKey(ctx context.Context, req api.DetachRequest) error {
	if req.Key == "" {
		return invalid("no key: give the one that the endpoint was attached with")
	}
	defer s.keys.lock(req.Key)()
	local, ok := s.locals.ByKey(req.Key)
	if !ok || req.Network != "" && !local.on(req.Network) {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf(
			"no endpoint of this host has the key %s and network %q: see meshd endpoint ls", req.Key, req.Network)}
	}
	after := local.clone()
	after.Attachments = slices.DeleteFunc(after.Attachments, func(a catalog.Attachment) bool { return a.Network == req.Network })
	if req.Network == "" || !after.onAny() {
		return s.unplug(ctx, local.ID)
	}
	if s.allInternal(after) {
		after.GatewayIndex = 0
	}
	return s.shrink(ctx, after)
}

// onAny says whether the endpoint is on a network that users know.
func (l Local) onAny() bool {
	return slices.ContainsFunc(l.Attachments, func(a catalog.Attachment) bool { return a.Network != catalog.IngressNetwork })
}

func (s *session) allInternal(l Local) bool {
	view := s.store.View()
	return !slices.ContainsFunc(l.Attachments, func(a catalog.Attachment) bool {
		n, _ := view.Network(a.Network)
		return a.Network != catalog.IngressNetwork && !n.Internal
	})
}

// keyLocks are locks by name. The zero value is ready.
type keyLocks struct {
	mu   sync.Mutex // guards all below
	held map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int // that hold it or wait for it
}

// lock waits for the lock of a name and returns what gives it back.
func (k *keyLocks) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = make(map[string]*keyLock)
	}
	l := k.held[name]
	if l == nil {
		l = new(keyLock)
		k.held[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, name)
		}
	}
}
