package agent

import (
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/probe"
)

// agentGrace is how long a host without an agent that others hear of stays in rotation while its kernel
// answers: an agent may crash, be upgraded, or be slow to be heard of again after a partition,
// and the traffic does not need it.
const agentGrace = 30 * time.Second

// aliveSet is who takes part now; nil as long as nobody can be said not to.
func (s *session) aliveSet() map[catalog.NodeID]bool {
	if s.membership == nil {
		return nil
	}
	members := s.membership.Members()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	alive := make(map[catalog.NodeID]bool)
	if !s.settled { // membership cannot be believed yet, silence can
		anybody := false
		for _, m := range s.store.View().Members {
			state, _ := s.probe.State(m.ID)
			alive[m.ID] = state != probe.Down
			anybody = anybody || !alive[m.ID]
		}
		if !anybody {
			return nil
		}
		return alive
	}
	for _, m := range members {
		alive[m.ID] = s.reachableLocked(m, now)
	}
	return alive
}

// reachableLocked weighs what membership and pings say of a host.
func (s *session) reachableLocked(m membership.Member, now time.Time) bool {
	if believedAlive(m) {
		delete(s.lost, m.ID)
	} else if _, known := s.lost[m.ID]; !known {
		s.lost[m.ID] = now
	}
	state, since := s.probe.State(m.ID)
	return reachable(m.Status, s.lost[m.ID], state, since, now)
}

// reachable says whether a host takes part. Its silence counts before membership notices; its answers count
// for a while after membership has given up.
func reachable(status membership.Status, lost time.Time, state probe.State, since, now time.Time) bool {
	switch {
	case state == probe.Down:
		return false
	case status == membership.Alive, status == membership.Suspect:
		return true
	case state != probe.Up || status == membership.Left:
		return false
	}
	if since.After(lost) {
		lost = since
	}
	return now.Sub(lost) < agentGrace
}

// fewDependencies is up to how many hosts are pinged all the time: that costs 0.8 kB/s for each. All of a hundred
// hosts are, so that one that dies is missed in seconds; what a thousand hosts would cost is too much.
const fewDependencies = 128

// dependencies is the hosts to ping: those whose replicas the endpoints of this host, or its published ports,
// lead to. If they are many, only those of which membership doubts, or which did not answer: then it is
// membership that notices a failure first.
func (s *session) dependencies() []probe.Target {
	view := s.store.View()
	needed := make(map[catalog.NodeID]bool)
	locals := s.locals.All()
	for _, svc := range view.Services {
		wanted := len(svc.Ports) > 0 // a published port is every host's
		for i := 0; !wanted && i < len(locals); i++ {
			wanted = locals[i].on(svc.Network)
		}
		if !wanted {
			continue
		}
		for _, r := range svc.Replicas {
			needed[r.Node] = true
		}
	}
	var targets []probe.Target
	for _, m := range view.Members {
		if m.ID != s.store.self && needed[m.ID] && present(m) {
			targets = append(targets, probe.Target{ID: m.ID, Address: m.Address})
		}
	}
	if len(targets) <= fewDependencies {
		return targets
	}
	sound := make(map[catalog.NodeID]bool)
	for _, m := range s.membership.Members() {
		state, _ := s.probe.State(m.ID)
		sound[m.ID] = m.Status == membership.Alive && state != probe.Down
	}
	return slices.DeleteFunc(targets, func(t probe.Target) bool { return sound[t.ID] })
}
