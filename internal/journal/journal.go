// Package journal takes down what a part of the agent changes in the kernel, in the words of the tools
// that people know: `ip`, `bridge`, `nft`, `iptables`, `wg`. So what somebody else has undone can be counted and told.
package journal

import (
	"fmt"
	"sync"
)

// keep is how many changes are remembered in words; the rest is counted.
const keep = 8

// Journal is one part's. Its methods may be called at the same time; those of a nil Journal do nothing.
type Journal struct {
	mu    sync.Mutex // guards all below
	count int
	first []string
}

// Changes is what was changed since the last Take.
type Changes struct {
	Count int
	First []string // the first few of them, in order
}

// Note takes one change down.
func (j *Journal) Note(format string, args ...any) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count++
	if len(j.first) < keep {
		j.first = append(j.first, fmt.Sprintf(format, args...))
	}
}

// Take returns the changes since the last Take.
func (j *Journal) Take() Changes {
	if j == nil {
		return Changes{}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	changes := Changes{Count: j.count, First: j.first}
	j.count, j.first = 0, nil
	return changes
}
