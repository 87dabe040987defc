package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/portuse"
	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/probe"
)

// fix has everything made as it should be now.
func (s *session) fix(ctx context.Context) []api.Check {
	before, _ := s.loop.repairs.Told()
	_ = s.loop.Look(ctx) // what fails is in the checks
	after, last := s.loop.repairs.Told()
	count := 0
	for part, n := range after {
		count += n - before[part]
	}
	if count == 0 {
		return nil
	}
	return []api.Check{{Name: "repairs", State: checkOK, Fixed: true, Detail: fmt.Sprintf("%d changes that somebody else had undone, last: %s", count, last.what)}}
}

// examine checks a host that belongs to a mesh.
func (s *session) examine(ctx context.Context) []api.Check {
	var checks []api.Check
	if string(s.parts.wireguard.Mode()) == "userspace" {
		checks = append(checks, warning("wireguard", "a process does its work, which costs several times more than the kernel's: load the module wireguard, or use a kernel that has it, then restart the agent"))
	} else {
		checks = append(checks, ok("wireguard", "the kernel's"))
	}
	failing := s.loop.Failing()
	for name, err := range failing {
		checks = append(checks, problem(name, "%v", err))
	}
	view := s.store.View()
	checks = append(checks, s.checkForwarding(), s.checkAddresses(view), s.checkState(), s.checkMTU(view))
	checks = append(checks, s.checkFirewall(ctx)...)
	return append(checks, s.checkPeers(ctx, view)...)
}

func (s *session) checkState() api.Check {
	switch {
	case s.store.DiskError() != nil:
		return problem("state", "it is kept in memory only: %v: make room in %s", s.store.DiskError(), s.cfg.StateDir)
	case s.store.ClockError() != nil:
		return problem("state", "what another host says is not taken: %v: set the clocks, best with NTP", s.store.ClockError())
	}
	return ok("state", "kept in %s", s.cfg.StateDir)
}

func (s *session) checkForwarding() api.Check {
	host, err := link.Current()
	if err != nil {
		return problem("forwarding", "%v", err)
	}
	defer host.Close()
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		value, err := host.Sysctl(key)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil || value != "1" {
			return problem("forwarding", "sysctl net/%s is %q, so that endpoints have no way out and published ports do not answer: something sets it again and again; look in /etc/sysctl.d (%v)", key, value, err)
		}
	}
	return ok("forwarding", "on")
}

// checkAddresses looks for networks that this host reaches otherwise.
func (s *session) checkAddresses(view *catalog.View) api.Check {
	if err := gateway.CheckSubnets(GatewayBridge, s.cfg.Gateway.Subnets); err != nil {
		return problem("addresses", "%v", err)
	}
	routes, err := gateway.HostRoutes(GatewayBridge, hostInterface)
	if err != nil {
		return problem("addresses", "%v", err)
	}
	for _, n := range view.Networks {
		for _, subnet := range append(n.Space.Subnets(), n.Subnet6) {
			for _, route := range routes {
				if route.Overlaps(subnet) {
					return warning("addresses", "network %s has %s, and this host reaches %s otherwise: endpoints on it cannot reach that; make a network with another --subnet", n.Name, subnet, route)
				}
			}
		}
	}
	return ok("addresses", "no network overlaps with what this host reaches")
}

func (s *session) checkMTU(view *catalog.View) api.Check {
	narrowest, widest := catalog.Member{}, 0
	for _, m := range view.Members {
		if present(m) && m.MTU > 0 {
			widest = max(widest, m.MTU)
			if narrowest.MTU == 0 || m.MTU < narrowest.MTU {
				narrowest = m
			}
		}
	}
	if narrowest.MTU < minTunnelMTU {
		return warning("mtu", "the underlay of host %s carries tunnels of %d bytes only: what is larger is cut into fragments, which is slow; raise the MTU of its interface", narrowest.Name, narrowest.MTU)
	}
	if widest-narrowest.MTU > 100 {
		return warning("mtu", "overlay networks have %d bytes because host %s's underlay carries no more, others' carries %d more: raise the MTU of its interface", OverlayMTU(view), narrowest.Name, widest-narrowest.MTU)
	}
	return ok("mtu", "%d bytes on overlay networks", OverlayMTU(view))
}

// checkClock asks the kernel whether something keeps the clock right.
func checkClock() api.Check {
	var state unix.Timex
	if code, err := unix.Adjtimex(&state); err == nil && code != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0 {
		return ok("clock", "synchronised")
	}
	return warning("clock", "nothing keeps it right: the mesh tolerates that, but tokens expire by it, and logs are hard to compare; start an NTP client (timedatectl set-ntp true)")
}

