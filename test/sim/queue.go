package sim

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// queue is virtual time: what happens when. Of two events at one time the one that was
// planned first comes first, so that a run depends on nothing but its seed.
type queue struct {
	now   time.Duration
	next  uint64
	items events
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

func (q *queue) after(d time.Duration, do func()) {
	q.next++
	heap.Push(&q.items, event{q.now + d, q.next, do})
}

// run lets everything happen that is planned until then.
func (q *queue) run(until time.Duration) {
	for len(q.items) > 0 && q.items[0].at <= until {
		e := heap.Pop(&q.items).(event)
		q.now = e.at
		e.do()
	}
	q.now = until
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

// between returns a random duration in [low, high).
func between(r *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(r.Int64N(int64(high-low)))
}
