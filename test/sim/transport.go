package sim

import (
	"time"

	"github.com/meshd/meshd/catalog"
)

// pair is a direction between two hosts.
type pair struct{ from, to *host }

// network carries messages between hosts, badly if told to. It is harsher than the
// product's TCP: each message by itself may be lost, doubled or overtaken.
type network struct {
	w     *World
	cut   map[pair]bool
	loss  float64 // of every message
	twice float64
	slow  map[*host]time.Duration // added to what a host sends and gets
	lost  int
}

func (n *network) open(a, b *host) bool { return !n.cut[pair{a, b}] }

// tell sends records.
func (n *network) tell(from, to *host, recs []catalog.Record) {
	n.send(from, to, func() { to.merge(from, recs) }, recs...)
}

// send has the message delivered, or not. Only members that know each other have a
// tunnel. A message under way keeps the records that it carries in the world.
func (n *network) send(from, to *host, deliver func(), recs ...catalog.Record) {
	if !from.up || from.id == to.id || !from.knows(to) || !n.open(from, to) {
		return
	}
	r := n.w.random
	copies := 1
	if r.Float64() < n.twice {
		copies = 2
	}
	for range copies {
		if r.Float64() < n.loss {
			n.lost++
			continue
		}
		delay := between(r, 200*time.Microsecond, 4*time.Millisecond) + n.slow[from] + n.slow[to]
		landed := n.w.departs(from, recs)
		n.w.after(delay, func() {
			if to.up && to.knows(from) && n.open(from, to) {
				deliver()
			}
			landed()
		})
	}
}
