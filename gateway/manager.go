package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"

	"github.com/vishvananda/netlink"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
)

// Options is what a Manager needs.
type Options struct {
	StatePath string           // file that remembers which sysctls were changed; in runtime_dir, as they do not outlive a boot
	Logger    *slog.Logger     // nil: slog.Default()
	Changes   *journal.Journal // takes down what Apply changes; nil: nobody reads it
}

// Manager makes the kernel equal to a Config. All that it remembers are the
// sysctls that it changed, in a file.
type Manager struct {
	log      *slog.Logger
	changes  *journal.Journal
	settings settings
	firewall firewall
	toldIPv6 bool // that IPv6 is left out was said
}

// New returns a Manager.
func New(o Options) *Manager {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	log := o.Logger.With("part", "gateway")
	return &Manager{log: log, changes: o.Changes, settings: settings{path: o.StatePath}, firewall: firewall{log: log, changes: o.Changes}}
}

// ErrNoIPTables is returned when there is no iptables program.
var ErrNoIPTables = errors.New("the program iptables is missing, without which nothing is masqueraded: apt-get install iptables")

// alias marks our bridge in the kernel, so that it is found whatever its name.
const alias = "meshd gateway"

// metric leaves an endpoint the default routes that it has elsewhere: a container on a bridge of
// its engine goes out there, as it would without us. It also keeps the two from colliding.
const metric = 2048

var portNames = regexp.MustCompile(`^mg[0-9a-f]{12}$`)

// Apply makes the gateway be what cfg says, in the namespace of the calling
// thread. Applying the same Config again changes nothing. The zero Config removes
// everything and restores the sysctls that were changed. One failing endpoint does
// not stop the others; the errors come back joined. Only one Apply may run at a time.
func (m *Manager) Apply(ctx context.Context, cfg Config) error {
	host, err := link.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	host.Keep(m.changes)
	if cfg.Bridge == "" {
		return m.remove(ctx, host)
	}
	if err := cfg.check(); err != nil {
		return err
	}
	if why := m.noIPv6(host); why != "" {
		if !m.toldIPv6 {
			m.log.Warn("the gateway carries IPv4 only", "why", why)
		}
		m.toldIPv6 = true
		cfg = cfg.onlyIPv4()
	}
	// The firewall comes before the forwarding, so that there is no moment in which
	// endpoints reach each other.
	if err := m.firewall.apply(ctx, chains(cfg)); err != nil {
		return err
	}
	if err := m.settings.ensure(host, cfg); err != nil {
		return err
	}
	links, err := host.Links()
	if err != nil {
		return err
	}
	errs := []error{m.sweep(host, links, cfg)}
	bridge, err := m.bridge(host, links[cfg.Bridge], cfg)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	ports, err := host.Ports()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, port := range cfg.Ports {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := m.attach(host, bridge, ports, cfg, port); err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", port.Endpoint, err))
		}
	}
	return errors.Join(errs...)
}

