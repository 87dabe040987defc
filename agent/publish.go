package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/portuse"
)

func knownProtocol(name string) bool { return name == "tcp" || name == "udp" }

// choosePublish adds the ports that a request publishes, and the network that they need.
func (s *session) choosePublish(req api.AttachRequest, local *Local) error {
	view := s.store.View()
	own := func(service, network string) bool { return service == local.Service && local.on(network) }
	for _, p := range req.Publish {
		if local.publishes(p) {
			continue
		}
		if err := s.portFree(view, p, own); err != nil {
			return err
		}
		local.Publish = append(local.Publish, catalog.Publish{
			Published: p.Published, Target: p.Target, Protocol: p.Protocol, Stamp: now(),
		})
	}
	if len(local.Publish) > api.MaxPorts {
		return invalid("endpoint %s would publish %d ports: one has at most %d", local.Name, len(local.Publish), api.MaxPorts)
	}
	if publishesAny(view, *local) && !local.on(catalog.IngressNetwork) {
		local.Attachments = append(local.Attachments, catalog.Attachment{Network: catalog.IngressNetwork, MAC: link.RandomMAC()})
	}
	return nil
}

// portFree refuses a port that another service publishes, or that a process of this host
// listens on: published ports are not to take anything away. Own says what the service itself is.
func (s *session) portFree(view *catalog.View, p api.Publish, own func(service, network string) bool) error {
	if p.Published == 0 || p.Target == 0 || !knownProtocol(p.Protocol) {
		return invalid("port %d:%d/%s: ports are 1 to 65535, the protocol tcp or udp", p.Published, p.Target, p.Protocol)
	}
	for _, svc := range view.Services {
		for _, have := range svc.Ports {
			if have.Published != p.Published || have.Protocol != p.Protocol || have.Conflict != "" {
				continue
			}
			if own(svc.Name, svc.Network) {
				return nil // its port already
			}
			return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
				"port %d/%s is published by service %s.%s: choose another port", p.Published, p.Protocol, svc.Name, svc.Network)}
		}
	}
	for _, l := range s.locals.All() { // also those that are on their way
		if slices.ContainsFunc(l.Attachments, func(a catalog.Attachment) bool { return own(l.Service, a.Network) }) {
			continue
		}
		for _, have := range slices.Concat(l.Publish, l.HostPublish) {
			if have.Published == p.Published && have.Protocol == p.Protocol && !withdrawn(view, l, have) {
				return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"port %d/%s is published by endpoint %s of this host: choose another port", p.Published, p.Protocol, l.Name)}
			}
		}
	}
	return s.portUnused(p)
}

// withdrawn says whether a port that an endpoint brings was taken back for its service.
func withdrawn(view *catalog.View, l Local, p catalog.Publish) bool {
	for _, a := range l.Attachments {
		svc, _ := view.Service(a.Network, l.Service)
		if slices.Contains(svc.Withdraw, catalog.Port{Protocol: p.Protocol, Number: p.Published}) {
			return true
		}
	}
	return false
}

// portUnused refuses a port that a process of this host has.
func (s *session) portUnused(p api.Publish) error {
	held, err := s.parts.ingress.PortInUse(p.Protocol, p.Published)
	if err != nil || !held {
		return err
	}
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
		"port %d/%s is in use on this host%s: end that program, or publish another port",
		p.Published, p.Protocol, holderOf(catalog.Port{Protocol: p.Protocol, Number: p.Published}))}
}

// holderOf is who has a port of this host, in brackets behind a space, or nothing.
func holderOf(p catalog.Port) string {
	h, ok := portuse.Find(p.Protocol, netip.AddrPortFrom(netip.IPv6Unspecified(), p.Number))
	if !ok {
		return ""
	}
	return " (" + h.String() + ")"
}

// tellOccupied has the mesh know which published ports do not answer on this host, because a process has them.
func (s *session) tellOccupied() error {
	var ports []catalog.Port
	for _, id := range s.parts.ingress.Occupied() {
		ports = append(ports, catalog.Port{Protocol: id.Protocol, Number: id.Number})
	}
	_, err := s.store.Update(func(d *catalog.Document) { d.Occupied = ports })
	return err
}

// occupied is what status says of the published ports that processes of this host have.
func (s *session) occupied(view *catalog.View) []string {
	var out []string
	self, _ := view.Member(s.store.self)
	for _, svc := range view.Services {
		for _, p := range svc.Ports {
			port := catalog.Port{Protocol: p.Protocol, Number: p.Published}
			if p.Conflict == "" && slices.Contains(self.Occupied, port) {
				out = append(out, fmt.Sprintf("port %s of service %s.%s does not answer on this host, for another program has it%s: end that program, or publish another port",
					port, svc.Name, svc.Network, holderOf(port)))
			}
		}
	}
	return out
}

// occupiedOn is the names of the hosts on which a process has a port.
func occupiedOn(view *catalog.View, p catalog.ServicePort) []string {
	var names []string
	for _, m := range view.Members {
		if present(m) && slices.Contains(m.Occupied, catalog.Port{Protocol: p.Protocol, Number: p.Published}) {
			names = append(names, nodeName(view, m.ID))
		}
	}
	slices.Sort(names)
	return names
}

// publishesAny says whether an endpoint has to be on the ingress network: it brings a port, or one of its
// services was given one for all of its replicas.
func publishesAny(view *catalog.View, l Local) bool {
	if len(l.Publish)+len(l.HostPublish) > 0 {
		return true
	}
	for _, a := range l.Attachments {
		svc, ok := view.Service(a.Network, l.Service)
		if ok && slices.ContainsFunc(svc.Ports, func(p catalog.ServicePort) bool { return p.Everyone }) {
			return true
		}
	}
	return false
}

// keepPublished puts the endpoints of this host on the ingress network that a port leads to, and takes the
// others off it.
func (s *session) keepPublished(ctx context.Context) error {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	view := s.store.View()
	changed := false
	var errs []error
	for _, l := range s.locals.All() {
		wanted, there := publishesAny(view, l), l.on(catalog.IngressNetwork)
		var err error
		switch {
		case l.Infrastructure || !plugged(l) || wanted == there:
			continue
		case wanted:
			a := catalog.Attachment{Network: catalog.IngressNetwork, MAC: link.RandomMAC()}
			err = s.addresses.Allocate(ctx, a.Network, func(index uint32) error {
				a.Index = index
				return s.locals.AddAttachment(l.ID, a, "", "")
			})
		case s.believes(): // before, a setting may only not have come yet
			err = s.locals.RemoveAttachment(l.ID, catalog.IngressNetwork, now())
		}
		if err != nil {
			err = fmt.Errorf("endpoint %s and the network of published ports: %w", l.ID, err)
		}
		changed = true
		errs = append(errs, err)
	}
	if changed {
		errs = append(errs, s.publishEndpoints())
	}
	return errors.Join(errs...)
}
