package agent

import (
	"fmt"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/door"
)

// clockError is added to this host's clock. It is empty but in a build with
// -ldflags "-X github.com/meshd/meshd/agent.clockError=1h", a host whose clock is wrong, for tests.
var clockError string

var clockShift = shiftBy(clockError)

func shiftBy(text string) time.Duration {
	if text == "" {
		return 0
	}
	shift, err := time.ParseDuration(text)
	if err != nil {
		panic(fmt.Sprintf("agent.clockError, which this program was built with: %v", err))
	}
	return shift
}

func now() catalog.Millis { return catalog.Millis(time.Now().Add(clockShift).UnixMilli()) }

// skew is how this host's clock differed from the member's through which it joined.
type skew struct {
	ahead  time.Duration // 0: by nothing worth a word
	member catalog.NodeID
	at     time.Time // when that was seen
}

// left is what is left of it at a later time. A clock that was set meanwhile has moved against the one that nobody can set.
func (s skew) left(at time.Time) time.Duration {
	return remaining(s.ahead, at.Round(0).Sub(s.at.Round(0)), at.Sub(s.at))
}

// remaining is what is left of a clock's difference after it has gone on by wall, in passed of real time.
func remaining(ahead, wall, passed time.Duration) time.Duration {
	if rest := ahead + wall - passed; ahead != 0 && rest.Abs() > door.MaxClockDifference {
		return rest
	}
	return 0
}

// noteClock remembers what the clocks were like at the door, for status to say.
func (s *session) noteClock(ahead time.Duration, member catalog.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = skew{ahead: ahead, member: member, at: time.Now()}
}

// clockProblem says what is wrong with this host's clock, or nothing.
func (s *session) clockProblem(view *catalog.View) string {
	s.mu.Lock()
	seen := s.skew
	s.mu.Unlock()
	left, word := seen.left(time.Now()), "ahead of"
	if left == 0 {
		return ""
	}
	if left < 0 {
		left, word = -left, "behind"
	}
	return fmt.Sprintf("this host's clock is %s %s that of %s, through which it joined; tokens expire by the clock, and logs are hard to compare: set the wrong one, best with NTP (timedatectl set-ntp true)",
		left.Round(time.Minute), word, nodeName(view, seen.member))
}
