package membership

import (
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
)

// state is what Serf told us, so that nobody needs Serf's locks to read it.
type state struct {
	self    catalog.NodeID
	changed chan struct{}

	mu      sync.Mutex // guards all below
	nodes   map[catalog.NodeID]*node
	removed map[catalog.NodeID]bool
}

type node struct {
	address netip.Addr
	status  Status // never Suspect
	since   time.Time
	suspect time.Time // since when our probes go unanswered; zero: they do not
	rtt     time.Duration
}

func newState(self catalog.NodeID) *state {
	return &state{
		self:    self,
		changed: make(chan struct{}, 1),
		nodes:   map[catalog.NodeID]*node{},
		removed: map[catalog.NodeID]bool{},
	}
}

// poke never blocks: one poke stands for all that was not yet looked at.
func (s *state) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *state) set(id catalog.NodeID, address netip.Addr, status Status) {
	s.mu.Lock()
	n := s.nodes[id]
	if s.removed[id] || n != nil && n.status == status && n.address == address {
		s.mu.Unlock()
		return
	}
	if n == nil {
		n = &node{}
		s.nodes[id] = n
	}
	n.address, n.status, n.since, n.suspect = address, status, time.Now(), time.Time{}
	if status != Alive {
		n.rtt = 0
	}
	s.mu.Unlock()
	s.poke()
}

// suspected notes that a probe of ours failed.
func (s *state) suspected(id catalog.NodeID) {
	s.mu.Lock()
	n := s.nodes[id]
	news := n != nil && n.status == Alive && n.suspect.IsZero()
	if news {
		n.suspect = time.Now()
	}
	s.mu.Unlock()
	if news {
		s.poke()
	}
}

// answered notes that a probe of ours came back. The average weighs as TCP's does (RFC 6298).
func (s *state) answered(id catalog.NodeID, rtt time.Duration) {
	s.mu.Lock()
	n := s.nodes[id]
	news := false
	if n != nil {
		news = !n.suspect.IsZero()
		n.suspect = time.Time{}
		if n.rtt == 0 {
			n.rtt = rtt
		} else {
			n.rtt += (rtt - n.rtt) / 8
		}
	}
	s.mu.Unlock()
	if news {
		s.poke()
	}
}

func (s *state) remove(id catalog.NodeID) (netip.Addr, bool) {
	s.mu.Lock()
	n := s.nodes[id]
	s.removed[id] = true
	delete(s.nodes, id)
	s.mu.Unlock()
	if n == nil {
		return netip.Addr{}, false
	}
	s.poke()
	return n.address, true
}

func (s *state) isRemoved(id catalog.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed[id]
}

func (s *state) alive(id catalog.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[id]
	return n != nil && n.status == Alive
}

func (s *state) members() []Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Member, 0, len(s.nodes))
	for id, n := range s.nodes {
		m := Member{ID: id, Address: n.address, Status: n.status, RTT: n.rtt, Since: n.since}
		if n.status == Alive && !n.suspect.IsZero() {
			m.Status, m.Since = Suspect, n.suspect
		}
		list = append(list, m)
	}
	return sortMembers(list)
}
