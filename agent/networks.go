package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/gateway"
)

// CreateNetwork makes a network for the whole mesh.
func (s *session) CreateNetwork(_ context.Context, req api.NetworkRequest) (api.Network, error) {
	s.registering.Lock()
	defer s.registering.Unlock()
	routes, err := gateway.HostRoutes()
	if err != nil {
		return api.Network{}, err
	}
	view := s.store.View()
	subnets, err := parseSubnets(req.Subnets, routes, view)
	if err != nil {
		return api.Network{}, err
	}
	record, err := view.ProposeNetwork(catalog.NetworkRequest{
		Name: req.Name, Internal: req.Internal, Labels: req.Labels, Subnets: subnets, Avoid: append(routes, routesOf(view)...),
		Pools: s.cfg.AddressPools, PrefixLen: s.cfg.NetworkPrefix, Now: now(),
	})
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

// parseSubnets reads the subnets that were asked for. One that a host itself uses is
// refused: endpoints would lose the way to it. Routes are this host's.
func parseSubnets(texts []string, routes []netip.Prefix, view *catalog.View) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, invalid("subnet %q is no CIDR: write it like 10.5.0.0/16", text)
		}
		for _, r := range routes {
			if r.Overlaps(prefix) {
				return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"subnet %s overlaps %s, which this host uses: choose another, or leave --subnet out to have one chosen", prefix, r)}
			}
		}
		for _, m := range view.Members {
			if i := slices.IndexFunc(m.Routes, prefix.Overlaps); i >= 0 && present(m) {
				return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"subnet %s overlaps %s, which host %s uses: choose another, or leave --subnet out to have one chosen", prefix, m.Routes[i], m.Name)}
			}
		}
		out = append(out, prefix)
	}
	return out, nil
}

// RemoveNetwork removes a network that nobody uses.
func (s *session) RemoveNetwork(_ context.Context, name string) error {
	s.registering.Lock()
	defer s.registering.Unlock()
	view := s.store.View()
	record, err := view.RemoveNetwork(name, now())
	if err != nil {
		return refusal(err)
	}
	for _, gone := range view.RemoveServices(name, now()) {
		if err := s.store.Publish(catalog.KindService, gone); err != nil {
			return err
		}
	}
	return s.store.Publish(catalog.KindNetwork, record)
}

// Networks lists the networks.
func (s *session) Networks(context.Context) ([]api.Network, error) {
	return describeNetworks(s.store.View()), nil
}

func describeNetworks(view *catalog.View) []api.Network {
	out := []api.Network{}
	for _, n := range view.Networks {
		if n.Name != catalog.IngressNetwork {
			out = append(out, describeNetwork(view, n))
		}
	}
	return out
}

func describeNetwork(view *catalog.View, n catalog.Network) api.Network {
	subnets := []string{n.Subnet4.String(), n.Subnet6.String()}
	for _, more := range n.Space[1:] {
		subnets = append(subnets, more.Subnet.String())
	}
	return api.Network{
		Name: n.Name, VNI: n.VNI, Subnets: subnets,
		MTU: OverlayMTU(view), Endpoints: len(n.Endpoints), Usage: int(100 * n.Usage()), Internal: n.Internal, Labels: n.Labels,
	}
}

// Network describes one network.
func (s *session) Network(_ context.Context, name string) (api.NetworkDetail, error) {
	view := s.store.View()
	n, ok := view.Network(name)
	if !ok || name == catalog.IngressNetwork {
		return api.NetworkDetail{}, noNetwork(view, name)
	}
	detail := api.NetworkDetail{
		Network: describeNetwork(view, n), Created: rfc3339(n.Created),
		Members: []api.Endpoint{}, Blocks: []api.Block{},
	}
	alive := s.aliveSet()
	for _, e := range n.Endpoints {
		detail.Members = append(detail.Members, s.describeEndpoint(view, alive, name, e))
	}
	for block, owner := range n.Blocks {
		first, end := n.Space.Range(block)
		detail.Blocks = append(detail.Blocks, api.Block{
			Range: fmt.Sprintf("%s-%s", n.Space.Address(first), n.Space.Address(end-1)),
			Node:  nodeName(view, owner),
		})
	}
	slices.SortFunc(detail.Blocks, func(a, b api.Block) int { return strings.Compare(a.Range, b.Range) })
	return detail, nil
}

// Endpoints lists the endpoints of the mesh, a row for each network they are on.
func (s *session) Endpoints(context.Context) ([]api.Endpoint, error) {
	out := s.describeEndpoints(s.store.View(), s.aliveSet())
	slices.SortStableFunc(out, func(a, b api.Endpoint) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

func (s *session) describeEndpoints(view *catalog.View, alive map[catalog.NodeID]bool) []api.Endpoint {
	out := []api.Endpoint{}
	for _, n := range view.Networks {
		if n.Name == catalog.IngressNetwork {
			continue
		}
		for _, e := range n.Endpoints {
			out = append(out, s.describeEndpoint(view, alive, n.Name, e))
		}
	}
	return out
}

// describeEndpoint describes one; alive is aliveSet's, which takes a look at every member.
func (s *session) describeEndpoint(view *catalog.View, alive map[catalog.NodeID]bool, network string, e catalog.NetworkEndpoint) api.Endpoint {
	health, reason := string(e.Health), e.Reason
	if e.Draining {
		health = "draining"
	}
	if alive != nil && e.Node != s.store.self && !alive[e.Node] {
		health = "unreachable"
	}
	out := api.Endpoint{
		ID: e.ID, Name: e.Name, Service: e.Service, Network: network, Node: nodeName(view, e.Node),
		IP: e.IP4.String(), IP6: e.IP6.String(), MAC: e.MAC, Health: health, Reason: reason, Self: e.Node == s.store.self,
	}
	if l, ok := s.locals.Get(e.ID); ok && out.Self && l.Key != "" {
		out.Key, out.Interface, out.Owner = l.Key, l.Interfaces[network], l.Owners[network]
	}
	return out
}

func (s *session) describeAttached(l Local) api.Attached {
	view, alive := s.store.View(), s.aliveSet()
	out := api.Attached{ID: l.ID, Name: l.Name, Nameserver: "127.0.0.11", Interfaces: []api.Endpoint{}}
	for _, a := range l.Attachments {
		n, _ := view.Network(a.Network)
		for _, e := range n.Endpoints {
			if e.ID == l.ID && a.Network != catalog.IngressNetwork {
				out.Interfaces = append(out.Interfaces, s.describeEndpoint(view, alive, a.Network, e))
			}
		}
	}
	return out
}

func rfc3339(t catalog.Millis) string {
	if t == 0 {
		return ""
	}
	return time.UnixMilli(int64(t)).UTC().Format(time.RFC3339)
}
