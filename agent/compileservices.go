package agent

import (
	"slices"
	"strings"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/ingress"
)

func compileIngress(in Inputs) ingress.Config {
	var cfg ingress.Config
	shared := make(map[string][]ingress.VirtualIP) // by networks: most endpoints are on the same ones
	for _, l := range in.Locals {
		if l.Infrastructure {
			continue
		}
		networks := l.networks()
		key := strings.Join(networks, " ")
		services, there := shared[key]
		if !there {
			services = virtualIPsOn(in, networks)
			shared[key] = services
		}
		cfg.Clients = append(cfg.Clients, ingress.Client{Endpoint: l.ID, Namespace: l.Namespace, Services: services})
	}
	cfg.Replicas = replicas(in)
	cfg.Publish = compilePublish(in)
	return cfg
}

// compilePublish is what this host publishes, once it is on the ingress network.
func compilePublish(in Inputs) ingress.Publish {
	n, ok := in.View.Network(catalog.IngressNetwork)
	if !ok || in.Fenced {
		return ingress.Publish{}
	}
	mine := ownEndpoints(in, n)
	for _, l := range in.Locals {
		if _, placed := mine[l.ID]; l.Infrastructure && placed {
			return ingress.Publish{Interface: hostInterface, Subnets: append(n.Space.Subnets(), n.Subnet6), Ports: publishedPorts(in)}
		}
	}
	return ingress.Publish{}
}

// replicas is the endpoints of this host behind published ports, and the hosts through
// which connections come to them, alive or not: one that seems dead may still deliver.
func replicas(in Inputs) []ingress.Replica {
	n, ok := in.View.Network(catalog.IngressNetwork)
	if !ok {
		return nil
	}
	var via []ingress.IngressHost
	for _, e := range n.Endpoints {
		// Replicas are on this network too; only hosts' own endpoints have no service.
		if mac, err := parseMAC(e.MAC); err == nil && e.Service == "" {
			via = append(via, ingress.IngressHost{Address4: e.IP4, MAC: mac})
		}
	}
	var out []ingress.Replica
	mine := ownEndpoints(in, n)
	for _, l := range in.Locals {
		e, placed := mine[l.ID]
		if l.Infrastructure || !placed {
			continue
		}
		r := ingress.Replica{
			Endpoint: l.ID, Namespace: l.Namespace, Interface: ingressInterface,
			Address4: e.IP4, Address6: e.IP6, Via: via,
		}
		r.UDPPorts = udpTargets(in, l)
		out = append(out, r)
	}
	return out
}

// virtualIPsOn is the virtual IPs on some networks, sorted.
func virtualIPsOn(in Inputs, networks []string) []ingress.VirtualIP {
	var out []ingress.VirtualIP
	for _, s := range in.View.Services {
		if s.Network != catalog.IngressNetwork && slices.Contains(networks, s.Network) {
			out = append(out, virtualIPs(in, s)...)
		}
	}
	slices.SortFunc(out, func(a, b ingress.VirtualIP) int { return a.Address.Compare(b.Address) })
	return out
}

func virtualIPs(in Inputs, s catalog.Service) []ingress.VirtualIP {
	if s.VIPIndex == 0 {
		return nil // the network has none left
	}
	byClient := s.Affinity == catalog.AffinityClientIP
	four := ingress.VirtualIP{Address: s.VIP4, ByClient: byClient}
	six := ingress.VirtualIP{Address: s.VIP6, ByClient: byClient}
	take, keep := in.choose(s, s.Replicas)
	for _, r := range take {
		four.Replicas, six.Replicas = append(four.Replicas, r.IP4), append(six.Replicas, r.IP6)
	}
	for _, r := range keep {
		four.Draining, six.Draining = append(four.Draining, r.IP4), append(six.Draining, r.IP6)
	}
	return []ingress.VirtualIP{four, six}
}

// choose returns the endpoints of a service that take new connections, and those that only keep what they have: those
// that drain, and those that others are preferred to. The order stays.
func (in Inputs) choose(s catalog.Service, endpoints []catalog.NetworkEndpoint) (take, keep []catalog.NetworkEndpoint) {
	for _, e := range endpoints {
		switch {
		case in.inRotation(e):
			take = append(take, e)
		case in.draining(e):
			keep = append(keep, e)
		}
	}
	if s.Prefer != catalog.PreferLocal {
		return take, keep
	}
	near := nearest(in, take)
	for _, e := range take {
		if !near[e.Node] {
			keep = append(keep, e)
		}
	}
	slices.SortFunc(keep, func(a, b catalog.NetworkEndpoint) int { return a.IP4.Compare(b.IP4) })
	return slices.DeleteFunc(take, func(e catalog.NetworkEndpoint) bool { return !near[e.Node] }), keep
}
