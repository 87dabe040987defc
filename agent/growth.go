package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/gateway"
)

// GrowNetwork gives a network one more IPv4 subnet. Its endpoints keep their addresses.
func (s *session) GrowNetwork(_ context.Context, req api.GrowthRequest) (api.Network, error) {
	s.registering.Lock()
	defer s.registering.Unlock()
	routes, err := gateway.HostRoutes()
	if err != nil {
		return api.Network{}, err
	}
	view := s.store.View()
	growth := catalog.GrowthRequest{
		Name: req.Name, Pools: s.cfg.AddressPools, PrefixLen: s.cfg.NetworkPrefix, Avoid: append(routes, routesOf(view)...), Now: now(),
	}
	if req.Subnet != "" {
		subnets, err := parseSubnets([]string{req.Subnet}, routes, view)
		if err != nil {
			return api.Network{}, err
		}
		growth.Subnet = subnets[0]
	}
	record, err := view.GrowNetwork(growth)
	if err != nil {
		return api.Network{}, refusal(err)
	}
	if err := s.store.Publish(catalog.KindNetwork, record); err != nil {
		return api.Network{}, err
	}
	view = s.store.View()
	n, _ := view.Network(req.Name)
	return describeNetwork(view, n), nil
}

// routesOf is what the hosts of the mesh reach by routes of their own.
func routesOf(view *catalog.View) []netip.Prefix {
	var routes []netip.Prefix
	for _, m := range view.Members {
		if present(m) {
			routes = append(routes, m.Routes...)
		}
	}
	return routes
}

// networkProblem is something wrong with the addresses of a network.
type networkProblem struct {
	what string // tells it from others; the text may change while it lasts
	text string // ends in what to do
}

// networkProblems is what is wrong with the addresses of networks.
func networkProblems(view *catalog.View) []networkProblem {
	var out []networkProblem
	for _, n := range view.Networks {
		if n.Usage() >= nearlyFull {
			what := fmt.Sprintf("network %s is nearly full", n.Name)
			out = append(out, networkProblem{what, fmt.Sprintf("%s: hosts have taken %d %% of its addresses: let it grow with: meshd network grow %s",
				what, int(100*n.Usage()), n.Name)})
		}
		subnets := append(n.Space.Subnets(), n.Subnet6)
		for _, m := range view.Members {
			if !present(m) {
				continue
			}
			for _, r := range m.Routes {
				if i := slices.IndexFunc(subnets, r.Overlaps); i >= 0 {
					what := fmt.Sprintf("host %s has a route to %s, which overlaps %s of network %s", m.Name, r, subnets[i], n.Name)
					out = append(out, networkProblem{what, what + ": what is on that network there does not reach it: " + wayOut(n.Name)})
				}
			}
		}
	}
	return out
}

func wayOut(network string) string {
	if network == catalog.IngressNetwork {
		return "give that route's network other addresses, as published ports travel through this one"
	}
	return "give that route's network other addresses, or move the endpoints to a network with another --subnet"
}

// warnNetworks logs what has become wrong with the addresses of networks since the last call, and
// what is so no longer. It returns what to hand in the next time.
func (s *session) warnNetworks(view *catalog.View, before []networkProblem) []networkProblem {
	now := networkProblems(view)
	lacks := func(list []networkProblem, p networkProblem) bool {
		return !slices.ContainsFunc(list, func(other networkProblem) bool { return other.what == p.what })
	}
	for _, p := range now {
		if lacks(before, p) {
			s.log.Warn(p.text)
		}
	}
	for _, p := range before {
		if lacks(now, p) {
			s.log.Info("no longer so: " + p.what)
		}
	}
	return now
}
