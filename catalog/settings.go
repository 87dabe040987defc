package catalog

import (
	"cmp"
	"slices"
	"strconv"
)

// saysNothing is true of settings that leave everything as it is without them.
func (s ServiceRecord) saysNothing() bool {
	return s.Affinity == AffinityNone && s.Prefer == PreferNone && len(s.Publish) == 0 && len(s.Withdraw) == 0
}

func (s ServiceRecord) publishes(p Port) bool {
	return slices.ContainsFunc(s.Publish, func(have Publish) bool { return have.port() == p })
}

func (s ServiceRecord) withdraws(p Port) bool { return slices.Contains(s.Withdraw, p) }

// ServiceChange is what is to be set for a service.
type ServiceChange struct {
	Network, Service string
	Affinity         *Affinity // nil: as it is
	Prefer           *Prefer   // nil: as it is
	Publish          []Publish // of all replicas; the stamps are chosen
	Unpublish        []Port    // not published any more, whoever brought it; without a protocol: of both
	Now              Millis
}

// ProposeService makes the record of a service's settings, to be signed and merged; changed is false if there is
// nothing to write. A service that was never heard of is no service. Errors wrap ErrNotFound, ErrInUse (another
// service has the port) or ErrInvalid.
func (v *View) ProposeService(c ServiceChange) (r ServiceRecord, changed bool, err error) {
	service, ok := v.Service(c.Network, c.Service)
	if !ok {
		return r, false, refuse(ErrNotFound, "no service %s.%s: see meshd service ls", c.Service, c.Network)
	}
	old := v.settings[serviceKey{c.Network, c.Service}] // a tombstone, or nothing
	r = old
	r.Mesh, r.Network, r.Service = v.Mesh, c.Network, c.Service
	r.Publish, r.Withdraw = slices.Clone(old.Publish), slices.Clone(old.Withdraw)
	if c.Affinity != nil {
		r.Affinity = *c.Affinity
	}
	if c.Prefer != nil {
		r.Prefer = *c.Prefer
	}
	for _, p := range c.Unpublish {
		if err := r.unpublish(service, p); err != nil {
			return r, false, err
		}
	}
	for _, p := range c.Publish {
		p.Stamp = c.Now
		if err := v.publish(&r, service, p); err != nil {
			return r, false, err
		}
	}
	if r.sameSettings(old) {
		return old, false, nil
	}
	r.Revision, r.Stamp, r.Deleted = old.Revision+1, c.Now, r.saysNothing()
	if err := r.check(); err != nil {
		return r, false, refuse(ErrInvalid, "service %s.%s: %v", c.Service, c.Network, err)
	}
	return r, true, nil
}

func (s ServiceRecord) sameSettings(t ServiceRecord) bool {
	return s.Affinity == t.Affinity && s.Prefer == t.Prefer && slices.Equal(s.Publish, t.Publish) && slices.Equal(s.Withdraw, t.Withdraw)
}

// publish adds a port to settings. A service that has the port already, to another target or from some of its
// replicas, keeps it as long as it has had it.
func (v *View) publish(r *ServiceRecord, service Service, p Publish) error {
	for _, s := range v.Services {
		for _, have := range s.Ports {
			switch {
			case have.port() != p.port() || have.Conflict != "":
			case s.Name != service.Name || s.Network != service.Network:
				return refuse(ErrInUse, "port %d/%s is published by service %s.%s: choose another port, or withdraw it there with: meshd service update %s.%s --unpublish %d/%s",
					p.Published, p.Protocol, s.Name, s.Network, s.Name, s.Network, p.Published, p.Protocol)
			default:
				p.Stamp = have.Stamp
			}
		}
	}
	r.Withdraw = slices.DeleteFunc(r.Withdraw, func(w Port) bool { return w == p.port() })
	r.Publish = slices.DeleteFunc(r.Publish, func(have Publish) bool { return have.port() == p.port() })
	r.Publish = append(r.Publish, p)
	slices.SortFunc(r.Publish, func(a, b Publish) int { return comparePorts(a.port(), b.port()) })
	return nil
}

// unpublish takes a port out of settings, and out of what replicas bring.
func (s *ServiceRecord) unpublish(service Service, p Port) error {
	found := false
	for _, protocol := range []string{"tcp", "udp"} {
		port := Port{protocol, p.Number}
		if p.Protocol != "" && p.Protocol != protocol {
			continue
		}
		before := len(s.Publish)
		s.Publish = slices.DeleteFunc(s.Publish, func(have Publish) bool { return have.port() == port })
		found = found || len(s.Publish) < before || s.withdraws(port)
		if slices.Contains(service.Brought, port) && !s.withdraws(port) {
			s.Withdraw = append(s.Withdraw, port)
			found = true
		}
	}
	slices.SortFunc(s.Withdraw, comparePorts)
	if !found {
		return refuse(ErrNotFound, "service %s.%s does not publish port %s: see meshd service inspect %s.%s",
			service.Name, service.Network, p, service.Name, service.Network)
	}
	return nil
}

func (p ServicePort) port() Port { return Port{p.Protocol, p.Published} }

// String is PORT/PROTOCOL, or PORT.
func (p Port) String() string {
	if p.Protocol == "" {
		return strconv.Itoa(int(p.Number))
	}
	return strconv.Itoa(int(p.Number)) + "/" + p.Protocol
}

// RemoveServices makes the tombstones of what was set for services of a network that goes: one that later
// has its name begins anew.
func (v *View) RemoveServices(network string, now Millis) []ServiceRecord {
	var out []ServiceRecord
	for k, old := range v.settings {
		if k.network != network || old.Deleted {
			continue
		}
		out = append(out, ServiceRecord{
			Register: Register{Revision: old.Revision + 1, Stamp: now, Deleted: true},
			Mesh:     v.Mesh, Network: k.network, Service: k.name,
		})
	}
	slices.SortFunc(out, func(a, b ServiceRecord) int { return cmp.Compare(a.Service, b.Service) })
	return out
}
