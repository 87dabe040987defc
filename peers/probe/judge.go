package probe

import "time"

const (
	patience   = 1800 * time.Millisecond // a host that was silent for so long,
	unanswered = 5                       // and for as many pings, is down
	firstTrial = 500 * time.Millisecond  // how long a host must answer before it is up again,
	maxTrial   = 30 * time.Second        // twice as long each time,
	forgetting = 5 * time.Minute         // until it has stayed up for so long
	trialPause = time.Second             // silence that makes a trial begin anew
)

// A judge decides whether one host is up. It knows no clock and no network.
type judge struct {
	state State
	since time.Time // of state
	heard time.Time
	sent  int // pings since heard
	trial time.Duration
	tried time.Time // when the present trial began; zero: none runs
}

func newJudge(now time.Time) judge {
	return judge{state: Unknown, since: now, heard: now, trial: firstTrial}
}

// tick is called before each ping, with how long this process itself did not run. It
// returns true if the host went down.
func (j *judge) tick(now time.Time, stalled time.Duration) bool {
	j.heard = j.heard.Add(stalled)
	if j.heard.After(now) {
		j.heard = now
	}
	silent := j.state != Down && now.Sub(j.heard) >= patience && j.sent >= unanswered
	j.sent++
	if !silent {
		return false
	}
	if j.state == Up && now.Sub(j.since) >= forgetting {
		j.trial = firstTrial
	}
	j.state, j.since, j.tried = Down, now, time.Time{}
	return true
}

// answer is called for each answer. It returns true if the host came up again.
func (j *judge) answer(now time.Time) bool {
	gap := now.Sub(j.heard)
	j.heard, j.sent = now, 0
	switch j.state {
	case Unknown:
		j.state, j.since = Up, now
	case Down:
		if j.tried.IsZero() || gap > trialPause {
			j.tried = now
		}
		if now.Sub(j.tried) >= j.trial {
			j.state, j.since = Up, now
			j.trial = min(2*j.trial, maxTrial)
			return true
		}
	}
	return false
}
