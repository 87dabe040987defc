package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/wireguard"
)

// nearlyFull is the share of a network's addresses from which on status warns.
const nearlyFull = 0.8

// handshakeLife is how old a WireGuard handshake gets in use (REJECT_AFTER_TIME of the
// protocol): with an older one nothing passes.
const handshakeLife = 180 * time.Second

// Status is this host in plain words.
func (a *Agent) Status(ctx context.Context) (api.Status, error) {
	engine := a.dockerStatus()
	if s, err := a.member(); err == nil {
		status := s.status(ctx)
		status.Docker = engine
		for _, problem := range engine.Problems {
			status.Health = append(status.Health, "Docker: "+problem)
		}
		status.Healthy = len(status.Health) == 0
		return status, nil
	}
	a.mu.Lock()
	joining := a.joining
	a.mu.Unlock()
	status := api.Status{
		State: "idle", Healthy: true, Name: a.cfg.Node.Name, Version: a.version,
		Health: []string{}, Peers: []api.PeerStatus{}, Networks: []api.Network{}, Docker: engine,
	}
	switch {
	case joining:
		status.State = "joining"
	case a.remains():
		status.Healthy = false
		status.Health = []string{"this host belongs to no mesh, but what meshd made for one is still here: restore its state_dir, or remove the rest with meshd leave"}
	}
	return status, nil
}

func (s *session) status(context.Context) api.Status {
	view, own := s.store.View(), s.store.Own()
	status := api.Status{
		State: "member", Node: string(s.store.self), Name: own.Name, Mesh: string(s.store.mesh),
		Address: catalog.MeshAddress(s.store.mesh, s.store.self).String(), Version: s.version,
		WireGuard: string(s.parts.wireguard.Mode()), Networks: describeNetworks(view),
	}
	var problem string
	status.Peers, problem = s.peers(view)
	status.Health = s.problems(view)
	if status.Clock = s.clockProblem(view); status.Clock != "" {
		status.Health = append(status.Health, status.Clock)
	}
	if problem != "" {
		status.Health = append(status.Health, problem)
	}
	status.Healthy = len(status.Health) == 0
	status.Repairs = s.describeRepairs()
	return status
}

func (s *session) describeRepairs() api.Repairs {
	counts, last := s.loop.repairs.Told()
	out := api.Repairs{Counts: []api.RepairCount{}, Part: last.part, What: last.what}
	for _, part := range slices.Sorted(maps.Keys(counts)) {
		out.Counts = append(out.Counts, api.RepairCount{Part: part, Changes: counts[part]})
	}
	if !last.at.IsZero() {
		out.Last = last.at.UTC().Format(time.RFC3339)
	}
	return out
}

// problems is what is wrong, each ending in what to do.
func (s *session) problems(view *catalog.View) []string {
	out := []string{}
	failing := s.loop.Failing()
	parts := make([]string, 0, len(failing))
	for name := range failing {
		parts = append(parts, name)
	}
	sort.Strings(parts)
	for _, name := range parts {
		out = append(out, fmt.Sprintf("%s: %v: it is tried again all the time; the agent's log has more", name, failing[name]))
	}
	if err := cmp.Or(s.store.DiskError(), s.locals.DiskError()); err != nil {
		out = append(out, fmt.Sprintf("state is kept in memory only: %v: make room in %s", err, s.cfg.StateDir))
	}
	if err := s.store.ClockError(); err != nil {
		out = append(out, fmt.Sprintf("what another host says is not taken: %v; set the clocks, best with NTP (timedatectl)", err))
	}
	if s.store.Rival() {
		out = append(out, claims.ErrRival.Error())
	} else if n := s.store.Overtaken(); n > 3 {
		out = append(out, fmt.Sprintf("another host seems to run with a copy of this host's identity (its state was overwritten %d times): on the copy remove %s, and join again", n, s.cfg.StateDir))
	}
	if _, evicted := s.store.Standing(s.store.self); evicted {
		out = append(out, "this host was evicted from the mesh: meshd leave, then meshd join with a new token")
	}
	alive := s.aliveSet()
	if twin := namesake(view, s.store.self, alive); twin != "" {
		out = append(out, fmt.Sprintf("another host is called %s too (node %s): set node.name on one of the two and restart its agent, for commands and names cannot tell them apart",
			s.store.Own().Name, twin))
	}
	out = append(out, s.missing(view, alive)...)
	for _, p := range networkProblems(view) {
		out = append(out, p.text)
	}
	out = append(out, s.occupied(view)...)
	for _, svc := range view.Services {
		for _, p := range svc.Ports {
			if p.Conflict != "" {
				out = append(out, fmt.Sprintf("service %s.%s does not get port %d/%s, which %s has: publish another port",
					svc.Name, svc.Network, p.Published, p.Protocol, p.Conflict))
			}
		}
	}
	return out
}

