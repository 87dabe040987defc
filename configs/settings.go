package configs

import (
	"os"
	"strings"
)

// setting is one key: the one place that knows its default, what is allowed, and how
// the text that a person wrote becomes a typed value.
type setting struct {
	key      string
	def      []string // as a person would write it; nil: empty
	list     bool     // takes several values
	describe string   // for --help: lower case, no dot at the end
	set      func(c *Config, values []string) error
}

// settings are all keys in the order in which they are checked and shown.
func settings() []setting {
	return []setting{
		{key: "node.name", describe: "this host's name in the mesh (default: its hostname)", set: one(parseNodeName)},
		{key: "node.advertise", list: true, describe: "underlay addresses or names that others dial (default: found by itself)", set: parseAdvertise},
		{key: "state_dir", def: []string{"/var/lib/meshd"}, describe: "directory of identity, certificate and catalog",
			set: path(func(c *Config) *string { return &c.StateDir }, true)},
		{key: "runtime_dir", def: []string{"/run/meshd"}, describe: "directory of the socket and the network namespaces",
			set: path(func(c *Config) *string { return &c.RuntimeDir }, true)},
		{key: "wireguard.mode", def: []string{"auto"}, describe: "whose WireGuard: auto, kernel or userspace",
			set: choice(func(c *Config, m Mode) { c.WireGuard.Mode = m }, ModeAuto, ModeKernel, ModeUserspace)},
		{key: "wireguard.listen_port", def: []string{"51820"}, describe: "UDP port of WireGuard", set: one(parseListenPort)},
		{key: "join.listen", def: []string{":7946"}, describe: "TCP address and port at which new hosts join", set: one(parseJoinListen)},
		{key: "join.addresses", list: true, describe: "members to join through at start", set: parseJoinAddresses},
		{key: "join.token_file", describe: "file that holds the token to join with at start",
			set: path(func(c *Config) *string { return &c.Join.TokenFile }, false)},
		{key: "address_pools", list: true, def: []string{"10.64.0.0/10"}, describe: "CIDRs that overlay networks are cut from", set: parsePools},
		{key: "network_prefix", def: []string{"16"}, describe: "prefix length of an overlay network's IPv4 subnet", set: one(parseNetworkPrefix)},
		{key: "gateway.subnet", list: true, def: []string{"198.19.0.0/16", "fd6d:6573:6864::/64"},
			describe: "CIDRs of the gateway bridge, one IPv4 and at most one IPv6", set: parseGateway},
		{key: "dns.domain", def: []string{"mesh.internal"}, describe: "domain of the mesh's names", set: one(parseDomain)},
		{key: "dns.upstreams", list: true, describe: "resolvers for all other names (default: those of the host's resolv.conf)", set: parseUpstreams},
		{key: "docker.enabled", def: []string{"auto"}, describe: "serve Docker on this host: auto, true or false",
			set: choice(func(c *Config, s Switch) { c.Docker = s }, Auto, On, Off)},
		{key: "metrics.listen", def: []string{"127.0.0.1:9586"}, describe: "TCP address and port of Prometheus metrics, or off", set: one(parseMetricsListen)},
		{key: "log.level", def: []string{"info"}, describe: "least level that is logged: debug, info, warn or error", set: one(parseLogLevel)},
		{key: "log.format", def: []string{"text"}, describe: "shape of log lines: text or json",
			set: choice(func(c *Config, f Format) { c.Log.Format = f }, FormatText, FormatJSON)},
	}
}

// flag is the key's flag of `meshd agent`, without dashes.
func (s setting) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.key) }

// env is the key's environment variable.
func (s setting) env() string {
	return "MESHD_" + strings.ToUpper(strings.NewReplacer(".", "_").Replace(s.key))
}

// Default is the configuration of a host without a configuration file.
func Default() Config {
	var c Config
	for _, s := range settings() {
		if len(s.def) == 0 {
			continue
		}
		if err := s.set(&c, s.def); err != nil {
			panic("default of " + s.key + ": " + err.Error()) // a test parses all of them
		}
	}
	c.Node.Name = hostLabel()
	return c
}

// hostLabel is the first label of the host's name, or "host" if that cannot be one in a
// mesh: a bad hostname must not keep a daemon from starting that nobody configured.
func hostLabel() string {
	host, err := os.Hostname()
	if err != nil {
		return "host"
	}
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	if checkLabel(label) != nil {
		return "host"
	}
	return label
}
