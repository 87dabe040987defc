package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/meshd/meshd/api"
)

// What libnetwork says and hears (moby's daemon/libnetwork/drivers/remote/api and ipams/remote/api).
// Fields that nothing here needs are left out.

const (
	contentType = "application/vnd.docker.plugins.v1.1+json"
	maxRequest  = 1 << 20 // bytes

	labelGeneric     = "com.docker.network.generic"
	labelPortMap     = "com.docker.network.portmap"
	labelMAC         = "com.docker.network.endpoint.macaddress"
	labelAddressType = "RequestAddressType"
	gatewayAddress   = "com.docker.network.gateway"
)

// refused is the answer to what cannot be done. Network drivers say Err and IPAM drivers say Error.
type refused struct {
	Err   string
	Error string
}

type ipamData struct {
	AddressSpace string
	Pool         string
	Gateway      string
}

type createNetworkRequest struct {
	NetworkID string
	Options   map[string]json.RawMessage
	IPv4Data  []ipamData
	IPv6Data  []ipamData
}

type networkRequest struct{ NetworkID string }

type endpointInterface struct {
	Address     string `json:",omitempty"`
	AddressIPv6 string `json:",omitempty"`
	MacAddress  string `json:",omitempty"`
}

type createEndpointRequest struct {
	NetworkID  string
	EndpointID string
	Interface  *endpointInterface
	Options    map[string]json.RawMessage
}

type createEndpointResponse struct{ Interface *endpointInterface }

type endpointRequest struct {
	NetworkID  string
	EndpointID string
}

type joinRequest struct {
	NetworkID  string
	EndpointID string
	SandboxKey string
	Options    map[string]json.RawMessage
}

// joinResponse names no interface: ours is made by the daemon, in the container's namespace. It
// has a way out of its own, so Docker's gateway bridge is not wanted.
type joinResponse struct{ DisableGatewayService bool }

type requestPoolRequest struct {
	AddressSpace string
	Pool         string
	SubPool      string
	Options      map[string]string
	V6           bool
}

type requestPoolResponse struct {
	PoolID string
	Pool   string
}

type releasePoolRequest struct{ PoolID string }

type requestAddressRequest struct {
	PoolID  string
	Address string
	Options map[string]string
}

type requestAddressResponse struct{ Address string }

type releaseAddressRequest struct {
	PoolID  string
	Address string
}

// checkOptions refuses options of -o, of which there are none. Those of Docker's own name are for its drivers.
func checkOptions(options map[string]json.RawMessage) error {
	var generic map[string]any
	if raw, ok := options[labelGeneric]; ok {
		if err := json.Unmarshal(raw, &generic); err != nil {
			return fmt.Errorf("the Engine's options of a network are not understood: %w", err)
		}
	}
	for _, key := range sortedKeys(generic) {
		if !strings.HasPrefix(key, "com.docker.") {
			return fmt.Errorf("option %s is not known: networks of meshd's have no options; leave it out", key)
		}
	}
	return nil
}

// portBinding is a port of -p (libnetwork's types.PortBinding).
type portBinding struct {
	Proto    int // IP protocol number
	Port     uint16
	HostIP   net.IP
	HostPort uint16
}

// publishOf reads the ports that a container publishes from an endpoint's options.
func publishOf(options map[string]json.RawMessage) ([]api.Publish, error) {
	raw, ok := options[labelPortMap]
	if !ok {
		return nil, nil
	}
	var bindings []portBinding
	if err := json.Unmarshal(raw, &bindings); err != nil {
		return nil, fmt.Errorf("the Engine's list of published ports is not understood: %w", err)
	}
	var out []api.Publish
	for _, b := range bindings {
		p, err := b.publish()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (b portBinding) publish() (api.Publish, error) {
	protocol, ok := map[int]string{6: "tcp", 17: "udp"}[b.Proto] // IANA's protocol numbers
	switch {
	case !ok:
		return api.Publish{}, fmt.Errorf("port %d: protocol %d cannot be published: use tcp or udp", b.Port, b.Proto)
	case b.HostPort == 0:
		return api.Publish{}, fmt.Errorf("port %d/%s is published without a port of the host's: name one that is the same on all hosts, as in -p 8080:%d", b.Port, protocol, b.Port)
	case len(b.HostIP) > 0 && !b.HostIP.IsUnspecified():
		return api.Publish{}, fmt.Errorf("port %d/%s is published on %s alone: leave the address out (-p %d:%d), and use the label %s=host to keep the port to this host",
			b.HostPort, protocol, b.HostIP, b.HostPort, b.Port, LabelPublish)
	}
	return api.Publish{Published: b.HostPort, Target: b.Port, Protocol: protocol}, nil
}

// address reads an address with or without a prefix length; the zero Addr stands for none.
func address(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the Engine's address %q is not understood", text)
	}
	return a, nil
}

// decode reads one request, and nothing after it. No body stands for the zero request.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxRequest))
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("the Engine's request is not understood: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the Engine's request is not understood: there is more than one JSON value in it")
	}
	return nil
}
