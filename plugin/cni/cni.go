// Package cni puts the containers of engines that speak CNI (Podman, containerd, Nomad,
// CRI-O) on meshd's networks. The plugin is a program that the engine runs for each change;
// it asks the daemon of its host, and keeps nothing itself.
//
// The spec is https://www.cni.dev/docs/spec/, versions 0.3.1 to 1.1.0.
package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/internal/netns"
)

// Daemon is what the plugin asks of the daemon.
type Daemon interface {
	Attach(ctx context.Context, req api.AttachRequest) (api.Attached, error)
	DetachKey(ctx context.Context, req api.DetachRequest) error
	Endpoints(ctx context.Context) ([]api.Endpoint, error)
	Network(ctx context.Context, name string) (api.NetworkDetail, error)
}

// Plugin answers calls.
type Plugin struct {
	Stdout  io.Writer
	Connect func(socket string) Daemon
	// Observe looks for interfaces in a container's namespace.
	Observe func(namespace string, names ...string) (map[string]Interface, error)
	// Gone says whether there is no namespace at a path any more.
	Gone func(namespace string) bool
}

// New makes a plugin that works on this host.
func New(stdout io.Writer) *Plugin {
	return &Plugin{
		Stdout:  stdout,
		Connect: func(socket string) Daemon { return api.NewClient(socket) },
		Observe: Observe,
		Gone: func(namespace string) bool {
			h, err := netns.Open(namespace)
			if err == nil {
				_ = h.Close() // only looked for
			}
			return errors.Is(err, netns.ErrNotExist)
		},
	}
}

// Versions are those of the spec that the plugin speaks.
var Versions = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// Functions are the calls, for skel.
func (p *Plugin) Functions() skel.CNIFuncs {
	return skel.CNIFuncs{Add: p.Add, Del: p.Del, Check: p.Check, GC: p.GC, Status: p.Status}
}

// An engine waits for the plugin, and gives up only after minutes.
const (
	addTimeout = 60 * time.Second // the agreement on a block of addresses may take 20 s
	timeout    = 15 * time.Second
)

// key is what the daemon knows a container's endpoint by: one for all its networks.
func key(containerID string) string { return "cni/" + containerID }

// Add puts a container on the network. Asked again, it answers what is there.
func (p *Plugin) Add(call *skel.CmdArgs) error {
	c, err := parseAdd(call)
	if err != nil {
		return err
	}
	namespace, err := filepath.Abs(call.Netns) // the daemon has another working directory
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), addTimeout)
	defer cancel()
	attached, err := p.Connect(c.socket).Attach(ctx, api.AttachRequest{
		NetNS: namespace, Networks: []string{c.network}, Name: c.name, Service: c.service, Publish: c.publish,
		Key: key(call.ContainerID), Interface: call.IfName, Owner: c.Name,
	})
	if err != nil {
		return explain(err)
	}
	have, err := p.Observe(namespace, call.IfName, gatewayInterface)
	if err != nil {
		return err
	}
	result, err := c.result(call, attached, have)
	if err != nil {
		return err
	}
	versioned, err := result.GetAsVersion(c.CNIVersion)
	if err != nil {
		return types.NewError(types.ErrIncompatibleCNIVersion, err.Error(), "")
	}
	return versioned.PrintTo(p.Stdout)
}

// Del takes a container off the network. It is no error if it is not there. Without a
// daemon, a container whose namespace has gone is done: the next daemon sees that itself.
func (p *Plugin) Del(call *skel.CmdArgs) error {
	c, err := parse(call)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err = p.Connect(c.socket).DetachKey(ctx, api.DetachRequest{Key: key(call.ContainerID), Network: c.network})
	switch code(err) {
	case api.CodeNotFound, api.CodeNoMesh:
		return nil
	case api.CodeUnavailable:
		if call.Netns == "" || p.Gone(call.Netns) {
			return nil
		}
	}
	return explain(err)
}

// Check fails if a container is not on the network as Add said.
func (p *Plugin) Check(call *skel.CmdArgs) error {
	c, err := parse(call)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	endpoints, err := p.Connect(c.socket).Endpoints(ctx)
	if err != nil {
		return explain(err)
	}
	for _, e := range endpoints {
		if e.Key == key(call.ContainerID) && e.Network == c.network {
			return p.check(c, call, e)
		}
	}
	return types.NewError(types.ErrUnknownContainer, fmt.Sprintf(
		"container %s is not on network %s: restart the container", short(call.ContainerID), c.network), "")
}

// Status fails if no container could be put on the network now.
func (p *Plugin) Status(call *skel.CmdArgs) error {
	c, err := parse(call)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if _, err := p.Connect(c.socket).Network(ctx, c.network); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}

// GC takes off the network all containers that this configuration put there and that the
// engine does not know any more.
func (p *Plugin) GC(call *skel.CmdArgs) error {
	c, err := parse(call)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	daemon := p.Connect(c.socket)
	endpoints, err := daemon.Endpoints(ctx)
	if err != nil {
		return explain(err)
	}
	valid := make(map[types.GCAttachment]bool)
	for _, a := range c.ValidAttachments {
		valid[types.GCAttachment{ContainerID: key(a.ContainerID), IfName: a.IfName}] = true
	}
	var errs []error
	for _, e := range endpoints {
		if e.Key == "" || e.Owner != c.Name || valid[types.GCAttachment{ContainerID: e.Key, IfName: e.Interface}] {
			continue
		}
		err := daemon.DetachKey(ctx, api.DetachRequest{Key: e.Key, Network: e.Network})
		if err != nil && code(err) != api.CodeNotFound {
			errs = append(errs, err)
		}
	}
	return explain(errors.Join(errs...))
}

func code(err error) api.Code {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// explain makes an error of the daemon's one of CNI's, which says whether to try again.
func explain(err error) error {
	if err == nil {
		return nil
	}
	number := types.ErrInternal
	switch code(err) {
	case api.CodeUnavailable, api.CodeNoMesh:
		number = types.ErrTryAgainLater
	case api.CodeInvalid, api.CodeNotFound, api.CodeConflict:
		number = types.ErrInvalidNetworkConfig
	}
	return types.NewError(number, err.Error(), "")
}
