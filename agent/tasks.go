package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/syncer"
)

// runTasks starts everything that runs as long as the session.
func (s *session) runTasks() {
	s.store.changed = s.catalogChanged
	for _, run := range []func(context.Context) error{
		s.loop.Run,
		s.membership.Run,
		s.syncer.Run,
		s.followMembers,
		s.followCatalog,
		s.followUnderlay,
		s.probe.Run,
		s.keepCatalog,
		s.keepClaims,
		s.keepDocument,
		s.followUpstreams,
		s.keepIngressEndpoint,
		s.watchFirewall,
		s.followEvents,
	} {
		s.tasks.Go(func() error { return run(s.ctx) })
	}
	for _, l := range s.locals.All() {
		s.watchProcess(l)
		s.watchHealth(l)
		s.watchDraining(l)
	}
	s.catalogChanged() // to begin with
}

// catalogChanged is called after every change of the catalog. The loop, and everybody
// else who looks, sees many quick changes as one.
func (s *session) catalogChanged() {
	wake(s.news)
	wake(s.claimNews)
	wake(s.eventNews)
	s.loop.Poke()
}

// followCatalog tells membership and the syncer who belongs to the mesh now, when that has changed: most
// news is of what runs on hosts, and in a large mesh looking at all of them each time is work.
func (s *session) followCatalog(ctx context.Context) error {
	var warned []networkProblem
	var known []standing
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.news:
		}
		view := s.store.View()
		warned = s.warnNetworks(view, warned)
		now := standings(view)
		if slices.Equal(known, now) {
			continue
		}
		known = now
		for _, m := range view.Members {
			if m.Evicted {
				s.membership.Remove(m.ID)
			}
		}
		s.membership.Redial()
		s.syncer.PeersChanged()
	}
}

// standing is what membership and the syncer have to know of a member.
type standing struct {
	id                   catalog.NodeID
	known, left, evicted bool
}

func standings(view *catalog.View) []standing {
	out := make([]standing, len(view.Members))
	for i, m := range view.Members {
		out[i] = standing{m.ID, m.Known, m.Left, m.Evicted}
	}
	return out
}

// followUnderlay reads the host's addresses again: they change, and the others must know
// where to find this host.
func (s *session) followUnderlay(ctx context.Context) error {
	return every(ctx, 5*time.Second, func() {
		host, err := readHost(ctx, s.cfg, s.version, s.id)
		if err == nil && len(host.candidates) == 0 {
			err = errors.New("no address that others could reach") // as between two networks
		}
		if err == nil {
			_, err = s.store.Update(host.describe)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("the others keep the addresses of this host that they have", "err", err)
		}
	})
}

// every does something once a period, the first time after one, until ctx ends; then it returns nil.
func every(ctx context.Context, period time.Duration, do func()) error {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			do()
		}
	}
}

// keepDocument writes this host's document again when a later one came from elsewhere, as after
// the disk was rolled back. It takes its time: with two hosts of one
// identity this never ends, and status says so.
func (s *session) keepDocument(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.store.overtaken:
		}
		s.log.Warn("the others knew a later state of this host than this host: writing it anew", "times", s.store.Overtaken())
		if err := s.publishEndpoints(); err != nil {
			s.log.Warn("this host's document is not what it should be", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

// followMembers has the loop look again when somebody comes or goes.
func (s *session) followMembers(ctx context.Context) error {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.membership.Changed():
			s.syncer.PeersChanged()
			s.aliveChanged()
		case <-s.parts.wireguard.Changed():
			s.loop.Suspect()
		case <-s.probe.Changed():
			s.aliveChanged()
		case <-ticker.C:
		}
		if s.settle() {
			ticker.Stop()
			s.aliveChanged()
		}
	}
}

// aliveChanged is called when some host may be alive, or not, that was not, or was.
func (s *session) aliveChanged() {
	wake(s.eventNews)
	s.loop.Poke()
}

// settle decides whether membership can be believed from now on. It returns true once.
func (s *session) settle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled {
		return false
	}
	alive := make(map[catalog.NodeID]bool)
	for _, m := range s.membership.Members() {
		alive[m.ID] = believedAlive(m)
	}
	everybody := true
	for _, m := range s.store.View().Members {
		everybody = everybody && (!present(m) || alive[m.ID])
	}
	s.settled = everybody || time.Since(s.started) > settleTime
	return s.settled
}

// keepCatalog writes the catalog to disk after it has changed, and again what the disk refused.
func (s *session) keepCatalog(ctx context.Context) error {
	retry := time.NewTicker(5 * time.Second)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.store.dirty:
		case <-retry.C:
			if s.store.DiskError() == nil && s.locals.DiskError() == nil {
				continue
			}
		}
		if err := errors.Join(s.store.save(), s.locals.Flush()); err != nil {
			s.log.Warn("state is kept in memory only until the disk takes it", "err", err)
		}
	}
}

