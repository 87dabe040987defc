package probe

import (
	"testing"
	"time"
)

// A history pings every interval and says when the judge changed its mind.
type history struct {
	judge judge
	now   time.Time
}

func newHistory() *history {
	now := time.Unix(1000, 0)
	return &history{newJudge(now), now}
}

// run lets time pass; until is how long it took for the judge to change its mind, -1 if it did not.
func (h *history) run(duration time.Duration, answering bool) (until time.Duration) {
	until = -1
	for begin := h.now; h.now.Sub(begin) < duration; {
		changed := h.judge.tick(h.now, 0)
		if answering {
			changed = h.judge.answer(h.now.Add(time.Millisecond)) || changed
		}
		if changed && until < 0 {
			until = h.now.Sub(begin)
		}
		h.now = h.now.Add(interval)
	}
	return until
}

func TestJudge(t *testing.T) {
	h := newHistory()
	if h.run(time.Minute, true) >= 0 || h.judge.state != Up {
		t.Errorf("a host that answers is %v", h.judge.state)
	}
	if took := h.run(10*time.Second, false); took < patience-interval || took > patience+interval {
		t.Errorf("a silent host went down after %s", took)
	}
	if took := h.run(10*time.Second, true); took < 0 || took > time.Second {
		t.Errorf("a host that is back came up after %s", took)
	}
}

func TestJudgeToleratesLostPings(t *testing.T) {
	h := newHistory()
	h.run(time.Second, true)
	for range 100 {
		if took := h.run(4*interval, false); took >= 0 {
			t.Fatal("a host went down for four lost pings")
		}
		h.run(interval, true)
	}
}

func TestJudgeDampsFlapping(t *testing.T) {
	h := newHistory()
	h.run(time.Second, true)
	var last time.Duration
	for i := range 6 {
		h.run(4*time.Second, false)
		took := h.run(time.Minute, true)
		if i > 1 && took < last*3/2 {
			t.Errorf("the %d. time it came up after %s, the time before after %s", i+1, took, last)
		}
		last = took
	}
	h.run(forgetting, true)
	h.run(4*time.Second, false)
	if took := h.run(time.Minute, true); took > time.Second {
		t.Errorf("after staying up for long it came up after %s", took)
	}
}

// A process that stood still must not take everybody for dead when it goes on.
func TestJudgeForgivesOwnStall(t *testing.T) {
	h := newHistory()
	h.run(time.Minute, true)
	h.now = h.now.Add(time.Hour)
	if h.judge.tick(h.now, time.Hour) {
		t.Error("down at the first tick after a stall")
	}
	h.now = h.now.Add(interval)
	if h.run(time.Second, true) >= 0 {
		t.Error("changed its mind though the host answers")
	}
	if took := h.run(10*time.Second, false); took < 0 || took > patience+2*interval {
		t.Errorf("a silent host went down after %s", took)
	}
}
