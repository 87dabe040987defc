package lab

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Clock measures time for promises that hold on a machine that is not overrun: a machine where
// programs queue for the processors more than half of the time has a slower one, down to a fifth. Without
// /proc/pressure it is an ordinary clock.
type Clock struct {
	began  time.Time
	queued time.Duration
}

// NewClock starts a clock.
func NewClock() Clock { return Clock{time.Now(), queued()} }

// Elapsed is the time since it was started.
func (c Clock) Elapsed() time.Duration { return unhurried(time.Since(c.began), queued()-c.queued) }

// unhurried is what counts of a time in which some program was queued for so long.
func unhurried(passed, queued time.Duration) time.Duration {
	over := min(2*queued-passed, passed)
	if over <= 0 {
		return passed
	}
	return passed - over*4/5
}

// queued is for how long some program of this machine has had to wait for a processor, since it started.
func queued() time.Duration {
	data, err := os.ReadFile("/proc/pressure/cpu") // some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS
	if err != nil {
		return 0
	}
	var a, b, c float64
	var total int64
	if _, err := fmt.Sscanf(string(data), "some avg10=%f avg60=%f avg300=%f total=%d", &a, &b, &c, &total); err != nil {
		return 0
	}
	return time.Duration(total) * time.Microsecond
}

// Within tries until it succeeds, for so long at most on a Clock. Then it returns the last failure.
func Within(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clock := NewClock()
	return WaitFor(ctx, func() error {
		late := clock.Elapsed() > limit
		err := try()
		if err != nil && late {
			cancel()
		}
		return err
	})
}
