package catalog

import (
	"cmp"
	"maps"
	"slices"
)

// replicaKey names an endpoint; ids alone are only random.
type replicaKey struct {
	node NodeID
	id   string
}

// serviceKey names a service.
type serviceKey struct{ network, name string }

// vote is what a replica says that its service's virtual IP is.
type vote struct {
	node  NodeID
	vip   uint32
	stamp Millis
	moved uint32
}

// compareVotes orders what replicas say their service's virtual IP is: the oldest counts,
// and of those the one that knows of most moves, so that a service that gave way to an older
// one does not move back, in use, when the older one ends.
func compareVotes(a, b vote) int {
	return cmp.Or(cmp.Compare(a.stamp, b.stamp), cmp.Compare(b.moved, a.moved),
		cmp.Compare(a.node, b.node), cmp.Compare(a.vip, b.vip))
}

// replicaSet is the endpoints of one service, by IP4.
type replicaSet struct {
	members  []*placed
	replicas []NetworkEndpoint
	vote     vote // the one that counts
	voted    bool
}

// regroup brings the network's services up to date. The ingress network has none: endpoints are
// on it for their published ports alone.
func (p *placement) regroup(n Network, gone map[*placed]bool, came []*placed) {
	if p.name == IngressNetwork {
		return
	}
	differ := map[string][]*placed{} // by service, what came
	for e := range gone {
		differ[e.Service] = nil
	}
	for _, e := range came {
		differ[e.Service] = append(differ[e.Service], e)
	}
	delete(differ, "") // no service
	for name, came := range differ {
		old := p.replicas[name]
		if old == nil {
			old = &replicaSet{}
		}
		members := patch(old.members, gone, came)
		if len(members) == 0 {
			delete(p.replicas, name)
			continue
		}
		set := &replicaSet{members: members, replicas: endpointsOf(members)}
		for _, e := range members {
			if n.Space.IsVIP(e.vip.vip) && (!set.voted || compareVotes(e.vip, set.vote) < 0) {
				set.vote, set.voted = e.vip, true
			}
		}
		p.replicas[name] = set
	}
	if len(differ) > 0 || p.services == nil {
		p.services = assignVIPs(n, p.replicas)
	}
}

// services is the services of all networks, with their ports.
func (k *compiler) services(published bool) []Service {
	var services []Service
	for _, name := range slices.Sorted(maps.Keys(k.networks)) {
		services = append(services, k.networks[name].services...)
	}
	services = k.addSettings(services)
	if published {
		k.publishPorts(services)
		return services
	}
	for i, s := range services {
		ports := k.ports[serviceKey{s.Network, s.Name}]
		services[i].Ports, services[i].Brought = ports.ports, ports.brought
	}
	return services
}

// addSettings adds to services what was set for them, and those that have nothing but settings.
func (k *compiler) addSettings(services []Service) []Service {
	if len(k.settings) == 0 {
		return services
	}
	found := make(map[serviceKey]bool, len(k.settings))
	for i := range services {
		s := &services[i]
		if r, ok := k.settings[serviceKey{s.Network, s.Name}]; ok {
			s.take(r)
			found[serviceKey{s.Network, s.Name}] = true
		}
	}
	for key, r := range k.settings {
		if p := k.networks[key.network]; found[key] || r.Deleted || p == nil || p.live == nil || key.network == IngressNetwork {
			continue
		}
		s := Service{Network: key.network, Name: key.name}
		s.take(r)
		services = append(services, s)
	}
	slices.SortFunc(services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Name, b.Name))
	})
	return services
}

func (s *Service) take(r ServiceRecord) {
	s.Affinity, s.Prefer, s.Withdraw = r.Affinity, r.Prefer, r.Withdraw
}

// assignVIPs makes the services of one network, by name, and gives each the virtual IP its replicas agreed on.
// If two services want one, the older (stamp, name) keeps it and the other goes on to the next free.
func assignVIPs(n Network, replicas map[string]*replicaSet) []Service {
	services := make([]Service, 0, len(replicas))
	for _, name := range slices.Sorted(maps.Keys(replicas)) {
		services = append(services, Service{Network: n.Name, Name: name, Replicas: replicas[name].replicas})
	}
	var order []*Service
	for i := range services {
		if set := replicas[services[i].Name]; set.voted {
			services[i].VIPIndex, services[i].VIPStamp, services[i].VIPMoved = set.vote.vip, set.vote.stamp, set.vote.moved
			order = append(order, &services[i])
		}
	}
	slices.SortFunc(order, func(a, b *Service) int {
		return cmp.Or(cmp.Compare(a.VIPStamp, b.VIPStamp), cmp.Compare(a.Name, b.Name))
	})
	taken := map[uint32]bool{}
	for _, s := range order {
		want := s.VIPIndex
		s.VIPIndex = freeVIP(n.Space, want, taken)
		if s.VIPIndex == 0 {
			continue
		}
		if s.VIPIndex != want {
			s.VIPMoved++
		}
		taken[s.VIPIndex] = true
		s.VIP4 = n.Space.Address(s.VIPIndex)
		s.VIP6 = AddressAt(n.Subnet6, s.VIPIndex)
	}
	return services
}

// freeVIP returns the first virtual IP from want on that is not taken, going round; 0 if there is none.
func freeVIP(s Space, want uint32, taken map[uint32]bool) uint32 {
	for range s.vips() {
		if !taken[want] {
			return want
		}
		want = s.nextVIP(want)
	}
	return 0
}