func (c Config) check() error {
	if err := link.ValidName(c.Bridge); err != nil {
		return err
	}
	for _, p := range c.Ports {
		if !portNames.MatchString(portName(p)) {
			return fmt.Errorf("endpoint id %q: it must be 12 hex digits", p.Endpoint)
		}
		if err := link.ValidName(p.Interface); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) onlyIPv4() Config {
	v4 := c
	v4.Subnets, v4.Ports = nil, nil
	for _, s := range c.Subnets {
		if s.Addr().Is4() {
			v4.Subnets = append(v4.Subnets, s)
		}
	}
	for _, p := range c.Ports {
		addresses := p.Addresses
		p.Addresses = nil
		for _, a := range addresses {
			if a.Is4() {
				p.Addresses = append(p.Addresses, a)
			}
		}
		v4.Ports = append(v4.Ports, p)
	}
	return v4
}

// noIPv6 says why the gateway cannot carry IPv6; it is empty if it can.
func (m *Manager) noIPv6(host *link.Namespace) string {
	off, err := host.Sysctl("ipv6/conf/all/disable_ipv6")
	switch {
	case err != nil:
		return "this kernel has no IPv6"
	case off != "0":
		return "IPv6 is switched off on this host (sysctl net.ipv6.conf.all.disable_ipv6)"
	case !m.firewall.hasIPv6():
		return "the program ip6tables is missing (apt-get install iptables)"
	}
	return ""
}

// remove withdraws everything that is ours.
func (m *Manager) remove(ctx context.Context, host *link.Namespace) error {
	links, err := host.Links()
	if err != nil {
		return err
	}
	return errors.Join(
		m.sweep(host, links, Config{}),
		m.settings.restore(host),
		m.firewall.remove(ctx))
}

// sweep removes our interfaces that cfg does not have.
func (m *Manager) sweep(host *link.Namespace, links map[string]netlink.Link, cfg Config) error {
	wanted := map[string]bool{cfg.Bridge: true}
	for _, p := range cfg.Ports {
		wanted[portName(p)] = true
	}
	var errs []error
	for name, l := range links {
		ours := l.Type() == "veth" && portNames.MatchString(name) || l.Type() == "bridge" && l.Attrs().Alias == alias
		if !ours || wanted[name] {
			continue
		}
		m.log.Info("removing interface", "name", name)
		errs = append(errs, host.Delete(l))
	}
	return errors.Join(errs...)
}

func (m *Manager) bridge(host *link.Namespace, have netlink.Link, cfg Config) (netlink.Link, error) {
	if have != nil && have.Type() != "bridge" {
		return nil, fmt.Errorf("interface %s: %w: it is a %s and not ours; rename or delete it", cfg.Bridge, link.ErrTaken, have.Type())
	}
	// A fixed MAC: with one that changes with the ports, or with a bridge made anew,
	// endpoints would go on sending to the old one.
	bridge, err := host.EnsureBridge(have, link.Bridge{Name: cfg.Bridge, MTU: cfg.MTU, MAC: makeMAC("bridge " + cfg.Bridge)})
	if err != nil {
		return nil, err
	}
	if bridge.Attrs().Alias != alias {
		if err := host.Netlink().LinkSetAlias(bridge, alias); err != nil {
			return nil, fmt.Errorf("marking %s as ours: %w", cfg.Bridge, err)
		}
	}
	if err := host.EnsureSysctls(
		link.Sysctl{Key: "ipv6/conf/" + cfg.Bridge + "/accept_ra", Value: "0"},
		link.Sysctl{Key: "ipv6/conf/" + cfg.Bridge + "/accept_dad", Value: "0"},
	); err != nil {
		return nil, err
	}
	if err := host.EnsureUp(bridge); err != nil {
		return nil, err
	}
	var addresses []netip.Prefix
	for _, s := range cfg.Subnets {
		addresses = append(addresses, netip.PrefixFrom(first(s), s.Bits()))
	}
	return bridge, host.EnsureAddresses(bridge, addresses)
}

// attach makes an endpoint's way out: its interface and its default routes.
func (m *Manager) attach(host *link.Namespace, bridge netlink.Link, ports map[int]link.PortState, cfg Config, p Port) error {
	inner, err := link.Open(p.Namespace)
	if err != nil {
		return err
	}
	defer inner.Close()
	inner.Keep(m.changes)
	veth := link.Veth{
		Outer:  portName(p),
		Master: bridge,
		Inner:  p.Interface,
		MAC:    makeMAC("endpoint " + p.Endpoint),
		MTU:    cfg.MTU,
	}
	var routes []link.Route
	for _, s := range cfg.Subnets {
		for _, a := range p.Addresses {
			if s.Contains(a) {
				veth.Addresses = append(veth.Addresses, netip.PrefixFrom(a, s.Bits()))
				routes = append(routes, link.Route{To: everything(a), Via: first(s), Metric: metric})
			}
		}
	}
	pair, err := host.EnsureVeth(inner, veth, func(outer netlink.Link) error {
		return host.EnsurePort(outer, ports[outer.Attrs().Index], link.PortFlags{Learning: true, Isolated: true})
	})
	if err != nil {
		return err
	}
	return inner.EnsureRoutes(pair.Inner, routes)
}

func portName(p Port) string { return "mg" + p.Endpoint }

// first is the first address of a subnet after its own: the bridge's.
func first(s netip.Prefix) netip.Addr { return s.Masked().Addr().Next() }

func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// makeMAC makes a locally administered unicast MAC that is always the same for
// the same seed.
func makeMAC(seed string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("meshd gateway " + seed))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}
