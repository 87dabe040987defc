package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// Options is what a Manager needs.
type Options struct {
	MeshNamespace string           // path of the mesh namespace
	Logger        *slog.Logger     // nil: slog.Default()
	Changes       *journal.Journal // takes down what Apply changes; nil: nobody reads it
}

// Manager makes the kernel equal to a Config. It keeps no state but what it read: the kernel is
// the truth, so a new Manager goes on where another ended.
type Manager struct {
	path    string
	log     *slog.Logger
	changes *journal.Journal
	known   reading // of one Apply at a time
}

// New returns a Manager for one mesh namespace, which need not exist yet.
func New(o Options) *Manager {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Manager{path: o.MeshNamespace, log: o.Logger.With("part", "overlay"), changes: o.Changes}
}

// Apply makes the overlay networks of this host be what cfg says, and removes
// whatever is there by our names and not in cfg. Applying the same Config again
// changes nothing. One failing network or endpoint does not stop the others; the
// errors come back joined. Only one Apply may run at a time.
//
// Without a mesh namespace the zero Config is applied already, and any other is
// an error (netns.ErrNotExist).
func (m *Manager) Apply(ctx context.Context, cfg Config) error {
	mesh, err := link.Open(m.path)
	if errors.Is(err, netns.ErrNotExist) && len(cfg.Networks) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening mesh namespace: %w", err)
	}
	defer mesh.Close()
	mesh.Keep(m.changes)
	if err := m.prepare(mesh, cfg); err != nil {
		return fmt.Errorf("preparing mesh namespace: %w", err)
	}
	p := pass{log: m.log, changes: m.changes, mesh: mesh, local: cfg.Local, known: &m.known}
	if p.links, err = mesh.Links(); err != nil {
		return err
	}
	if p.ports, err = mesh.Ports(); err != nil {
		return err
	}
	errs := []error{p.sweep(cfg)}
	var want []entry
	for _, network := range cfg.Networks {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		entries, err := p.network(network)
		if err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", network.Name, err))
		}
		want = append(want, entries...)
	}
	errs = append(errs, p.entries(want))
	return errors.Join(errs...)
}

// Close ends watching the kernel's tables. What is there stays.
func (m *Manager) Close() { m.known.stop() }

// prepare keeps the mesh namespace's own IP stack out of the networks: it forwards
// nothing between them, no firewall sees bridged frames, and an endpoint cannot reach
// the mesh's own sockets by a frame to the bridge's MAC.
func (m *Manager) prepare(mesh *link.Namespace, cfg Config) error {
	if len(cfg.Networks) == 0 {
		return removeGuard(mesh)
	}
	if err := mesh.EnsureSysctls(
		link.Sysctl{Key: "ipv4/ip_forward", Value: "0"}, // new namespaces inherit the host's 1
		link.Sysctl{Key: "ipv6/conf/all/forwarding", Value: "0"},
		link.Sysctl{Key: "bridge/bridge-nf-call-iptables", Value: "0"},
		link.Sysctl{Key: "bridge/bridge-nf-call-ip6tables", Value: "0"},
		link.Sysctl{Key: "bridge/bridge-nf-call-arptables", Value: "0"},
	); err != nil {
		return err
	}
	return ensureGuard(mesh, m.changes)
}

// sweep removes our interfaces that cfg does not have. It comes first: an
// interface that goes may hold the name that another endpoint's wants.
func (p *pass) sweep(cfg Config) error {
	wanted := make(map[string]bool)
	for _, n := range cfg.Networks {
		wanted[BridgeName(n.VNI)], wanted[VXLANName(n.VNI)] = true, true
		for _, port := range n.Ports {
			wanted[PortName(port.Endpoint, n.Name)] = true
		}
	}
	var stale []netlink.Link
	for name, l := range p.links {
		if isOurs(name) && !wanted[name] {
			stale = append(stale, l)
		}
	}
	// Ports before their bridge, so that nothing is flooded to half a network.
	slices.SortFunc(stale, func(a, b netlink.Link) int { return rank(a) - rank(b) })
	var errs []error
	for _, l := range stale {
		p.log.Info("removing interface", "name", l.Attrs().Name)
		errs = append(errs, p.mesh.Delete(l))
		delete(p.links, l.Attrs().Name)
	}
	return errors.Join(errs...)
}

func rank(l netlink.Link) int {
	if l.Type() == "bridge" {
		return 1
	}
	return 0
}
