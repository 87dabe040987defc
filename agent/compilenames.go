package agent

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/dns"
)

func dnsNetwork(in Inputs, n catalog.Network) dns.Network {
	out := dns.Network{Name: n.Name, Subnets: append(n.Space.Subnets(), n.Subnet6)}
	for _, e := range n.Endpoints {
		out.Endpoints = append(out.Endpoints, dns.Host{Name: dnsLabel(e.Name), Addrs: addresses(e)})
	}
	services := map[string]catalog.Service{}
	for _, s := range in.View.Services {
		if s.Network != n.Name || len(s.Replicas) == 0 {
			continue
		}
		services[s.Name] = s
		service := dns.Service{Name: dnsLabel(s.Name), VIPs: vips(s)}
		for _, r := range s.Replicas {
			if in.inRotation(r) {
				service.Replicas = append(service.Replicas, dns.Host{Name: dnsLabel(r.Name), Addrs: addresses(r)})
			}
		}
		for _, p := range s.Ports {
			port := dns.Port{Name: strconv.Itoa(int(p.Target)), Number: p.Target, Protocol: p.Protocol}
			if !slices.Contains(service.Ports, port) {
				service.Ports = append(service.Ports, port)
			}
		}
		out.Services = append(out.Services, service)
	}
	out.Services = append(out.Services, aliases(in, n, services)...)
	return out
}

func vips(s catalog.Service) []netip.Addr {
	if s.VIPIndex == 0 {
		return nil
	}
	return []netip.Addr{s.VIP4, s.VIP6}
}

// aliases is the further names of the endpoints of a network, by name. A service's name goes before an
// alias. An alias that all replicas of one service have, and nobody else, is another name of that service; any other
// gives the addresses of those endpoints that have it.
func aliases(in Inputs, n catalog.Network, services map[string]catalog.Service) []dns.Service {
	var names []string
	bearers := map[string][]catalog.NetworkEndpoint{}
	for _, e := range n.Endpoints {
		for alias := range strings.FieldsSeq(e.Aliases) {
			if _, taken := services[alias]; taken {
				continue
			}
			if bearers[alias] == nil {
				names = append(names, alias)
			}
			bearers[alias] = append(bearers[alias], e)
		}
	}
	slices.Sort(names)
	var out []dns.Service
	for _, alias := range names {
		service := dns.Service{Name: alias}
		for _, e := range bearers[alias] {
			if in.inRotation(e) {
				service.Replicas = append(service.Replicas, dns.Host{Name: dnsLabel(e.Name), Addrs: addresses(e)})
				service.VIPs = append(service.VIPs, addresses(e)...)
			}
		}
		if s, ok := onlyService(bearers[alias], services); ok {
			service.VIPs = vips(s)
		}
		out = append(out, service)
	}
	return out
}

// onlyService is the service whose replicas these endpoints are, if they are all of them and no others.
func onlyService(bearers []catalog.NetworkEndpoint, services map[string]catalog.Service) (catalog.Service, bool) {
	s, ok := services[bearers[0].Service]
	if !ok || s.VIPIndex == 0 || len(s.Replicas) != len(bearers) {
		return s, false
	}
	for _, e := range bearers {
		if e.Service != s.Name {
			return s, false
		}
	}
	return s, true
}
