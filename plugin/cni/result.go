package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/internal/link"
)

// result is Add's answer: what is in the namespace, after what plugins before this one said.
func (c *config) result(call *skel.CmdArgs, attached api.Attached, have map[string]Interface) (*current.Result, error) {
	out := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	if c.PrevResult != nil {
		previous, err := current.NewResultFromResult(c.PrevResult)
		if err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "the previous result is not understood: "+err.Error(), "")
		}
		out = previous
	}
	if _, ok := have[call.IfName]; !ok {
		return nil, types.NewError(types.ErrInternal, fmt.Sprintf("interface %s is not in %s: see meshd status", call.IfName, call.Netns), "")
	}
	for _, name := range []string{call.IfName, gatewayInterface} {
		if i, ok := have[name]; ok {
			add(out, call.Netns, name, i)
		}
	}
	out.DNS = types.DNS{Nameservers: []string{attached.Nameserver}, Search: attached.Search}
	return out, nil
}

// add tells of an interface. Only the way out has a next hop.
func add(out *current.Result, namespace, name string, i Interface) {
	index := len(out.Interfaces)
	out.Interfaces = append(out.Interfaces, &current.Interface{Name: name, Mac: i.MAC, Mtu: i.MTU, Sandbox: namespace})
	for _, a := range i.Addresses {
		out.IPs = append(out.IPs, &current.IPConfig{Interface: &index, Address: *link.IPNet(a), Gateway: nextHop(i, a)})
	}
	for _, r := range i.Routes {
		out.Routes = append(out.Routes, &types.Route{Dst: *link.IPNet(r.To), GW: net.IP(r.Via.AsSlice())})
	}
}

func nextHop(i Interface, a netip.Prefix) net.IP {
	for _, r := range i.Routes {
		if a.Contains(r.Via) {
			return net.IP(r.Via.AsSlice())
		}
	}
	return nil
}

// check compares what is in the namespace with what the daemon and Add's result say.
func (p *Plugin) check(c *config, call *skel.CmdArgs, e api.Endpoint) error {
	broken := func(format string, args ...any) error {
		return types.NewError(types.ErrInternal, fmt.Sprintf(format, args...)+": see meshd status, or restart the container", "")
	}
	if e.Interface != call.IfName {
		return broken("container %s is on network %s with interface %s, not %s", short(call.ContainerID), c.network, e.Interface, call.IfName)
	}
	have, err := p.Observe(call.Netns, call.IfName)
	if err != nil {
		return err
	}
	i, ok := have[call.IfName]
	if !ok {
		return broken("interface %s is not there", call.IfName)
	}
	if i.MAC != e.MAC {
		return broken("interface %s has MAC %s, not %s", call.IfName, i.MAC, e.MAC)
	}
	for _, want := range []string{e.IP, e.IP6} {
		if want != "" && !slices.ContainsFunc(i.Addresses, func(a netip.Prefix) bool { return a.Addr().String() == want }) {
			return broken("interface %s lacks its address %s", call.IfName, want)
		}
	}
	return c.checkPrevious(call, i, broken)
}

// checkPrevious wants those addresses that Add told.
func (c *config) checkPrevious(call *skel.CmdArgs, i Interface, broken func(string, ...any) error) error {
	if c.PrevResult == nil {
		return nil
	}
	previous, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "the previous result is not understood: "+err.Error(), "")
	}
	for _, ip := range previous.IPs {
		if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(previous.Interfaces) || previous.Interfaces[*ip.Interface].Name != call.IfName {
			continue
		}
		if !slices.Contains(i.Addresses, link.Prefix(&ip.Address)) {
			return broken("interface %s lacks the address %s that the container was started with", call.IfName, ip.Address.String())
		}
	}
	return nil
}
