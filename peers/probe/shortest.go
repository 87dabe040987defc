package probe

import "time"

// window is how long a measurement counts at least, and half as long as it may.
const window = 5 * time.Second

// shortest is the shortest of the measurements of the last 5 to 10 seconds. A busy host or line makes round trips
// longer, never shorter; so of many the shortest tells how far away a host is.
type shortest struct {
	began     time.Time // of the present window
	now, last time.Duration
}

// add takes a measurement at a time.
func (s *shortest) add(at time.Time, rtt time.Duration) {
	if rtt <= 0 || rtt > time.Minute {
		return
	}
	if s.began.IsZero() || at.Sub(s.began) >= window {
		s.last, s.now, s.began = s.now, rtt, at
	}
	s.now = min(s.now, rtt)
}

// value is 0 without measurements.
func (s *shortest) value() time.Duration {
	if s.last == 0 {
		return s.now
	}
	return min(s.now, s.last)
}
