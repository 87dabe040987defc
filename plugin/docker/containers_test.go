package docker

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
)

func TestIdentify(t *testing.T) {
	for _, test := range []struct {
		name   string
		labels map[string]string
		want   identity
		says   string // in the error
	}{
		{"web", nil, identity{Service: "web"}, ""},
		{"My.Web_1", nil, identity{Service: "my-web_1"}, ""},
		{"_odd-", nil, identity{Service: "odd"}, ""},
		{"proj_web_1", map[string]string{"com.docker.compose.service": "web"}, identity{Service: "web"}, ""},
		{"proj_web_1", map[string]string{"com.docker.compose.service": "web", "meshd.service": "front"}, identity{Service: "front"}, ""},
		{"web", map[string]string{"meshd.publish": "host"}, identity{Service: "web", HostOnly: true}, ""},
		{"web", map[string]string{"meshd.publish": "mesh"}, identity{Service: "web"}, ""},
		{"web", map[string]string{"meshd.publish": "all"}, identity{}, "meshd.publish=all is not understood"},
		{"web", map[string]string{"meshd.service": "Web!"}, identity{}, `label meshd.service: service name "Web!" is not allowed: use a-z`},
		{"web", map[string]string{"meshd.service": ""}, identity{}, "label meshd.service: a service needs a name"},
	} {
		got, err := guest{Name: test.name, Labels: test.labels}.identify()
		if test.says != "" {
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s %v: error %v, want %q", test.name, test.labels, err, test.says)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%s %v: %+v, %v", test.name, test.labels, got, err)
		}
	}
}

// TestHealth is what decides whether a container gets connections.
func TestHealth(t *testing.T) {
	running := guest{learned: true, Running: true}
	with := func(edit func(*guest)) guest {
		g := running
		edit(&g)
		return g
	}
	for name, test := range map[string]struct {
		guest          guest
		health, reason string
		draining       bool
	}{
		"it runs":                       {running, "healthy", "", false},
		"nothing is known of it":        {guest{Running: true}, "starting", "", false},
		"it was made":                   {guest{learned: true}, "starting", "it does not run", false},
		"its HEALTHCHECK has not begun": {with(func(g *guest) { g.Checked = true }), "starting", "", false},
		"it starts":                     {with(func(g *guest) { g.Checked, g.Fitness = true, "starting" }), "starting", "", false},
		"it is well":                    {with(func(g *guest) { g.Checked, g.Fitness = true, "healthy" }), "healthy", "", false},
		"it is not":                     {with(func(g *guest) { g.Checked, g.Fitness = true, "unhealthy" }), "unhealthy", "its HEALTHCHECK fails", false},
		"it is paused":                  {with(func(g *guest) { g.Paused = true }), "healthy", "", true},
		"it was asked to stop":          {with(func(g *guest) { g.Stopping = true }), "healthy", "", true},
	} {
		d, err := test.guest.describe([]endpoint{{Sandbox: "/run/docker/netns/1", Network: "appnet"}})
		if err == nil {
			t.Errorf("%s: a container without a name was described: %+v", name, d)
		}
		test.guest.Name = "web"
		if d, err = test.guest.describe([]endpoint{{Sandbox: "/run/docker/netns/1", Network: "appnet"}}); err != nil {
			t.Fatal(err)
		}
		if d.Health != test.health || d.Reason != test.reason || d.Draining != test.draining {
			t.Errorf("%s: %q %q draining %t, want %q %q %t", name, d.Health, d.Reason, d.Draining, test.health, test.reason, test.draining)
		}
	}
}

func TestStops(t *testing.T) {
	for _, test := range []struct {
		own, signal string
		want        bool
	}{
		{"", "15", true}, {"", "9", true}, {"", "1", false}, {"", "SIGTERM", true}, {"", "10", false},
		{"SIGQUIT", "3", true}, {"SIGQUIT", "15", false}, {"SIGQUIT", "9", true}, {"SIGUSR1", "10", true}, {"3", "3", true},
		{"SIGRTMIN+3", "37", true}, {"SIGHUP", "1", true},
	} {
		if got := (guest{Signal: test.own}).stops(test.signal); got != test.want {
			t.Errorf("stopped by %q, got %s: %t", test.own, test.signal, got)
		}
	}
}

// TestDescribe has one container on two networks.
func TestDescribe(t *testing.T) {
	port := api.Publish{Published: 8080, Target: 80, Protocol: "tcp"}
	g := guest{
		ID: "0123456789abcdef", Name: "proj_web_1", learned: true, Running: true,
		Labels:   map[string]string{"com.docker.compose.service": "web"},
		Networks: map[string][]string{"appnet": {"web", "front"}, "backnet": {"web"}},
	}
	got, err := g.describe([]endpoint{
		{Sandbox: "/run/docker/netns/53dcd85be279", Network: "appnet", Publish: []api.Publish{port}},
		{Sandbox: "/run/docker/netns/53dcd85be279", Network: "backnet", Publish: []api.Publish{port}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Description{
		Key: "docker/53dcd85be279", Name: "proj_web_1", Service: "web", Health: "healthy", Publish: []api.Publish{port},
		Aliases: map[string][]string{
			"appnet":  {"proj_web_1", "0123456789ab", "web", "front"},
			"backnet": {"proj_web_1", "0123456789ab", "web"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
