package agent

import (
	"testing"
	"time"

	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/probe"
)

func TestReachable(t *testing.T) {
	now := time.Unix(10_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		what   string
		status membership.Status
		lost   time.Time
		state  probe.State
		since  time.Time
		want   bool
	}{
		{"a member that nothing here depends on", membership.Alive, time.Time{}, probe.Unknown, time.Time{}, true},
		{"one that answers", membership.Alive, time.Time{}, probe.Up, ago(time.Hour), true},
		{"one that is silent before membership notices", membership.Alive, time.Time{}, probe.Down, ago(time.Second), false},
		{"one that membership doubts and that answers", membership.Suspect, time.Time{}, probe.Up, ago(time.Hour), true},
		{"one that failed and that nothing here depends on", membership.Failed, ago(time.Second), probe.Unknown, time.Time{}, false},
		{"one whose agent has just crashed", membership.Failed, ago(time.Second), probe.Up, ago(time.Hour), true},
		{"one whose agent crashed long ago", membership.Failed, ago(time.Minute), probe.Up, ago(time.Hour), false},
		{"one that is back and not heard of yet", membership.Failed, ago(time.Hour), probe.Up, ago(time.Second), true},
		{"one that failed and is silent", membership.Failed, ago(time.Second), probe.Down, ago(time.Second), false},
		{"one that left", membership.Left, ago(time.Second), probe.Up, ago(time.Hour), false},
	} {
		if got := reachable(c.status, c.lost, c.state, c.since, now); got != c.want {
			t.Errorf("%s: %t, want %t", c.what, got, c.want)
		}
	}
}
