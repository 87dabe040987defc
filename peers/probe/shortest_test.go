package probe

import (
	"testing"
	"time"
)

func TestShortest(t *testing.T) {
	const ms = time.Millisecond
	at := time.Unix(1000, 0)
	var s shortest
	if s.value() != 0 {
		t.Error("a value without measurements")
	}
	for i, step := range []struct {
		after time.Duration // since the start
		rtt   time.Duration
		want  time.Duration
	}{
		{0, 0, 0}, {0, time.Hour, 0}, // not measurements
		{0, 5 * ms, 5 * ms},
		{300 * ms, 90 * ms, 5 * ms}, // noise
		{600 * ms, 4 * ms, 4 * ms},  // nearer than was seen: at once
		{window, 20 * ms, 4 * ms},   // farther: only when what was before is old
		{window + 4900*ms, 30 * ms, 4 * ms},
		{2 * window, 25 * ms, 20 * ms},
		{3 * window, 60 * ms, 25 * ms},
		{4 * window, 60 * ms, 60 * ms},
	} {
		s.add(at.Add(step.after), step.rtt)
		if got := s.value(); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}
