package sim

import (
	"testing"
	"time"
)

// crowded are the bugs that show only where many want the same.
var crowded = map[Bug]bool{
	noAcks: true, ackBeforeFence: true, ackBeforeWrite: true, unsettled: true, confirmedByBlock: true,
}

// weekAway is a host that is away while a network is removed, and comes back after a week.
var weekAway = Schedule{Seed: 1, Ops: []Op{
	{At: 200 * time.Millisecond, What: "join"},
	{At: 300 * time.Millisecond, What: "join"},
	{At: 400 * time.Millisecond, What: "make network", N: 1},
	{At: 600 * time.Millisecond, What: "make network", N: 0},
	{At: 3 * time.Second, What: "kill", A: 1},
	{At: 4 * time.Second, What: "remove network", N: 0},
	{At: 12 * time.Second, What: "week"},
	{At: 13 * time.Second, What: "attach", A: 0, N: 1},
	{At: 15 * time.Second, What: "attach", A: 1, N: 1},
	{At: 17 * time.Second, What: "attach", A: 0, N: 1},
	{At: 20 * time.Second, What: "restart"},
}}

// TestAWeekAwayBringsNothingBack: whoever was away hears of removals, which are never forgotten.
func TestAWeekAwayBringsNothingBack(t *testing.T) {
	if _, err := Run(weekAway, none); err != nil {
		t.Error(err)
	}
	if _, err := Run(weekAway, forgetRemovals); broken(err) != "deleted" {
		t.Errorf("that removals are forgotten shows as %v", err)
	}
}

// silent is a host that falls asleep while an endpoint lives on it.
var silent = Schedule{Seed: 1, Ops: []Op{
	{At: 200 * time.Millisecond, What: "join"},
	{At: 400 * time.Millisecond, What: "make network", N: 0},
	{At: 2 * time.Second, What: "attach", A: 1, N: 0},
	{At: 15 * time.Second, What: "sleep", A: 1},
}}

// TestSilentHostsAreNotForgotten: what lives on a host that nobody hears of stays known.
func TestSilentHostsAreNotForgotten(t *testing.T) {
	w, err := Run(silent, none)
	if err != nil || len(w.endpoints) != 1 {
		t.Error(err, len(w.endpoints))
	}
	if _, err := Run(silent, forgetFailed); broken(err) != "alive" {
		t.Errorf("that silent hosts are forgotten shows as %v", err)
	}
}

// meetAgain is two halves: one has taken every block of a network; the other, whose clock is an hour
// behind, claims some at the moment when they see each other again. Its claims are the older ones.
func meetAgain() Schedule {
	s := Schedule{Seed: 1, Ops: []Op{
		{At: 200 * time.Millisecond, What: "join"},
		{At: 400 * time.Millisecond, What: "make network", N: 2},
		{At: 3 * time.Second, What: "halves", N: 1},
		{At: 8 * time.Second, What: "clock", A: 0, N: 2048 - 180},
		{At: 10 * time.Second, What: "burst", A: 1, N: 2},
		{At: 20 * time.Second, What: "heal"},
	}}
	for i := range 25 {
		s.Ops = append(s.Ops, Op{At: 20*time.Second + time.Duration(i)*60*time.Millisecond, What: "attach", A: 0, N: 2})
	}
	return s
}

// TestLoserFencesBeforeItAcknowledges: what a host loses is off its kernel before the winner uses it.
func TestLoserFencesBeforeItAcknowledges(t *testing.T) {
	w, err := Run(meetAgain(), none)
	if err != nil || w.readdressed == 0 {
		t.Errorf("%v, %d endpoints had to give way", err, w.readdressed)
	}
	for seed := range uint64(20) {
		s := meetAgain()
		s.Seed = seed
		if _, err := Run(s, ackBeforeFence); broken(err) == "fenced" {
			return
		}
	}
	t.Error("that a member acknowledges before it has fenced does not show")
}

// TestBugsAreCaught plants each bug and wants an invariant to break: a check that
// never fails checks nothing.
func TestBugsAreCaught(t *testing.T) {
	for bug, tc := range map[Bug]struct {
		from uint64 // a seed that is known to show it, or 1
		want string
	}{
		noAcks:           {32, "unique"},
		ackBeforeWrite:   {4, "durable"},
		unsettled:        {4, "acknowledged"},
		confirmedByBlock: {8, "acknowledged"},
		noAntiEntropy:    {1, "convergence"},
		reviveEndpoints:  {1, "deleted"},
		trustForged:      {1, "signatures"},
		trustFuture:      {1, "signatures"},
		oldEpochs:        {1, "epochs"},
		keepEvicted:      {1, "evicted"},
		fickleVIP:        {1, "virtual IPs"},
		sharedVIP:        {1, "virtual IPs"},
		ackWithoutDisk:   {1, "durable"},
		noRest:           {1, "rest"},
		youngerStays:     {1, "older stays"},
		narrowCompare:    {1, "convergence"},
	} {
		t.Run(string(bug), func(t *testing.T) {
			limit := uint64(300)
			found := map[string]int{}
			for seed := tc.from; seed <= tc.from+limit; seed++ {
				if crowded[bug] && seed%2 == 1 {
					continue
				}
				_, err := Run(NewSchedule(seed), bug)
				found[broken(err)]++
				if broken(err) == tc.want {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not caught in %d seeds; broken: %v", limit, found)
		})
	}
}
