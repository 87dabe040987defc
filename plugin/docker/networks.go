package docker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
)

// engineNetwork is one of the Engine's networks.
type engineNetwork struct {
	ID       string
	Name     string
	Driver   string
	IPAM     string         // its IPAM driver
	Subnets  []netip.Prefix // IPv4 first
	Asked    bool           // somebody asked for the subnets: Docker did not choose them
	Internal bool
	IPv6     bool
	Labels   map[string]string
	Options  map[string]string

	Ready bool // the mesh had it before
	InUse bool // by containers of this host
}

// op is one step towards equal networks in the mesh and in the Engine.
type op struct {
	do      opKind
	network engineNetwork
	why     string // of a report
}

type opKind string

const (
	opCreateInMesh     opKind = "create in mesh"
	opAdopt            opKind = "adopt"
	opCreateInEngine   opKind = "create in Docker"
	opReplaceInEngine  opKind = "replace in Docker"
	opRemoveFromEngine opKind = "remove from Docker"
	opReport           opKind = "report"
)

func (o op) String() string {
	s := string(o.do) + " " + o.network.Name
	if o.network.ID != "" {
		s += " " + o.network.ID
	}
	for _, subnet := range o.network.Subnets {
		if o.do == opCreateInEngine || o.do == opReplaceInEngine || o.do == opCreateInMesh {
			s += " " + subnet.String()
		}
	}
	if o.why != "" {
		s += ": " + o.why
	}
	return s
}

// planNetworks says what makes the Engine's networks with our driver equal to the mesh's. A new one in the
// Engine goes to the mesh; one that the mesh had and has no more goes from the Engine,
// once no container is on it. Networks of other drivers are left alone.
func planNetworks(mesh []api.Network, engine []engineNetwork) []op {
	byName := map[string][]engineNetwork{}
	foreign := map[string]string{}
	for _, e := range engine {
		if e.Driver == Driver {
			byName[e.Name] = append(byName[e.Name], e)
		} else {
			foreign[e.Name] = e.Driver
		}
	}
	wanted := map[string]api.Network{}
	for _, n := range mesh {
		wanted[n.Name] = n
	}
	names := slices.Collect(maps.Keys(byName))
	for name := range wanted {
		if byName[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var ops []op
	for _, name := range names {
		n, inMesh := wanted[name]
		switch {
		case byName[name] == nil && foreign[name] != "":
			ops = append(ops, op{opReport, engineNetwork{Name: name}, fmt.Sprintf(
				"network %s of the mesh cannot be used from Docker on this host, where a network of that name has the driver %s: remove that (docker network rm %s), or name another in the mesh",
				name, foreign[name], name)})
		case byName[name] == nil:
			ops = append(ops, op{do: opCreateInEngine, network: asEngineNetwork(n, engineNetwork{})})
		case inMesh:
			ops = append(ops, planPresent(n, byName[name])...)
		default:
			ops = append(ops, planAbsent(byName[name])...)
		}
	}
	return ops
}

// planAbsent is for networks of the Engine's that the mesh does not have.
func planAbsent(have []engineNetwork) []op {
	var ops []op
	for _, e := range have {
		if e.Ready && !e.InUse {
			ops = append(ops, op{do: opRemoveFromEngine, network: e})
			continue
		}
		if e.IPAM != Driver && !e.Asked {
			e.Subnets = nil
		}
		return append(ops, op{do: opCreateInMesh, network: e})
	}
	return ops
}

// planPresent is for networks of one name that both have. One that is not as the mesh has it is
// replaced: above all what was made with Docker's own IPAM, as `docker network create -d meshd` does, by which
// every host would hand out the same addresses.
func planPresent(n api.Network, have []engineNetwork) []op {
	slices.SortStableFunc(have, func(a, b engineNetwork) int { return cmp.Compare(rank(n, a), rank(n, b)) })
	first := have[0]
	var ops []op
	switch difference := differs(n, first); {
	case difference == "" && !first.Ready:
		ops = append(ops, op{do: opAdopt, network: first})
	case difference == "":
	case first.InUse:
		ops = append(ops, op{opReport, first, fmt.Sprintf(
			"network %s has %s in Docker on this host, which differs from the mesh: stop the containers on it; it is made anew then", n.Name, difference)})
	default:
		anew := asEngineNetwork(n, first)
		anew.ID = first.ID
		ops = append(ops, op{do: opReplaceInEngine, network: anew})
	}
	for _, e := range have[1:] {
		if !e.InUse {
			ops = append(ops, op{do: opRemoveFromEngine, network: e})
		}
	}
	return ops
}

// rank orders networks of one name: the first is the one to keep.
func rank(n api.Network, e engineNetwork) int {
	switch {
	case differs(n, e) == "":
		return 0
	case e.InUse:
		return 1
	default:
		return 2
	}
}

// differs says in what a network of the Engine's is not as the mesh has it; empty: in nothing.
func differs(n api.Network, e engineNetwork) string {
	want := asEngineNetwork(n, e)
	switch {
	case e.IPAM != Driver:
		return "the IPAM driver " + e.IPAM
	case !slices.Equal(sortedSubnets(want.Subnets), sortedSubnets(e.Subnets)):
		return fmt.Sprintf("the subnets %v", e.Subnets)
	case want.Internal != e.Internal:
		return fmt.Sprintf("internal=%t", e.Internal)
	}
	return ""
}

// asEngineNetwork is the mesh's network as the Engine should have it: like is the one that it takes
// the place of, if any.
func asEngineNetwork(n api.Network, like engineNetwork) engineNetwork {
	out := engineNetwork{
		Name: n.Name, Driver: Driver, IPAM: Driver, Internal: n.Internal, IPv6: like.IPv6 || like.ID == "",
		Labels: like.Labels, Options: like.Options,
	}
	if like.ID == "" {
		out.Labels = n.Labels // compose looks at them
	}
	// One of each family: a network of the Engine's cannot grow. What is given out of others is as good.
	var four, six bool
	for _, s := range prefixes(n.Subnets) {
		if s.Addr().Is4() && !four {
			four = true
			out.Subnets = append(out.Subnets, s)
		}
		if s.Addr().Is6() && !six && out.IPv6 {
			six = true
			out.Subnets = append(out.Subnets, s)
		}
	}
	return out
}

// portable is those of a network's labels that the mesh takes; compose's go before others.
func portable(labels map[string]string) map[string]string {
	keys := sortedKeys(labels)
	slices.SortStableFunc(keys, func(a, b string) int {
		return cmp.Compare(btoi(!strings.HasPrefix(a, composeLabels)), btoi(!strings.HasPrefix(b, composeLabels)))
	})
	out := map[string]string{}
	for _, key := range keys {
		out[key] = labels[key]
		if catalog.CheckLabels(out) != nil {
			delete(out, key)
		}
	}
	return out
}

const composeLabels = "com.docker.compose."

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sortedSubnets(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return list
}

// prefixes reads the daemon's subnets. They are right, as they come from it.
func prefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		if p, err := netip.ParsePrefix(t); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func has(n api.Network, subnet netip.Prefix) bool {
	return slices.Contains(prefixes(n.Subnets), subnet)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
