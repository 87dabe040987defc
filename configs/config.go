package configs

import (
	"log/slog"
	"net/netip"
	"path/filepath"
)

// DefaultPath is where the configuration file is, unless --config names another.
const DefaultPath = "/etc/meshd/meshd.yaml"

// DefaultSocket is where the local API is with the default runtime_dir.
const DefaultSocket = "/run/meshd/meshd.sock"

// Config is the daemon's configuration: typed, checked, and with every default filled in.
// It is a value: nothing in it changes after it was parsed.
type Config struct {
	Node          Node
	StateDir      string // absolute; identity, certificate, members, catalog
	RuntimeDir    string // absolute; socket and namespaces
	WireGuard     WireGuard
	Join          Join
	AddressPools  []netip.Prefix // masked, none overlaps another; at least one is IPv4
	NetworkPrefix int            // bits of an IPv4 network's subnet, 8 to 29
	Gateway       Gateway
	DNS           DNS
	Docker        Switch
	Metrics       Metrics
	Log           Log
}

// Node is how this host presents itself.
type Node struct {
	Name      string   // a DNS label; the host's name by default
	Advertise []string // HOST or HOST:PORT that others dial; empty: found by itself
}

// WireGuard is the tunnel between the hosts.
type WireGuard struct {
	Mode       Mode
	ListenPort uint16 // UDP, 1 to 65535
}

// Mode says whose WireGuard is used.
type Mode string

// The kernel's WireGuard, wireguard-go in a process of its own, or whichever there is.
const (
	ModeAuto      Mode = "auto"
	ModeKernel    Mode = "kernel"
	ModeUserspace Mode = "userspace"
)

// Join is the door through which hosts come in, and the one this host goes through by itself.
type Join struct {
	Listen    string   // [ADDRESS]:PORT, TCP, for net.Listen
	Addresses []string // HOST or HOST:PORT of members; empty: `meshd join` is awaited
	TokenFile string   // absolute path of a file that holds a token; empty: none
}

// Gateway is the endpoints' way out of this host.
type Gateway struct {
	Subnets []netip.Prefix // masked: one IPv4, then at most one IPv6
}

// DNS is the names of the mesh.
type DNS struct {
	Domain    string           // without dots at its ends
	Upstreams []netip.AddrPort // empty: those of the host's resolv.conf
}

// Switch turns a part on, off, or on if what it needs is there.
type Switch string

// The values of a Switch.
const (
	Auto Switch = "auto"
	On   Switch = "true"
	Off  Switch = "false"
)

// Metrics is the Prometheus endpoint.
type Metrics struct {
	Listen string // ADDRESS:PORT, TCP, for net.Listen; empty: none
}

// Log is what is written to standard error.
type Log struct {
	Level  slog.Level
	Format Format
}

// Format is the shape of log lines.
type Format string

// The values of a Format.
const (
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Socket is the path of the local API's socket.
func (c Config) Socket() string { return filepath.Join(c.RuntimeDir, "meshd.sock") }