// namesake is another host that is there and has this host's name; empty if none has.
func namesake(view *catalog.View, self catalog.NodeID, alive map[catalog.NodeID]bool) catalog.NodeID {
	own := nodeName(view, self)
	for _, m := range view.Members {
		if m.ID != self && present(m) && m.Name == own && (alive == nil || alive[m.ID]) {
			return m.ID
		}
	}
	return ""
}

// missing tells of hosts that do not answer, and whether this host's own firewall may be why.
func (s *session) missing(view *catalog.View, alive map[catalog.NodeID]bool) []string {
	var out []string
	for _, m := range view.Members {
		if alive != nil && present(m) && m.ID != s.store.self && !alive[m.ID] {
			out = append(out, fmt.Sprintf("host %s does not answer: see whether it is up, and whether UDP reaches %s; if it is gone for good: meshd evict %s",
				m.Name, candidateText(m), m.Name))
		}
	}
	if len(out) == 0 {
		return nil // of two hosts it is enough that one can call
	}
	s.mu.Lock()
	shut := s.shut
	s.mu.Unlock()
	for _, o := range shut {
		if o.protocol == "udp" {
			out = append(out, o.advice())
		}
	}
	return out
}

func candidateText(m catalog.Member) string {
	var out []string
	for _, c := range m.Candidates {
		out = append(out, c.String())
	}
	if len(out) == 0 {
		return "its WireGuard port"
	}
	return strings.Join(out, " or ")
}

// peers is the tunnels to the other hosts.
func (s *session) peers(view *catalog.View) ([]api.PeerStatus, string) {
	problem := ""
	tunnels, err := s.parts.wireguard.Status()
	if err != nil {
		problem = fmt.Sprintf("WireGuard does not answer: %v: it is started again by itself", err)
	}
	alive := s.aliveSet()
	out := []api.PeerStatus{}
	for _, m := range view.Members {
		if m.ID == s.store.self || !present(m) {
			continue
		}
		peer := api.PeerStatus{Name: m.Name, ID: string(m.ID), Path: "none", Handshake: -1, MTU: m.MTU}
		at := slices.IndexFunc(tunnels, func(t wireguard.PeerStatus) bool { return t.PublicKey == [32]byte(m.WireGuard) })
		if at >= 0 {
			describeTunnel(&peer, tunnels[at])
		}
		if alive != nil && !alive[m.ID] {
			peer.Path = "none" // a handshake outlives the host for minutes
		}
		out = append(out, peer)
	}
	return out, problem
}

func describeTunnel(peer *api.PeerStatus, t wireguard.PeerStatus) {
	peer.RX, peer.TX = uint64(t.RX), uint64(t.TX)
	if t.Endpoint.IsValid() {
		peer.Endpoint = t.Endpoint.String()
	}
	if !t.LastHandshake.IsZero() {
		age := time.Since(t.LastHandshake)
		peer.Handshake = age.Round(time.Millisecond).Seconds()
		if age < handshakeLife {
			peer.Path = "direct"
		}
	}
}

// Members lists the hosts of the mesh, also those that are not in it any more.
func (s *session) Members(context.Context) ([]api.Member, error) {
	view := s.store.View()
	seen := make(map[catalog.NodeID]membership.Member)
	for _, m := range s.membership.Members() {
		seen[m.ID] = m
	}
	tunnels, _ := s.peers(view)
	out := []api.Member{}
	for _, m := range view.Members {
		member := api.Member{
			Name: m.Name, ID: string(m.ID), Status: s.memberStatus(m, seen[m.ID].Status),
			Address: m.Address.String(), Version: m.Agent, Signer: m.Signer, Self: m.ID == s.store.self,
			RTT: float64(seen[m.ID].RTT.Microseconds()) / 1000,
		}
		if member.Self && len(m.Candidates) > 0 {
			member.Endpoint = m.Candidates[0].String()
		}
		for _, t := range tunnels {
			if t.ID == member.ID {
				member.Endpoint = t.Endpoint
			}
		}
		out = append(out, member)
	}
	slices.SortStableFunc(out, func(a, b api.Member) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (s *session) memberStatus(m catalog.Member, seen membership.Status) string {
	switch {
	case m.Evicted:
		return "evicted"
	case m.Left:
		return string(membership.Left)
	case m.ID == s.store.self:
		return string(membership.Alive)
	case seen == "":
		return string(membership.Failed) // known, and never heard of since the agent started
	default:
		return string(seen)
	}
}
