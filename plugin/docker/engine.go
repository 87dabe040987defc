package docker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// engine is the Docker Engine as its clients see it. The version of its API is what both
// sides know.
type engine struct{ client *client.Client }

func newEngine(socket string) (*engine, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	c, err := client.New(client.WithHost("unix://"+socket), client.WithDialContext(dial))
	if err != nil {
		return nil, fmt.Errorf("making a client of Docker's: %w", err)
	}
	return &engine{c}, nil
}

// engineTimeout is for questions that the Engine answers from its memory.
const engineTimeout = 10 * time.Second

// connect returns the Engine's version once it answers.
func (e *engine) connect(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	if _, err := e.client.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return "", err
	}
	v, err := e.client.ServerVersion(ctx, client.ServerVersionOptions{})
	return v.Version, err
}

// events begins to listen to what happens to containers and networks, and hears what has happened since a time.
func (e *engine) events(ctx context.Context, since time.Time) client.EventsResult {
	return e.client.Events(ctx, client.EventsListOptions{
		Since: since.Format(time.RFC3339Nano), Filters: make(client.Filters).Add("type", "container", "network"),
	})
}

// networks lists the Engine's networks.
func (e *engine) networks(ctx context.Context) ([]engineNetwork, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	list, err := e.client.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing Docker's networks: %w", err)
	}
	var out []engineNetwork
	for _, n := range list.Items {
		out = append(out, describeNetwork(n.Network))
	}
	return out, nil
}

func describeNetwork(n network.Network) engineNetwork {
	out := engineNetwork{
		ID: n.ID, Name: n.Name, Driver: n.Driver, IPAM: n.IPAM.Driver, Internal: n.Internal, IPv6: n.EnableIPv6,
		Labels: n.Labels, Options: n.Options,
	}
	for _, c := range n.IPAM.Config {
		if !c.Subnet.IsValid() {
			continue
		}
		out.Subnets = append(out.Subnets, c.Subnet.Masked())
		// What Docker chose by itself is shown with its gateway.
		out.Asked = out.Asked || !c.Gateway.IsValid() || !dockersChoice(c.Subnet)
	}
	return out
}

// endpointsOn returns the endpoints of a network by container.
func (e *engine) endpointsOn(ctx context.Context, id string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	n, err := e.client.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("asking Docker for network %.12s: %w", id, err)
	}
	out := make(map[string]string)
	for container, r := range n.Network.Containers {
		out[container] = r.EndpointID
	}
	return out, nil
}

func (e *engine) removeNetwork(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	_, err := e.client.NetworkRemove(ctx, id, client.NetworkRemoveOptions{})
	return err
}

// createNetwork makes a network with our drivers.
func (e *engine) createNetwork(ctx context.Context, n engineNetwork) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	ipam := &network.IPAM{Driver: Driver, Options: map[string]string{optionNetwork: n.Name}}
	for _, s := range n.Subnets {
		ipam.Config = append(ipam.Config, network.IPAMConfig{Subnet: s})
	}
	made, err := e.client.NetworkCreate(ctx, n.Name, client.NetworkCreateOptions{
		Driver: Driver, IPAM: ipam, Internal: n.Internal, EnableIPv6: &n.IPv6, Labels: n.Labels, Options: n.Options,
	})
	return made.ID, err
}

// containers lists all containers, running or not.
func (e *engine) containers(ctx context.Context) ([]container.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	list, err := e.client.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("listing Docker's containers: %w", err)
	}
	return list.Items, nil
}

// inspectTimeout is how long a container may take to start: Docker 20.10 answers only then.
const inspectTimeout = 2 * time.Minute

func (e *engine) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	c, err := e.client.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	return c.Container, err
}

func (e *engine) start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	_, err := e.client.ContainerStart(ctx, id, client.ContainerStartOptions{})
	return err
}

// dockerPools is what Docker cuts a network's subnet from if none is named (its default-address-pools).
var dockerPools = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")}

// dockersChoice says whether a subnet may be one that nobody asked for.
func dockersChoice(subnet netip.Prefix) bool {
	for _, p := range dockerPools {
		if p.Contains(subnet.Addr()) && (subnet.Bits() == 16 || subnet.Bits() == 20) {
			return true
		}
	}
	return false
}
