package agent

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/internal/journal"
)

// repairs counts what somebody else undid and the loop made again: changes in a pass whose desired
// state is the one that was reached already.
type repairs struct {
	log  *slog.Logger
	told func(part string, changes journal.Changes, what string) // of each; nil: nobody

	mu     sync.Mutex // guards all below
	counts map[string]int
	last   repair
}

// repair is what one part mended in one pass.
type repair struct {
	at   time.Time // zero: nothing was ever mended
	part string
	what string // the first few changes, in the words of ip(8), nft(8) and the like
}

func newRepairs(log *slog.Logger) *repairs {
	return &repairs{log: log, counts: make(map[string]int)}
}

// observe is called whenever a part was applied. Again says that its desired state was reached before: what it changed
// then was undone by somebody else, perhaps while it was applied, which is why it may also have failed.
func (r *repairs) observe(a applier, again bool) {
	if a.changes == nil {
		return
	}
	if changes := a.changes.Take(); again && changes.Count > 0 {
		r.add(a.name, changes, time.Now())
	}
}

func (r *repairs) add(part string, changes journal.Changes, now time.Time) {
	what := strings.Join(changes.First, "; ")
	if changes.Count > len(changes.First) {
		what += "; …"
	}
	r.log.Warn("somebody else undid what meshd made here: made again", "part", part, "changes", changes.Count, "what", what)
	if r.told != nil {
		r.told(part, changes, what)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[part] += changes.Count
	r.last = repair{at: now, part: part, what: what}
}

// Told is how many changes had to be made again since the agent started, by part, and the last of them.
func (r *repairs) Told() (counts map[string]int, last repair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts = make(map[string]int, len(r.counts))
	for part, n := range r.counts {
		counts[part] = n
	}
	return counts, r.last
}
