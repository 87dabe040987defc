package catalog

import (
	"cmp"
	"crypto/sha256"
	"slices"
)

// Bounds on strays. Only members can send records, and they send each after those
// that it needs, so a stray is rare; what is dropped comes again with the next
// comparison, as strays are in no vector.
const (
	maxStrays     = 4096
	maxStrayBytes = 32 << 20
)

// strays are records with a good signature whose author is not known to be allowed
// to write them yet. When there are too many the oldest go.
type strays struct {
	all     map[[sha256.Size]byte]stray
	waiting map[need]map[[sha256.Size]byte]bool
	bytes   int
	next    uint64
}

type stray struct {
	*entry
	need  need
	order uint64
}

func newStrays() strays {
	return strays{all: map[[sha256.Size]byte]stray{}, waiting: map[need]map[[sha256.Size]byte]bool{}}
}

func (s *strays) add(e *entry, n need) {
	s.next++
	s.all[e.sum] = stray{e, n, s.next}
	s.bytes += e.size()
	if s.waiting[n] == nil {
		s.waiting[n] = map[[sha256.Size]byte]bool{}
	}
	s.waiting[n][e.sum] = true
}

func (s *strays) remove(x stray) {
	delete(s.all, x.sum)
	s.bytes -= x.size()
	delete(s.waiting[x.need], x.sum)
	if len(s.waiting[x.need]) == 0 {
		delete(s.waiting, x.need)
	}
}

// release takes out and returns the strays that waited for n, the oldest first.
func (s *strays) release(n need) []*entry {
	var found []stray
	for sum := range s.waiting[n] {
		found = append(found, s.all[sum])
	}
	slices.SortFunc(found, func(a, b stray) int { return cmp.Compare(a.order, b.order) })
	var entries []*entry
	for _, x := range found {
		s.remove(x)
		entries = append(entries, x.entry)
	}
	return entries
}

// trim drops the oldest strays until the rest keeps to the bounds.
func (s *strays) trim() {
	if len(s.all) <= maxStrays && s.bytes <= maxStrayBytes {
		return
	}
	byAge := make([]stray, 0, len(s.all))
	for _, x := range s.all {
		byAge = append(byAge, x)
	}
	slices.SortFunc(byAge, func(a, b stray) int { return cmp.Compare(a.order, b.order) })
	for _, x := range byAge {
		if len(s.all) <= maxStrays && s.bytes <= maxStrayBytes {
			return
		}
		s.remove(x)
	}
}

// size is roughly what a record costs to keep, in bytes.
func (e *entry) size() int { return len(e.record.Body) + 256 }
