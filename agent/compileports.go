package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/ingress"
)

// publishedPorts is the ports that this host answers on, sorted.
func publishedPorts(in Inputs) []ingress.Port {
	var ports []ingress.Port
	for _, s := range in.View.Services {
		for _, p := range s.Ports {
			if p.Conflict != "" {
				continue
			}
			port := ingress.Port{
				Protocol: p.Protocol, Published: p.Published,
				ByClient: s.Affinity == catalog.AffinityClientIP, Shared: sharedWithEngine(in, p),
			}
			take, keep := in.choose(s, p.Backends)
			port.Backends, port.Draining = backendsAt(p.Target, take), backendsAt(p.Target, keep)
			ports = append(ports, port)
		}
	}
	ports = append(ports, hostPorts(in, ports)...)
	slices.SortFunc(ports, func(a, b ingress.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Published, b.Published))
	})
	return ports
}

// sharedWithEngine says whether an engine of this host has a published port as well: one that speaks CNI binds the ports that it
// publishes itself, after its plugins have run, and would fail if this host held them.
func sharedWithEngine(in Inputs, p catalog.ServicePort) bool {
	for _, l := range in.Locals {
		if !strings.HasPrefix(l.Key, "cni/") {
			continue
		}
		for _, brought := range l.Endpoint.Publish {
			if brought.Protocol == p.Protocol && brought.Published == p.Published {
				return true
			}
		}
	}
	return false
}

func backendsAt(port uint16, endpoints []catalog.NetworkEndpoint) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range endpoints {
		out = append(out, netip.AddrPortFrom(e.IP4, port), netip.AddrPortFrom(e.IP6, port))
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// hostPorts is what endpoints of this host publish on this host alone. A port that the mesh publishes by
// now is the mesh's.
func hostPorts(in Inputs, ofMesh []ingress.Port) []ingress.Port {
	var ports []ingress.Port
	same := func(p catalog.Publish) func(ingress.Port) bool {
		return func(q ingress.Port) bool { return p.Protocol == q.Protocol && p.Published == q.Published }
	}
	for _, l := range in.Locals {
		e, ok := onIngress(in, l)
		for _, p := range l.HostPublish {
			if !ok || slices.ContainsFunc(ofMesh, same(p)) {
				continue
			}
			at := slices.IndexFunc(ports, same(p))
			if at < 0 {
				at = len(ports)
				ports = append(ports, ingress.Port{Protocol: p.Protocol, Published: p.Published})
			}
			both := backendsAt(p.Target, []catalog.NetworkEndpoint{e})
			switch {
			case in.inRotation(e):
				ports[at].Backends = append(ports[at].Backends, both...)
			case in.draining(e):
				ports[at].Draining = append(ports[at].Draining, both...)
			}
		}
	}
	for i := range ports {
		slices.SortFunc(ports[i].Backends, netip.AddrPort.Compare)
		slices.SortFunc(ports[i].Draining, netip.AddrPort.Compare)
	}
	return ports
}

// onIngress is the presence of an endpoint of this host on the network of published ports.
func onIngress(in Inputs, l Local) (catalog.NetworkEndpoint, bool) {
	n, _ := in.View.Network(catalog.IngressNetwork)
	at := slices.IndexFunc(n.Endpoints, func(e catalog.NetworkEndpoint) bool { return e.ID == l.ID && e.Node == in.Self })
	if at < 0 {
		return catalog.NetworkEndpoint{}, false
	}
	return n.Endpoints[at], true
}

// udpTargets is the ports of an endpoint of this host that published UDP ports lead to, sorted.
func udpTargets(in Inputs, l Local) []uint16 {
	var out []uint16
	for _, s := range in.View.Services {
		for _, p := range s.Ports {
			leads := func(b catalog.NetworkEndpoint) bool { return b.ID == l.ID && b.Node == in.Self }
			if p.Protocol == "udp" && slices.ContainsFunc(p.Backends, leads) {
				out = append(out, p.Target)
			}
		}
	}
	for _, p := range l.HostPublish {
		if p.Protocol == "udp" {
			out = append(out, p.Target)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
