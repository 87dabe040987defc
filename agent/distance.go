package agent

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
)

// distances are the round trips to other hosts, steadied: one that is measured takes the place of the one before
// only if it differs by so much that it is no noise. What is compiled from them does not flap.
type distances struct {
	mu    sync.Mutex // guards all below; the map is replaced whole
	known map[catalog.NodeID]time.Duration
}

// steady takes what is measured now and returns what to go by. Hosts that are not measured now are not known.
func (d *distances) steady(measured map[catalog.NodeID]time.Duration) map[catalog.NodeID]time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := maps.Clone(measured)
	for id, now := range measured {
		if before, ok := d.known[id]; ok && !differs(before, now) {
			next[id] = before
		}
	}
	d.known = next
	return next
}

// differs says whether one round trip is clearly another than before: by more than a quarter, and more than half a
// millisecond, which is what a busy processor adds.
func differs(before, now time.Duration) bool {
	return max(before, now) > farther(min(before, now))
}

// farther is the shortest round trip that counts as longer than another.
func farther(than time.Duration) time.Duration { return than + max(than/4, 500*time.Microsecond) }

// nearest are those of some endpoints to be preferred: this host's, or else those of the hosts that are not farther
// away than the nearest. As long as no distance is known, all are alike.
func nearest(in Inputs, endpoints []catalog.NetworkEndpoint) map[catalog.NodeID]bool {
	best, found := time.Duration(0), false
	for _, e := range endpoints {
		d, known := in.distance(e.Node)
		if known && (!found || d < best) {
			best, found = d, true
		}
	}
	near := make(map[catalog.NodeID]bool)
	for _, e := range endpoints {
		d, known := in.distance(e.Node)
		near[e.Node] = !found || known && (d == best || best > 0 && d <= farther(best))
	}
	return near
}

// distance is 0 to this host itself.
func (in Inputs) distance(node catalog.NodeID) (time.Duration, bool) {
	if node == in.Self {
		return 0, true
	}
	d, ok := in.RTT[node]
	return d, ok
}

// roundTrips is what is measured to the other hosts now, if any service asks for it.
func (s *session) roundTrips() map[catalog.NodeID]time.Duration {
	measured := make(map[catalog.NodeID]time.Duration)
	asked := func(svc catalog.Service) bool { return svc.Prefer == catalog.PreferLocal }
	if s.probe == nil || !slices.ContainsFunc(s.store.View().Services, asked) {
		return measured
	}
	for _, t := range s.dependencies() {
		if rtt := s.probe.RTT(t.ID); rtt > 0 {
			measured[t.ID] = rtt
		}
	}
	return measured
}
