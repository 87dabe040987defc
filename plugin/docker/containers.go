package docker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/meshd/meshd/catalog"
)

// Labels of containers.
const (
	// LabelService names the service that the container is a replica of.
	LabelService = "meshd.service"
	// LabelPublish says where the container's ports are published: on every host of the mesh
	// ("mesh", which is the default), or on its own ("host").
	LabelPublish = "meshd.publish"

	labelComposeService = "com.docker.compose.service"
)

// guest is what the Engine says of a container.
type guest struct {
	ID       string
	Name     string
	Labels   map[string]string
	Networks map[string][]string // the names of networks that it is on, or will be → its aliases there
	Ports    []uint16            // of the host, that it publishes; sorted
	Signal   string              // that asks it to stop

	Running  bool
	Paused   bool
	Checked  bool   // it has a HEALTHCHECK
	Fitness  string // by that: starting, healthy, unhealthy
	Stopping bool   // it was asked to stop

	learned bool   // all of the above is known, not only name and labels
	changes uint64 // counts what events said
}

func describeGuest(c container.InspectResponse) guest {
	g := guest{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Networks: map[string][]string{}, learned: true}
	if c.Config != nil {
		g.Labels, g.Signal = c.Config.Labels, c.Config.StopSignal
		check := c.Config.Healthcheck
		g.Checked = check != nil && len(check.Test) > 0 && check.Test[0] != "NONE"
	}
	if c.State != nil {
		g.Running, g.Paused = c.State.Running, c.State.Paused
		if c.State.Health != nil {
			g.Checked, g.Fitness = c.State.Health.Status != container.NoHealthcheck, string(c.State.Health.Status)
		}
	}
	if c.NetworkSettings != nil {
		for name, settings := range c.NetworkSettings.Networks {
			g.Networks[name] = nil
			if settings != nil {
				g.Networks[name] = slices.Concat(settings.Aliases, settings.DNSNames)
			}
		}
	}
	if c.HostConfig != nil {
		if mode := string(c.HostConfig.NetworkMode); c.HostConfig.NetworkMode.IsUserDefined() && g.Networks[mode] == nil {
			g.Networks[mode] = nil
		}
		for _, bindings := range c.HostConfig.PortBindings {
			for _, b := range bindings {
				var port uint16
				if _, err := fmt.Sscan(b.HostPort, &port); err == nil {
					g.Ports = append(g.Ports, port)
				}
			}
		}
		slices.Sort(g.Ports)
	}
	return g
}

// identity is what a container is known by in the mesh.
type identity struct {
	Service  string
	HostOnly bool
}

// identify reads a container's labels. The service is what the label says, else compose's
// service, else the container's name.
func (g guest) identify() (identity, error) {
	var id identity
	switch where := g.Labels[LabelPublish]; where {
	case "", "mesh":
	case "host":
		id.HostOnly = true
	default:
		return id, fmt.Errorf("label %s=%s is not understood: use %s=host to publish ports on this host alone, or leave it out to publish them on all", LabelPublish, where, LabelPublish)
	}
	if name, ok := g.Labels[LabelService]; ok {
		if err := catalog.CheckName("service", name); err != nil {
			return id, fmt.Errorf("label %s: %w", LabelService, err)
		}
		id.Service = name
		return id, nil
	}
	name := g.Labels[labelComposeService]
	if name == "" {
		name = g.Name
	}
	id.Service = serviceName(name)
	if err := catalog.CheckName("service", id.Service); err != nil {
		return id, fmt.Errorf("%w; or name one with the label %s", err, LabelService)
	}
	return id, nil
}

// serviceName makes one DNS label of a container's name.
func serviceName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '.':
			return '-'
		}
		return r
	}, name)
	return strings.Trim(name[:min(len(name), 63)], "-_")
}

// describe is what the mesh is told of a container with these endpoints, all of one namespace.
func (g guest) describe(endpoints []endpoint) (Description, error) {
	id, err := g.identify()
	if err != nil {
		return Description{}, err
	}
	d := Description{
		Key: endpoints[0].key(), Name: g.Name, Service: id.Service, HostOnly: id.HostOnly,
		Aliases: map[string][]string{}, Draining: g.Stopping || g.Paused,
	}
	d.Health, d.Reason = g.health()
	for _, e := range endpoints {
		d.Aliases[e.Network] = slices.Concat([]string{g.Name, fmt.Sprintf("%.12s", g.ID)}, g.Networks[e.Network])
		for _, p := range e.Publish {
			if !slices.Contains(d.Publish, p) {
				d.Publish = append(d.Publish, p)
			}
		}
	}
	return d, nil
}

// health decides on rotation: a container without a HEALTHCHECK is fit as soon as it runs.
func (g guest) health() (health, reason string) {
	switch {
	case !g.learned:
		return string(catalog.Starting), ""
	case !g.Running:
		return string(catalog.Starting), "it does not run"
	case !g.Checked:
		return string(catalog.Healthy), ""
	}
	switch g.Fitness {
	case string(container.Healthy):
		return string(catalog.Healthy), ""
	case string(container.Unhealthy):
		return string(catalog.Unhealthy), "its HEALTHCHECK fails"
	}
	return string(catalog.Starting), ""
}

// stops says whether a signal asks the container to stop, or ends it.
func (g guest) stops(signal string) bool {
	own := g.Signal
	if own == "" {
		own = "TERM"
	}
	n := signalNumber(signal)
	return n == signalNumber(own) || n == signalNumbers["KILL"]
}

// signalNumbers is the signals that images ask to be stopped with (signal(7)).
var signalNumbers = map[string]string{
	"HUP": "1", "INT": "2", "QUIT": "3", "KILL": "9", "USR1": "10", "USR2": "12", "TERM": "15", "WINCH": "28", "RTMIN+3": "37",
}

// signalNumber is the number of a signal that is written as one, or as a name.
func signalNumber(signal string) string {
	if n, ok := signalNumbers[strings.TrimPrefix(strings.ToUpper(signal), "SIG")]; ok {
		return n
	}
	return signal
}
