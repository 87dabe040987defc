package scale

import (
	"slices"
	"sync"
	"time"
)

// watch takes down how long changes take until they are compiled on every host.
type watch struct {
	mu    sync.Mutex // guards all below
	open  map[change]*spread
	took  []time.Duration // of each change on each host
	whole []time.Duration // of each change until all hosts had it
}

type change struct {
	host     int
	sequence uint64
}

type spread struct {
	began   time.Time
	missing int
}

func newWatch() *watch { return &watch{open: map[change]*spread{}} }

// changed notes that a host changed its document, which all others will have to see.
func (w *watch) changed(host int, sequence uint64, hosts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[change{host, sequence}] = &spread{time.Now(), hosts - 1}
}

// compiled notes that a host has compiled documents of other hosts, of which it had an earlier version. A
// later document says all that an earlier one did.
func (w *watch) compiled(host int, before, now uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for sequence := before + 1; sequence <= now; sequence++ {
		s := w.open[change{host, sequence}]
		if s == nil {
			continue
		}
		w.took = append(w.took, time.Since(s.began))
		if s.missing--; s.missing == 0 {
			w.whole = append(w.whole, time.Since(s.began))
			delete(w.open, change{host, sequence})
		}
	}
}

// take returns the times so far, sorted, and how many changes are not everywhere yet.
func (w *watch) take() (took, whole []time.Duration, open int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	took, whole = w.took, w.whole
	w.took, w.whole = nil, nil
	slices.Sort(took)
	slices.Sort(whole)
	return took, whole, len(w.open)
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
