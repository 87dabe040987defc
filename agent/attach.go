package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/health"
	"github.com/meshd/meshd/internal/netns"
)

// Attach puts a namespace on networks. Either all of it succeeds, or nothing is left.
func (s *session) Attach(ctx context.Context, req api.AttachRequest) (api.Attached, error) {
	if req.Key != "" {
		return s.attachKeyed(ctx, req)
	}
	if req.Interface != "" || req.Owner != "" || req.IP != "" || req.MAC != "" || req.Resolver || req.Starting {
		return api.Attached{}, invalid("an interface's name, an owner, an address and the like go with a key: give one")
	}
	return s.attachNew(ctx, req)
}

func (s *session) attachNew(ctx context.Context, req api.AttachRequest) (api.Attached, error) {
	local, err := s.registerEndpoint(req)
	if err != nil {
		return api.Attached{}, err
	}
	err = s.plugIn(ctx, local)
	if err == nil {
		err = ctx.Err() // nobody would hear of it
	}
	if err != nil {
		return api.Attached{}, errors.Join(err, s.unplug(context.WithoutCancel(ctx), local.ID))
	}
	local, _ = s.locals.Get(local.ID)
	s.watchProcess(local)
	s.watchHealth(local)
	return s.describeAttached(local), nil
}

// plugIn gives an endpoint addresses, makes its interfaces, and tells the mesh.
func (s *session) plugIn(ctx context.Context, local Local) error {
	for i := range local.Attachments {
		a := &local.Attachments[i]
		err := s.place(ctx, local, a.Network, func(index uint32) error {
			a.Index = index
			return s.locals.Put(local)
		})
		if err != nil {
			return err
		}
	}
	if err := s.chooseVIPs(&local); err != nil {
		return err
	}
	// Its name server is on loopback, which is down where `ip netns add` made the namespace.
	if err := netns.Do(local.Namespace, netns.LoopbackUp); err != nil {
		return err
	}
	if err := s.publishEndpoints(); err != nil {
		return err
	}
	failed := s.loop.Sync(ctx)
	if err := s.verifyPlugged(local, failed); err != nil {
		return err
	}
	if local.Check != (health.Check{}) || local.Told {
		return nil // its check decides, or whoever attached it
	}
	if err := s.setHealth(local.ID, catalog.Healthy, ""); err != nil || local.Infrastructure {
		return err
	}
	_ = s.loop.Sync(ctx) // its own host has it in service by now; what else failed is in status
	return nil
}

// setHealth tells the mesh of an endpoint's fitness. A new one is fit for service only
// when its interfaces are there, or connections would be sent to where nothing is yet.
func (s *session) setHealth(id string, health catalog.Health, reason string) error {
	if err := s.locals.SetHealth(id, health, reason); err != nil {
		return err
	}
	return s.publishEndpoints()
}

// chooseVIPs gives the endpoint the virtual IPs of its service, or chooses new ones.
func (s *session) chooseVIPs(local *Local) error {
	if local.Service == "" {
		return nil
	}
	view := s.store.View()
	for i := range local.Attachments {
		a := &local.Attachments[i]
		if a.Network == catalog.IngressNetwork {
			continue
		}
		index, stamp, existing := view.ChooseVIP(a.Network, local.Service)
		if index == 0 {
			return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("network %s has no virtual IPs left: let it grow with: meshd network grow %s", a.Network, a.Network)}
		}
		if !existing {
			stamp = now()
		}
		a.VIP, a.VIPStamp = index, stamp
	}
	return s.locals.Put(*local)
}

// publishEndpoints writes this host's endpoints into its document.
func (s *session) publishEndpoints() error {
	_, err := s.publish()
	return err
}

func (s *session) publish() (catalog.DocumentVersion, error) {
	return s.store.Update(func(d *catalog.Document) {
		d.Endpoints = s.pluggedEndpoints()
	})
}

func (s *session) pluggedEndpoints() []catalog.Endpoint {
	var out []catalog.Endpoint
	for _, l := range s.locals.All() {
		if plugged(l) {
			out = append(out, l.told(now()))
		}
	}
	return out
}

// plugged says whether an endpoint has all its addresses.
func plugged(l Local) bool {
	for _, a := range l.Attachments {
		if a.Index == 0 {
			return false
		}
	}
	return true
}

// verifyPlugged looks into the namespace: what an apply pass failed at may be somebody
// else's, and what it succeeded at is only what is really there.
func (s *session) verifyPlugged(local Local, failed error) error {
	var want []string
	for i := range local.Attachments {
		want = append(want, local.interfaceName(i))
	}
	if local.GatewayIndex != 0 {
		want = append(want, gatewayInterface)
	}
	have, err := interfacesIn(local.Namespace)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(want, func(name string) bool { return slices.Contains(have, name) })
	if len(missing) > 0 {
		if failed == nil {
			failed = errors.New("the address went to another host")
		}
		return fmt.Errorf("endpoint %s lacks its interface %s: %w", local.ID, strings.Join(missing, ", "), failed)
	}
	return nil
}

func interfacesIn(namespace string) ([]string, error) {
	h, err := netns.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Close() }()
	nl, err := h.Netlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces in %s: %w", namespace, err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}
