package agent

import "time"

// Pace spares the processor: passes for which nobody waits take a third of one at most, over some seconds. What comes
// after a while without any is acted on at once, several times in a row; many changes that come quickly are then
// one pass. The zero Pace is ready.
type Pace struct {
	owed time.Duration // rest for what was done; it grows less as time goes by
	at   time.Time     // when that was so
}

const (
	paceShare  = 3                       // one of so many parts of the time is worked
	paceCredit = 1500 * time.Millisecond // of rest that may be owed
	paceRest   = time.Second             // the longest
)

// Worked takes down that work of so long has just ended.
func (p *Pace) Worked(now time.Time, took time.Duration) {
	p.owed = min(p.owing(now)+paceShare*took, paceCredit+paceRest)
	p.at = now
}

// Pause is how long to rest before the next pass for which nobody waits.
func (p *Pace) Pause(now time.Time) time.Duration { return max(0, p.owing(now)-paceCredit) }

func (p *Pace) owing(now time.Time) time.Duration { return max(0, p.owed-now.Sub(p.at)) }
