package membership

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/meshd/meshd/catalog"
)

func TestScheduleBacksOffAndForgetsTheLiving(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newSchedule(func() float64 { return 0.5 }) // no jitter
	peer := peerOf(1)
	var waits []time.Duration
	for range 8 {
		s.update(now, []Peer{peer})
		if got := s.due(now, 4); len(got) != 1 {
			t.Fatalf("due: %v", got)
		}
		if got := s.due(now, 4); len(got) != 0 {
			t.Fatalf("dialled twice at a time: %v", got)
		}
		s.finished(now, peer.ID)
		next := s.attempts[peer.ID].next
		waits = append(waits, next.Sub(now))
		if got := s.due(next.Add(-time.Millisecond), 4); len(got) != 0 {
			t.Fatalf("due too early: %v", got)
		}
		now = next
	}
	want := []time.Duration{500, 1000, 2000, 4000, 8000, 10000, 10000, 10000}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Error(diff)
	}
	s.update(now, nil)
	if got := s.due(now, 4); len(got) != 0 {
		t.Errorf("dials a member that is alive: %v", got)
	}
	s.update(now, []Peer{peer})
	if got := s.due(now, 4); len(got) != 1 {
		t.Errorf("a member that failed anew is not due at once: %v", got)
	}
}

func TestScheduleSpreadsNewcomers(t *testing.T) {
	now := time.Unix(1000, 0)
	draws := []float64{0.75, 0.25}
	s := newSchedule(func() float64 { d := draws[0]; draws = draws[1:]; return d })
	s.spread = 4 * time.Second
	s.update(now, []Peer{peerOf(1)})
	s.update(now, []Peer{peerOf(1), peerOf(2)})
	for _, tc := range []struct {
		after time.Duration
		want  []Peer
	}{{0, nil}, {time.Second, []Peer{peerOf(2)}}, {2 * time.Second, nil}, {3 * time.Second, []Peer{peerOf(1)}}} {
		if diff := cmp.Diff(tc.want, s.due(now.Add(tc.after), 4), cmp.Comparer(func(a, b Peer) bool { return a == b })); diff != "" {
			t.Errorf("after %s: %s", tc.after, diff)
		}
	}
	if spreadOf(0) != 0 || spreadOf(1000) != maxBackoff {
		t.Errorf("spread %s alone, %s among 1,000", spreadOf(0), spreadOf(1000))
	}
}

func TestScheduleKeepsToItsSlots(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newSchedule(func() float64 { return 0 })
	var peers []Peer
	for i := range 10 {
		peers = append(peers, peerOf(i))
	}
	s.update(now, peers)
	seen := map[catalog.NodeID]bool{}
	for _, slots := range []int{4, 0, -1, 4, 4} {
		got := s.due(now, slots)
		if len(got) > max(slots, 0) {
			t.Errorf("%d slots, got %v", slots, got)
		}
		for _, p := range got {
			if seen[p.ID] {
				t.Errorf("%s twice", p.ID)
			}
			seen[p.ID] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("dialled %d of 10", len(seen))
	}
	if got := s.wait(now); got != idleCheck {
		t.Errorf("wait %s with all running", got)
	}
}
