package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// registerEndpoint checks a request and keeps what it asks for, one at a time, so that
// no two get one name or one way out.
func (s *session) registerEndpoint(req api.AttachRequest) (Local, error) {
	s.registering.Lock()
	defer s.registering.Unlock()
	local, source, err := s.admitEndpoint(req)
	if err != nil {
		return Local{}, err
	}
	if err := netns.Bind(source, local.Namespace); err != nil {
		return Local{}, err
	}
	if err := s.locals.Put(local); err != nil {
		return Local{}, errors.Join(err, netns.Delete(local.Namespace))
	}
	return local, nil
}

// admitEndpoint checks a request and makes the endpoint it asks for, without
// addresses. It also returns the path of the namespace.
func (s *session) admitEndpoint(req api.AttachRequest) (Local, string, error) {
	local := Local{Endpoint: catalog.Endpoint{
		ID: newEndpointID(), Name: req.Name, Service: req.Service, Created: now(), Health: catalog.Starting,
	}}
	if local.Name == "" {
		local.Name = local.ID
	}
	if len(req.Publish) > 0 && local.Service == "" {
		local.Service = local.Name // published ports belong to a service
	}
	local.Namespace = filepath.Join(s.cfg.RuntimeDir, "endpoints", local.ID)
	for what, name := range map[string]string{"endpoint": local.Name, "service": local.Service} {
		if name == "" {
			continue
		}
		if err := catalog.CheckName(what, name); err != nil {
			return Local{}, "", invalid("%v", err)
		}
	}
	var err error
	if local.Check, err = checkOf(req); err != nil {
		return Local{}, "", err
	}
	source, err := s.namespaceOf(req, &local)
	if err != nil {
		return Local{}, "", err
	}
	if err := s.chooseNetworks(req, &local); err != nil {
		return Local{}, "", err
	}
	if err := s.chooseInterfaces(req, &local, source); err != nil {
		return Local{}, "", err
	}
	if err := s.choosePublish(req, &local); err != nil {
		return Local{}, "", err
	}
	return local, source, nil
}

// namespaceOf finds the namespace that a request means: it must be one that is on no
// network of ours yet, and not the host's own.
func (s *session) namespaceOf(req api.AttachRequest, local *Local) (string, error) {
	source := req.NetNS
	switch {
	case req.PID != 0 && req.NetNS != "":
		return "", invalid("both a process and a namespace are given: give one of them")
	case req.PID != 0:
		process, err := findProcess(req.PID)
		if err != nil {
			return "", &api.Error{Code: api.CodeNotFound, Message: err.Error() + ": give the ID of a running process"}
		}
		local.Process = process
		source = fmt.Sprintf("/proc/%d/ns/net", req.PID)
	case req.NetNS == "":
		return "", invalid("no namespace: give --netns PATH or --pid PID")
	}
	if err := s.checkNamespace(source); err != nil {
		return "", err
	}
	return source, nil
}

func (s *session) checkNamespace(source string) error {
	own, err := netns.Same(source, netns.Host)
	if errors.Is(err, netns.ErrNotExist) {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("%s is no network namespace: see ip netns list, or give --pid", source)}
	}
	if err != nil {
		return err
	}
	if own {
		return invalid("%s is the host's own network namespace: attach a namespace of its own, or use meshd run", source)
	}
	if same, err := netns.Same(source, meshNamespace(s.cfg)); err == nil && same {
		return invalid("%s is a namespace of meshd itself: attach one of your own, or use meshd run", source)
	}
	for _, l := range s.locals.All() {
		if same, err := netns.Same(source, l.Namespace); err == nil && same {
			return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
				"this namespace is attached already, as %s: detach it first, and name all its networks at once", l.ID)}
		}
	}
	return nil
}

func (s *session) chooseNetworks(req api.AttachRequest, local *Local) error {
	if len(req.Networks) == 0 {
		return invalid("no network: give --network NAME; see meshd network ls")
	}
	view := s.store.View()
	internal := true
	var subnets []catalog.Network
	for _, a := range local.Attachments {
		if n, ok := view.Network(a.Network); ok && a.Network != catalog.IngressNetwork {
			subnets = append(subnets, n)
		}
	}
	for _, name := range req.Networks {
		n, ok := view.Network(name)
		if !ok || name == catalog.IngressNetwork {
			return noNetwork(view, name)
		}
		if local.on(name) {
			return invalid("network %s is given twice", name)
		}
		for _, other := range subnets {
			if shared, ok := sharedSubnet(other, n); ok {
				return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"networks %s and %s both use %s: one endpoint cannot be on both", other.Name, name, shared)}
			}
		}
		for _, e := range n.Endpoints {
			if e.Name == local.Name {
				return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"network %s has an endpoint named %s, on %s: choose another --name", name, e.Name, nodeName(view, e.Node))}
			}
		}
		for _, l := range s.locals.All() { // also those that are on their way
			if l.Name == local.Name && l.on(name) && !l.Infrastructure {
				return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
					"network %s has an endpoint named %s, on this host: choose another --name", name, l.Name)}
			}
		}
		subnets = append(subnets, n)
		internal = internal && n.Internal
		mac := req.MAC
		if mac == "" {
			mac = link.RandomMAC()
		}
		local.Attachments = append(local.Attachments, catalog.Attachment{Network: name, MAC: mac})
		if err := local.ask(n, req.IP); err != nil {
			return err
		}
	}
	local.Told = req.Starting
	if !internal && local.GatewayIndex == 0 {
		index, ok := s.locals.FreeGatewayIndex(gatewayLimit(s.cfg.Gateway.Subnets))
		if !ok {
			return &api.Error{Code: api.CodeUnavailable, Message: "the gateway's subnet is full: set a larger gateway.subnet"}
		}
		local.GatewayIndex = index
	}
	return nil
}

// gatewayLimit is the first offset that one of the gateway's subnets has no address for.
func gatewayLimit(subnets []netip.Prefix) uint32 {
	bits := 24
	for _, s := range subnets {
		bits = min(bits, s.Addr().BitLen()-s.Bits())
	}
	return 1<<bits - 1
}

func invalid(format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

func noNetwork(view *catalog.View, name string) error {
	var have []string
	for _, n := range view.Networks {
		if n.Name != catalog.IngressNetwork {
			have = append(have, n.Name)
		}
	}
	hint := "make it with meshd network create " + name
	if len(have) > 0 {
		hint += ", or use one of: " + strings.Join(have, ", ")
	}
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no network %q: %s", name, hint)}
}

// sharedSubnet returns a subnet of n that overlaps one of other's.
func sharedSubnet(other, n catalog.Network) (netip.Prefix, bool) {
	for _, p := range append(n.Space.Subnets(), n.Subnet6) {
		if other.Subnet6.Overlaps(p) || slices.ContainsFunc(other.Space.Subnets(), p.Overlaps) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}
