package docker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
)

func appnet(edits ...func(*api.Network)) api.Network {
	n := api.Network{Name: "appnet", Subnets: []string{"10.85.0.0/16", "fd00:85::/64"}}
	for _, edit := range edits {
		edit(&n)
	}
	return n
}

// inDocker is appnet as the Engine should have it.
func inDocker(edits ...func(*engineNetwork)) engineNetwork {
	e := engineNetwork{
		ID: "id1", Name: "appnet", Driver: "meshd", IPAM: "meshd", IPv6: true, Ready: true, Asked: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.85.0.0/16"), netip.MustParsePrefix("fd00:85::/64")},
	}
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

// byHand is appnet as `docker network create -d meshd appnet` makes it.
func byHand(e *engineNetwork) {
	e.ID, e.IPAM, e.IPv6, e.Ready, e.Asked = "id2", "default", false, false, false
	e.Subnets = []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}
}

func inUse(e *engineNetwork) { e.InUse = true }

func TestPlanNetworks(t *testing.T) {
	explicit := func(e *engineNetwork) {
		e.Subnets, e.Asked = []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")}, true
	}
	for _, test := range []struct {
		name   string
		mesh   []api.Network
		engine []engineNetwork
		want   string
	}{
		{"nothing to do", []api.Network{appnet()}, []engineNetwork{inDocker()}, ""},
		{"the mesh has a new one", []api.Network{appnet()}, nil, "create in Docker appnet 10.85.0.0/16 fd00:85::/64"},
		{"the mesh's is internal", []api.Network{appnet(func(n *api.Network) { n.Internal = true })}, []engineNetwork{inDocker()},
			"replace in Docker appnet id1 10.85.0.0/16 fd00:85::/64"},
		{"Docker has a new one, with a subnet that Docker chose", nil, []engineNetwork{inDocker(byHand)}, "create in mesh appnet id2"},
		{"Docker has a new one, with a subnet that was asked for", nil, []engineNetwork{inDocker(byHand, explicit)}, "create in mesh appnet id2 10.5.0.0/16"},
		{"then it is made anew, with our IPAM", []api.Network{appnet()}, []engineNetwork{inDocker(byHand)},
			"replace in Docker appnet id2 10.85.0.0/16"},
		{"with our IPAM from the start", nil, []engineNetwork{inDocker(func(e *engineNetwork) { e.Ready = false })},
			"create in mesh appnet id1 10.85.0.0/16 fd00:85::/64"},
		{"which is right as it is", []api.Network{appnet()}, []engineNetwork{inDocker(func(e *engineNetwork) { e.Ready = false })}, "adopt appnet id1"},
		{"without IPv6 in Docker it is right too", []api.Network{appnet()}, []engineNetwork{inDocker(func(e *engineNetwork) {
			e.IPv6, e.Subnets = false, e.Subnets[:1]
		})}, ""},
		{"the mesh had it and has it no more", nil, []engineNetwork{inDocker()}, "remove from Docker appnet id1"},
		{"but there are containers on it", nil, []engineNetwork{inDocker(inUse)}, "create in mesh appnet id1 10.85.0.0/16 fd00:85::/64"},
		{"one that differs is in use", []api.Network{appnet()}, []engineNetwork{inDocker(byHand, inUse)},
			"report appnet id2: network appnet has the IPAM driver default in Docker on this host, which differs from the mesh: stop the containers on it; it is made anew then"},
		{"two of one name", []api.Network{appnet()}, []engineNetwork{inDocker(byHand), inDocker()}, "remove from Docker appnet id2"},
		{"another driver has the name", []api.Network{appnet()}, []engineNetwork{inDocker(func(e *engineNetwork) { e.Driver = "bridge" })},
			"report appnet: network appnet of the mesh cannot be used from Docker on this host, where a network of that name has the driver bridge: remove that (docker network rm appnet), or name another in the mesh"},
		{"other drivers are left alone", nil, []engineNetwork{{Name: "bridge", Driver: "bridge"}, {Name: "host", Driver: "host"}}, ""},
		{"a network that has grown", []api.Network{appnet(func(n *api.Network) { n.Subnets = append(n.Subnets, "10.99.0.0/16") })}, []engineNetwork{inDocker()}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, o := range planNetworks(test.mesh, test.engine) {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(test.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLabelsTravel: compose on another host refuses a network without them.
func TestLabelsTravel(t *testing.T) {
	labels := map[string]string{"com.docker.compose.network": "appnet"}
	ops := planNetworks([]api.Network{appnet(func(n *api.Network) { n.Labels = labels })}, nil)
	if diff := cmp.Diff(labels, ops[0].network.Labels); diff != "" {
		t.Error(diff)
	}
	many := map[string]string{"com.docker.compose.project": "shop", "bell": "\a"}
	for i := range 40 {
		many[fmt.Sprint("a", i)] = "x"
	}
	got := portable(many)
	if got["com.docker.compose.project"] != "shop" || got["bell"] != "" || len(got) != 32 {
		t.Errorf("of many labels these go into the mesh: %v", got)
	}
}

// TestReplacedKeepsItsLabels: compose looks at them.
func TestReplacedKeepsItsLabels(t *testing.T) {
	labels := map[string]string{"com.docker.compose.network": "appnet"}
	ops := planNetworks([]api.Network{appnet()}, []engineNetwork{inDocker(byHand, func(e *engineNetwork) { e.Labels = labels })})
	if diff := cmp.Diff(labels, ops[len(ops)-1].network.Labels); diff != "" {
		t.Error(diff)
	}
}
