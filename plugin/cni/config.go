package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meshd/meshd/api"
)

// config is one call's configuration.
type config struct {
	types.PluginConf
	network string // of meshd
	socket  string // of the daemon
	service string
	publish []api.Publish
	name    string // of the endpoint
}

// rawConfig is what a container is to be: what the configuration list says for all
// containers, and the engine for this one.
type rawConfig struct {
	Service string   `json:"service"`
	Publish []string `json:"publish"` // [HOST_PORT:]PORT[/tcp|udp]
	Runtime struct {
		Aliases      aliases       `json:"aliases"`
		PortMappings []portMapping `json:"portMappings"`
		IPs          []string      `json:"ips"`
		MAC          string        `json:"mac"`
	} `json:"runtimeConfig"`
}

// aliases are a container's further names by network configuration (Podman), or under "" those
// on the network that the call is about (CNI's conventions).
type aliases map[string][]string

func (a *aliases) UnmarshalJSON(text []byte) error {
	var list []string
	if err := json.Unmarshal(text, &list); err == nil {
		*a = aliases{"": list}
		return nil
	}
	return json.Unmarshal(text, (*map[string][]string)(a))
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// callArgs is what runtimes pass in CNI_ARGS. Keys that are not here are theirs.
type callArgs struct {
	types.CommonArgs
	K8S_POD_NAME  types.UnmarshallableString //nolint:revive // the key's own name
	MESHD_NAME    types.UnmarshallableString //nolint:revive
	MESHD_SERVICE types.UnmarshallableString //nolint:revive
	IP            types.UnmarshallableString
	MAC           types.UnmarshallableString
}

// DefaultSocket is where the daemon listens unless the configuration or MESHD_SOCKET says
// otherwise.
const DefaultSocket = "/run/meshd/meshd.sock"

// parse reads what each call needs of its configuration: a container must be removable also
// when what it asked for is not understood any more.
func parse(call *skel.CmdArgs) (*config, error) {
	raw := struct {
		types.PluginConf
		Network string `json:"network"`
		Socket  string `json:"socket"`
	}{}
	if err := json.Unmarshal(call.StdinData, &raw); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration is not understood: "+err.Error(), "")
	}
	if err := version.ParsePrevResult(&raw.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the previous result is not understood: "+err.Error(), "")
	}
	return &config{
		PluginConf: raw.PluginConf,
		network:    first(raw.Network, raw.Name),
		socket:     first(raw.Socket, os.Getenv("MESHD_SOCKET"), DefaultSocket),
	}, nil
}

// parseAdd reads all that a container is to be.
func parseAdd(call *skel.CmdArgs) (*config, error) {
	c, err := parse(call)
	if err != nil {
		return nil, err
	}
	var raw rawConfig
	if err := json.Unmarshal(call.StdinData, &raw); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration is not understood: "+err.Error(), "")
	}
	args, err := parseArgs(call.Args)
	if err != nil {
		return nil, err
	}
	if len(raw.Runtime.IPs) > 0 || args.IP != "" {
		return nil, unsupported("an address cannot be asked for: meshd chooses it; leave the address out (--ip)")
	}
	if raw.Runtime.MAC != "" || args.MAC != "" {
		return nil, unsupported("a MAC address cannot be asked for: meshd chooses it; leave it out (--mac-address)")
	}
	c.service = first(string(args.MESHD_SERVICE), raw.Service)
	c.name = first(string(args.MESHD_NAME), string(args.K8S_POD_NAME), short(call.ContainerID))
	if err := c.addAliases(raw.Runtime.Aliases[c.Name], call.ContainerID); err != nil {
		return nil, err
	}
	if err := c.addAliases(raw.Runtime.Aliases[""], call.ContainerID); err != nil {
		return nil, err
	}
	return c, c.addPorts(raw)
}

func parseArgs(text string) (callArgs, error) {
	var known []string
	for _, pair := range strings.Split(text, ";") {
		key, _, _ := strings.Cut(pair, "=")
		if slices.Contains([]string{"K8S_POD_NAME", "MESHD_NAME", "MESHD_SERVICE", "IP", "MAC"}, key) {
			known = append(known, pair)
		}
	}
	var args callArgs
	if err := types.LoadArgs(strings.Join(known, ";"), &args); err != nil {
		return args, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS are not understood: "+err.Error(), "")
	}
	return args, nil
}

// addAliases makes the alias that a container was given its service: a name that several
// containers may share. Podman adds the start of the container's id, which is no alias.
func (c *config) addAliases(names []string, containerID string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(a string) bool {
		return a == "" || a == c.name || strings.HasPrefix(containerID, a)
	})
	slices.Sort(names)
	names = slices.Compact(names)
	switch len(names) {
	case 0:
	case 1:
		c.service = names[0]
	default:
		return unsupported(fmt.Sprintf("%d aliases (%s): a container has one beside its name, which is its service; leave the others out",
			len(names), strings.Join(names, ", ")))
	}
	return nil
}

func (c *config) addPorts(raw rawConfig) error {
	for _, spec := range raw.Publish {
		ports, err := api.ParsePublish(spec)
		if err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, "publish "+err.Error(), "")
		}
		c.publish = append(c.publish, ports...)
	}
	for _, m := range raw.Runtime.PortMappings {
		if ip, err := netip.ParseAddr(m.HostIP); m.HostIP != "" && (err != nil || !ip.IsUnspecified()) {
			return unsupported(fmt.Sprintf("port %d on address %s: a port is published on all addresses of every host; leave the address out", m.HostPort, m.HostIP))
		}
		ports, err := api.ParsePublish(fmt.Sprintf("%d:%d/%s", m.HostPort, m.ContainerPort, first(strings.ToLower(m.Protocol), "tcp")))
		if err != nil {
			return unsupported(fmt.Sprintf("port mapping %d:%d/%s: ports are 1 to 65535, the protocol tcp or udp", m.HostPort, m.ContainerPort, m.Protocol))
		}
		c.publish = append(c.publish, ports...)
	}
	return nil
}

func unsupported(message string) error {
	return types.NewError(types.ErrUnsupportedField, message, "")
}

// short is the part of a container's id that engines show, without what some put in front of
// it (nerdctl its namespace).
func short(id string) string {
	id = id[strings.LastIndex(id, "-")+1:]
	return id[:min(12, len(id))]
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
