package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/configs"
	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/plugin/docker"
)

// Where Docker has its sockets. Every host has a /run of its own.
const (
	dockerPlugin = "/run/docker/plugins/meshd.sock"
	dockerEngine = "/run/docker.sock"
)

// listenDocker has the plugin's socket answered, if Docker is to be served and is installed; else the listener is nil. It is called
// before systemd hears that the agent is up: Docker starts then, and would wait for the socket. The socket belongs to
// a process that outlives the agent; what is returned is where that one finds us.
func (a *Agent) listenDocker(ctx context.Context) (net.Listener, error) {
	socket := a.dockerSocket()
	if a.cfg.Docker == configs.Off {
		docker.EndStandIn(ctx, dockerPlugin, socket)
		return nil, nil
	}
	if a.cfg.Docker == configs.Auto && !dockerInstalled() {
		return nil, nil
	}
	listener, err := api.Listen(socket)
	if err != nil {
		return nil, err
	}
	err = docker.EnsureStandIn(ctx, dockerPlugin, socket, a.version, a.log)
	if err == nil {
		return listener, nil
	}
	err = errors.Join(err, listener.Close())
	if a.cfg.Docker == configs.Auto {
		a.log.Info("Docker is not served; set docker.enabled to false if it need not be", "err", err)
		return nil, nil
	}
	return nil, err
}

// serveDocker serves the Docker Engine of this host, member or not: without a mesh it says what is missing. Where Docker is
// not installed yet it waits for that.
func (a *Agent) serveDocker(ctx context.Context, listener net.Listener) error {
	for listener == nil {
		if a.cfg.Docker == configs.Off {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Second):
		}
		var err error
		if listener, err = a.listenDocker(ctx); err != nil {
			return err
		}
	}
	defer func() { _ = listener.Close() }() // closed already if it was served
	plugin, err := docker.New(docker.Options{
		Mesh: dockerMesh{a}, StatePath: filepath.Join(a.cfg.StateDir, "docker"), Engine: dockerEngine, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.docker = plugin
	a.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return plugin.Run(ctx, listener) })
	group.Go(func() error { return a.keepStandIn(ctx) })
	return group.Wait()
}

// dockerSocket is where the process that Docker speaks to finds the agent.
func (a *Agent) dockerSocket() string { return filepath.Join(a.cfg.RuntimeDir, "docker.sock") }

// keepStandIn starts the process that answers Docker again when it has ended.
func (a *Agent) keepStandIn(ctx context.Context) error {
	told := ""
	return every(ctx, 2*time.Second, func() {
		if err := docker.EnsureStandIn(ctx, dockerPlugin, a.dockerSocket(), a.version, a.log); err == nil {
			told = ""
		} else if ctx.Err() == nil && told != err.Error() {
			told = err.Error()
			a.log.Warn("Docker gets no answers", "err", err)
		}
	})
}

func dockerInstalled() bool {
	if _, err := exec.LookPath("dockerd"); err == nil {
		return true
	}
	_, err := os.Stat(dockerEngine)
	return err == nil
}

func (a *Agent) dockerStatus() api.DockerStatus {
	a.mu.Lock()
	plugin := a.docker
	a.mu.Unlock()
	if plugin == nil {
		return api.DockerStatus{State: "off", Problems: []string{}}
	}
	return plugin.Status()
}

// dockerMesh is the agent as the Docker plugin sees it.
type dockerMesh struct{ *Agent }

var _ docker.Mesh = dockerMesh{}

// FreeSubnets returns subnets that a new network could have.
func (m dockerMesh) FreeSubnets(ctx context.Context) ([]netip.Prefix, error) {
	return inMesh(ctx, m.Agent, func(_ context.Context, s *session) ([]netip.Prefix, error) {
		record, err := s.proposeNetwork(newEndpointID(), nil)
		return []netip.Prefix{record.Subnet4, record.Subnet6}, err
	})
}

// CheckSubnets says why a new network could not have these subnets.
func (m dockerMesh) CheckSubnets(ctx context.Context, subnets []netip.Prefix) error {
	return tellMesh(ctx, m.Agent, func(_ context.Context, s *session) error {
		name := newEndpointID() // any that is free
		_, err := s.proposeNetwork(name, subnets)
		if err == nil {
			return nil
		}
		var own *api.Error
		if !errors.As(err, &own) {
			return err
		}
		return &api.Error{Code: own.Code, Message: strings.TrimPrefix(own.Message, "network "+name+": ")}
	})
}

// proposeNetwork makes the record of a network that nobody makes.
func (s *session) proposeNetwork(name string, subnets []netip.Prefix) (catalog.NetworkRecord, error) {
	routes, err := gateway.HostRoutes()
	if err != nil {
		return catalog.NetworkRecord{}, err
	}
	var texts []string
	for _, p := range subnets {
		texts = append(texts, p.String())
	}
	asked, err := parseSubnets(texts, routes, s.store.View())
	if err != nil {
		return catalog.NetworkRecord{}, err
	}
	record, err := s.store.View().ProposeNetwork(catalog.NetworkRequest{
		Name: name, Subnets: asked, Avoid: append(routes, routesOf(s.store.View())...), Pools: s.cfg.AddressPools, PrefixLen: s.cfg.NetworkPrefix, Now: now(),
	})
	var own *api.Error
	if err != nil && !errors.As(err, &own) {
		err = refusal(err)
	}
	return record, err
}

// Describe makes an endpoint be what its engine says of it.
func (m dockerMesh) Describe(ctx context.Context, d docker.Description) error {
	return tellMesh(ctx, m.Agent, func(ctx context.Context, s *session) error { return s.Describe(ctx, d) })
}

// CheckPublish says why a service could not publish ports.
func (m dockerMesh) CheckPublish(ctx context.Context, network, service string, ports []api.Publish) error {
	return tellMesh(ctx, m.Agent, func(_ context.Context, s *session) error { return s.CheckPublish(network, service, ports) })
}

// Prepare has this host be able to give out addresses of a network.
func (m dockerMesh) Prepare(ctx context.Context, network string) error {
	return tellMesh(ctx, m.Agent, func(ctx context.Context, s *session) error {
		return s.addresses.Allocate(ctx, network, func(uint32) error { return nil })
	})
}

// Reserve promises an address to an endpoint to come.
func (m dockerMesh) Reserve(ctx context.Context, network string, want netip.Addr) (docker.Address, error) {
	return inMesh(ctx, m.Agent, func(ctx context.Context, s *session) (docker.Address, error) { return s.Reserve(ctx, network, want) })
}

// Release takes Reserve back.
func (m dockerMesh) Release(ctx context.Context, network string, address netip.Addr) error {
	return tellMesh(ctx, m.Agent, func(_ context.Context, s *session) error {
		s.Release(network, address)
		return nil
	})
}