func portHolder(protocol string, port uint16) (string, bool) {
	holder, taken := portuse.Find(protocol, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	return holder.String(), taken
}

// opening is a port of this host that others must be able to reach.
type opening struct {
	protocol string
	port     uint16
	why      string
}

func (s *session) openings() []opening {
	list := []opening{{"udp", s.cfg.WireGuard.ListenPort, "all traffic between hosts"}}
	if at, err := netip.ParseAddrPort(s.cfg.Join.Listen); err == nil {
		list = append(list, opening{"tcp", at.Port(), "how hosts join"})
	} else if _, port, found := strings.Cut(s.cfg.Join.Listen, ":"); found {
		var n uint16
		if _, err := fmt.Sscan(port, &n); err == nil {
			list = append(list, opening{"tcp", n, "how hosts join"})
		}
	}
	return list
}

// closed returns those of the openings that this host's firewall does not let in. The error says that it
// could not be tried.
func (s *session) closed(ctx context.Context) ([]opening, error) {
	address := netip.Addr{}
	for _, candidate := range s.store.Own().Candidates {
		if candidate.Addr().Is4() || !address.IsValid() {
			address = candidate.Addr()
		}
	}
	if !address.IsValid() {
		return nil, errors.New("this host has no address that others could reach")
	}
	s.trying.Lock()
	defer s.trying.Unlock()
	visitor, err := ingress.Visit(visitorNamespace(s.cfg))
	if err != nil {
		return nil, err
	}
	var out []opening
	for _, o := range s.openings() {
		open, err := visitor.Admits(ctx, o.protocol, netip.AddrPortFrom(address, o.port))
		if err != nil {
			return nil, err
		}
		if !open {
			out = append(out, o)
		}
	}
	return out, nil
}

func (s *session) checkFirewall(ctx context.Context) []api.Check {
	closed, err := s.closed(ctx)
	if err != nil {
		return []api.Check{warning("firewall", "it could not be tried: %v", err)}
	}
	var checks []api.Check
	for _, o := range closed {
		checks = append(checks, warning(fmt.Sprintf("firewall: %d/%s", o.port, o.protocol), "%s", o.advice()))
	}
	if len(checks) == 0 {
		return []api.Check{ok("firewall", "lets in what others send to the mesh's own ports")}
	}
	return checks
}

// advice says what is wrong with a port that is closed, and how to open it with the firewall that this host has.
func (o opening) advice() string {
	return fmt.Sprintf("this host's firewall does not let in %d/%s, %s: %s", o.port, o.protocol, o.why, o.command())
}

func (o opening) command() string {
	rules, _ := exec.Command("iptables-save").Output() // then it is neither
	tables, _ := exec.Command("nft", "list", "tables").Output()
	switch {
	case strings.Contains(string(rules), ":ufw-user-input"):
		return fmt.Sprintf("ufw allow %d/%s", o.port, o.protocol)
	case strings.Contains(string(tables), " firewalld"), strings.Contains(string(rules), ":IN_public"):
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/%s && firewall-cmd --reload", o.port, o.protocol)
	}
	return fmt.Sprintf("let it in, such as with iptables -I INPUT -p %s --dport %d -j ACCEPT, in what sets your rules at boot", o.protocol, o.port)
}

// watchFirewall keeps in mind whether the firewall shuts the mesh's own ports.
func (s *session) watchFirewall(ctx context.Context) error {
	ticker := time.NewTicker(firewallLook)
	defer ticker.Stop()
	for {
		closed, err := s.closed(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Debug("the firewall could not be tried", "err", err)
		}
		s.mu.Lock()
		s.shut = closed
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

const firewallLook = 15 * time.Second

// checkPeers tries the way to every other host, with small packets and with the largest that should pass.
func (s *session) checkPeers(ctx context.Context, view *catalog.View) []api.Check {
	self := catalog.MeshAddress(s.store.mesh, s.store.self)
	statuses := make(map[catalog.NodeID]membership.Status)
	for _, m := range s.membership.Members() {
		statuses[m.ID] = m.Status
	}
	own := s.store.Own().MTU
	var mu sync.Mutex // guards checks
	var checks []api.Check
	var trying sync.WaitGroup
	for _, m := range view.Members {
		if m.ID == s.store.self || !present(m) {
			continue
		}
		trying.Go(func() {
			c := s.checkPeer(ctx, self, m, min(own, m.MTU))
			mu.Lock()
			defer mu.Unlock()
			checks = append(checks, c)
		})
	}
	trying.Wait()
	return checks
}

func (s *session) checkPeer(ctx context.Context, self netip.Addr, m catalog.Member, mtu int) api.Check {
	name := "path to " + m.Name
	rtt, err := probe.Path(ctx, meshNamespace(s.cfg), self, m.Address, minMTU/2)
	if err != nil {
		return problem(name, "no answer through the tunnel (%v): see whether it is up, and whether UDP reaches %s; meshd doctor there says whether its firewall is the reason", err, candidateText(m))
	}
	if _, err := probe.Path(ctx, meshNamespace(s.cfg), self, m.Address, mtu); err != nil {
		return problem(name, "small packets pass and those of %d bytes do not (%v): the underlay between the hosts carries less than its interfaces say; lower their MTU, then restart the agent", mtu, err)
	}
	return ok(name, "%s, %d bytes", rtt.Round(10*time.Microsecond), mtu)
}