// followUpstreams reads the host's resolv.conf again: hosts move between networks.
func (s *session) followUpstreams(ctx context.Context) error {
	return every(ctx, 5*time.Second, func() {
		found := s.findUpstreams()
		s.mu.Lock()
		s.hostConf = found
		s.mu.Unlock()
	})
}

func (s *session) findUpstreams() dns.HostConf {
	if len(s.cfg.DNS.Upstreams) > 0 {
		return dns.HostConf{Upstreams: s.cfg.DNS.Upstreams}
	}
	found, err := dns.Upstreams("/etc/resolv.conf")
	if err != nil {
		s.log.Debug("no upstream name servers", "err", err)
	}
	return found
}

// keepIngressEndpoint gives this host its presence on the ingress network, through which published ports travel. It tries until it has it.
func (s *session) keepIngressEndpoint(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := s.ensureIngressEndpoint(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			s.log.Debug("published ports do not work on this host yet", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (s *session) ensureIngressEndpoint(ctx context.Context) error {
	for _, l := range s.locals.All() {
		if l.Infrastructure && plugged(l) {
			return nil
		}
	}
	if _, ok := s.store.View().Network(catalog.IngressNetwork); !ok {
		return fmt.Errorf("the ingress network is not known here yet")
	}
	local := Local{
		Endpoint: catalog.Endpoint{
			ID: newEndpointID(), Name: "ingress", Created: now(), Health: catalog.Starting,
			Attachments: []catalog.Attachment{{Network: catalog.IngressNetwork, MAC: link.RandomMAC()}},
		},
		Namespace: netns.Host, Infrastructure: true,
	}
	if err := s.plugIn(ctx, local); err != nil {
		return errors.Join(err, s.locals.Remove(local.ID, now()), s.publishEndpoints())
	}
	return nil
}

func believedAlive(m membership.Member) bool {
	return m.Status == membership.Alive || m.Status == membership.Suspect
}

// aliveOthers is every other member that is believed alive.
func (s *session) aliveOthers() []catalog.NodeID {
	var ids []catalog.NodeID
	for _, p := range s.alivePeers() {
		ids = append(ids, p.ID)
	}
	return ids
}

// mustAgree is who has to agree to a claim: every other member that is believed alive, and
// as long as membership cannot be believed every one that should be there.
func (s *session) mustAgree() []catalog.NodeID {
	s.mu.Lock()
	settled := s.settled
	s.mu.Unlock()
	if settled {
		return s.aliveOthers()
	}
	var ids []catalog.NodeID
	for _, p := range s.knownPeers() {
		ids = append(ids, p.ID)
	}
	return ids
}

func (s *session) alivePeers() []syncer.Peer {
	members := make(map[catalog.NodeID]catalog.Member)
	for _, m := range s.store.View().Members {
		if !m.Evicted && !m.Left {
			members[m.ID] = m
		}
	}
	var peers []syncer.Peer
	for _, m := range s.membership.Members() {
		if known, ok := members[m.ID]; ok && m.ID != s.store.self && believedAlive(m) {
			peers = append(peers, syncer.Peer{ID: m.ID, Address: known.Address})
		}
	}
	return peers
}

// knownPeers is every other member that should be there.
func (s *session) knownPeers() []membership.Peer {
	var peers []membership.Peer
	for _, m := range s.store.View().Members {
		if m.ID != s.store.self && present(m) {
			peers = append(peers, membership.Peer{ID: m.ID, Address: m.Address})
		}
	}
	return peers
}

// verifyPeer refuses who is no member, or speaks from another's address.
func (s *session) verifyPeer(id catalog.NodeID, address netip.Addr) error {
	if address != catalog.MeshAddress(s.store.mesh, id) {
		return fmt.Errorf("%s is not the address of node %s", address, id)
	}
	member, evicted := s.store.Standing(id)
	switch {
	case evicted:
		return fmt.Errorf("node %s was evicted", id)
	case !member:
		return fmt.Errorf("node %s is not known", id)
	}
	return nil
}

// peerOf finds the member that a mesh address belongs to.
func (s *session) peerOf(address netip.Addr) (catalog.NodeID, bool) {
	id, ok := s.store.NodeAt(address)
	if !ok {
		return "", false
	}
	if _, evicted := s.store.Standing(id); evicted {
		return "", false
	}
	return id, true
}

// awaitPeer waits until another member is seen alive, or not longer than the timeout: a
// newcomer should not be told that it is in before it is.
func (s *session) awaitPeer(ctx context.Context, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for len(s.alivePeers()) == 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
