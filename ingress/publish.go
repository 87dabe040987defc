package ingress

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
	"golang.org/x/sys/unix"
)

// A publisher makes published ports answer. A connection's way is
//
//	client ── host: nftables DNAT ── meshd-in ── ingress network ── replica
//
// and its answers come back by meshd-in.
type publisher struct {
	log     *slog.Logger
	changes *journal.Journal
	table   translated    // the host's
	last    Publish       // as the last Apply left it; its ports are those that no process has
	rules   [2]*hostRules // IPv4, IPv6; nil until needed
	keeper  *portKeeper
	removed bool       // nothing of it is on the host
	stale   flowFilter // flows that the last Apply has left without a replica; nil: there are none to look for
}

func (p *publisher) apply(want Publish) error {
	if want.Interface == "" {
		return p.remove()
	}
	if err := want.check(); err != nil {
		return err
	}
	p.removed = false
	if err := p.table.open(netns.Host); err != nil {
		return err
	}
	// The way first: what is translated must have one. A missing IPv6 must not cost IPv4.
	if err := p.ensureWay(want.Interface, want.Subnets); err != nil {
		return err
	}
	return errors.Join(p.applyRules(want.Interface), p.applyTable(want))
}

// check refuses what no kernel could be made equal to.
func (w Publish) check() error {
	if err := link.ValidName(w.Interface); err != nil {
		return fmt.Errorf("interface: %w", err)
	}
	if len(w.Subnets) == 0 {
		return errors.New("the ingress network has no subnet")
	}
	for _, subnet := range w.Subnets {
		if !subnet.IsValid() {
			return errors.New("a subnet of the ingress network is none")
		}
	}
	for _, port := range w.Ports {
		if protocols[port.Protocol] == 0 || port.Published == 0 {
			return fmt.Errorf("port %d/%s: a published port is 1 to 65535, of tcp or udp", port.Published, port.Protocol)
		}
	}
	return nil
}

// applyTable makes the host translate published ports, but for those that a process has.
func (p *publisher) applyTable(want Publish) error {
	want.Ports = portKind.sorted(p.keeper.keep(want.Ports))
	last := p.last
	ops, full, err := p.table.apply(tables{
		full: func() table { return compilePublish(want, want.Ports) },
		step: func() (table, table) {
			old, new := portKind.changed(last.Ports, want.Ports)
			return compilePublish(want, new), compilePublish(last, old)
		},
	})
	logOps(p.log, p.changes, ops)
	if err != nil {
		return err
	}
	p.last = want
	p.stale = throughHost(want.Subnets, staleIn(portBalancer, portKind.touched(last.Ports, want.Ports, full && len(ops) > 0)))
	return nil
}

// throughHost takes of the stale flows those that are ours: translated to the ingress network, or datagrams that passed
// by a port before it was published. It leaves alone what somebody else translates, and the host's own connections to
// the same port elsewhere.
func throughHost(subnets []netip.Prefix, stale flowFilter) flowFilter {
	if stale == nil {
		return nil
	}
	return func(f flow) bool {
		if f.server.Addr() == f.replica.Addr() { // untranslated
			return f.protocol == unix.IPPROTO_UDP && f.client.Addr() == f.back.Addr() && stale(f)
		}
		ours := slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(f.replica.Addr()) })
		return ours && stale(f)
	}
}

// forgetStale ends what goes through the host to replicas that have gone.
func (p *publisher) forgetStale() error {
	if p.stale == nil {
		return nil
	}
	stale := p.stale
	p.stale = nil
	remote, err := forget(nil, stale)
	errs := []error{err}
	for _, f := range remote {
		errs = append(errs, poke(f))
	}
	return errors.Join(errs...)
}

// applyRules lets published ports through the host's firewall.
func (p *publisher) applyRules(name string) error {
	var errs []error
	for _, ipv6 := range families() {
		rules, err := p.hostRules(ipv6)
		if err == nil {
			err = rules.apply(wantedHostRules(name))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// families is the address families that the host has.
func families() []bool {
	if !link.HasIPv6() {
		return []bool{false}
	}
	return []bool{false, true}
}

// remove takes everything away that makes ports answer here.
func (p *publisher) remove() error {
	p.keeper.keep(nil)
	if p.removed {
		return nil
	}
	errs := []error{p.table.open(netns.Host), p.table.remove(), p.removeWay()}
	p.last = Publish{}
	for _, ipv6 := range families() {
		rules, err := p.hostRules(ipv6)
		if errors.Is(err, errNoIPTables) {
			continue // then it never made any rule
		}
		if err == nil {
			err = rules.apply(nil)
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	p.removed = err == nil
	return err
}

func index(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}
