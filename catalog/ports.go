package catalog

import (
	"cmp"
	"maps"
	"slices"
)

func (p Publish) port() Port { return Port{p.Protocol, p.Published} }

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
}

// portList is a service's ports: those that it wants, and those that its replicas bring.
type portList struct {
	ports   []ServicePort
	brought []Port
}

// portWish is a port that a service wants.
type portWish struct {
	Port
	target   uint16
	everyone bool // the service's settings say so
	service  *Service
	stamp    Millis // the lowest of its replicas
	backends []NetworkEndpoint
}

func (w *portWish) name() string { return w.service.Name + "." + w.service.Network }

// publishPorts adds the published ports to the services. If several want one port, the
// lowest (stamp, name, target) has it and the others are told who.
func (k *compiler) publishPorts(services []Service) {
	wishes := k.collectWishes(services)
	slices.SortFunc(wishes, func(a, b *portWish) int {
		return cmp.Or(cmp.Compare(a.stamp, b.stamp), cmp.Compare(a.name(), b.name()), cmp.Compare(a.target, b.target))
	})
	holder := map[Port]string{}
	for _, w := range wishes {
		slices.SortFunc(w.backends, func(a, b NetworkEndpoint) int { return a.IP4.Compare(b.IP4) })
		port := ServicePort{
			Published: w.Number, Target: w.target, Protocol: w.Protocol, Stamp: w.stamp, Everyone: w.everyone,
			Backends: w.backends, Conflict: holder[w.Port],
		}
		if port.Conflict == "" {
			holder[w.Port] = w.name()
		}
		w.service.Ports = append(w.service.Ports, port)
	}
	k.ports = map[serviceKey]portList{}
	for i := range services {
		s := &services[i]
		if len(s.Ports) == 0 && len(s.Brought) == 0 {
			continue
		}
		slices.SortFunc(s.Ports, func(a, b ServicePort) int {
			return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Published, b.Published), cmp.Compare(a.Target, b.Target))
		})
		k.ports[serviceKey{s.Network, s.Name}] = portList{s.Ports, s.Brought}
	}
}

func (k *compiler) collectWishes(services []Service) []*portWish {
	list := wishList{ingress: map[replicaKey]NetworkEndpoint{}, wishes: map[wishKey]*portWish{}}
	if p := k.networks[IngressNetwork]; p != nil {
		for _, e := range p.order {
			list.ingress[replicaKey{e.Node, e.ID}] = e.NetworkEndpoint
		}
	}
	for i := range services {
		s := &services[i]
		if set := k.networks[s.Network].replicas[s.Name]; set != nil {
			list.add(s, set.members, k.settings[serviceKey{s.Network, s.Name}])
		} else {
			list.add(s, nil, k.settings[serviceKey{s.Network, s.Name}])
		}
	}
	return slices.Collect(maps.Values(list.wishes))
}

// wishList collects the ports that services want.
type wishList struct {
	ingress map[replicaKey]NetworkEndpoint // presences on the ingress network
	wishes  map[wishKey]*portWish
}

type wishKey struct {
	Port
	target  uint16
	service *Service
}

// add collects what the replicas of a service bring, and what its settings say instead.
func (l *wishList) add(s *Service, replicas []*placed, settings ServiceRecord) {
	for _, p := range settings.Publish {
		w := l.wish(s, p)
		w.everyone = true
		for _, r := range replicas {
			l.lead(w, r)
		}
	}
	for _, r := range replicas {
		if r.first != s.Network { // an endpoint on several networks publishes for its service on the first
			continue
		}
		for _, p := range r.publish {
			s.Brought = append(s.Brought, p.port())
			if settings.publishes(p.port()) || settings.withdraws(p.port()) {
				continue
			}
			l.lead(l.wish(s, p), r)
		}
	}
	slices.SortFunc(s.Brought, comparePorts)
	s.Brought = slices.Compact(s.Brought)
}

// wish returns a service's wish for a port; the oldest stamp counts.
func (l *wishList) wish(s *Service, p Publish) *portWish {
	key := wishKey{p.port(), p.Target, s}
	w := l.wishes[key]
	if w == nil {
		w = &portWish{Port: key.Port, target: p.Target, service: s, stamp: p.Stamp}
		l.wishes[key] = w
	}
	w.stamp = min(w.stamp, p.Stamp)
	return w
}

// lead has a port lead to a replica, if that is on the ingress network yet.
func (l *wishList) lead(w *portWish, replica *placed) {
	if in, ok := l.ingress[replicaKey{replica.Node, replica.ID}]; ok {
		w.backends = append(w.backends, in)
	}
}
