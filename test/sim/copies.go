package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// NewCopySchedule is NewSchedule in which the disks of one or two hosts are copied to other machines, as a cloned
// virtual machine is, and both go on.
func NewCopySchedule(seed uint64) Schedule {
	s := NewSchedule(seed)
	r := rand.New(rand.NewPCG(seed, 3))
	end := s.Ops[len(s.Ops)-1].At
	for range 1 + r.IntN(2) {
		s.Ops = append(s.Ops, Op{At: between(r, 2*time.Second, end), What: "copy", A: r.IntN(60)})
	}
	slices.SortStableFunc(s.Ops, func(a, b Op) int { return int(a.At - b.At) })
	return s
}

// copy starts another host with what is on the disk of one. Its endpoints are not there.
func (w *World) copy(of *host) {
	if of.copied || of == w.hosts[0] || len(w.hosts) >= 10 { // what the signer does to others is not of interest here
		return
	}
	c := newHost(w, of.name)
	c.name += "'"
	c.skew, c.saved, c.onDisk, c.disk = of.skew, of.saved, of.onDisk, of.disk.clone()
	clear(c.disk.locals)
	of.copied, c.copied = true, true
	w.acked[c] = w.acked[of]
	w.hosts = append(w.hosts, c)
	c.start()
}

// checkCopies sees that of two hosts with one identity that can hear of each other, one has stopped at least: it has
// nothing on the networks, and its agent says why.
func (w *World) checkCopies() {
	for i, a := range w.hosts {
		for _, b := range w.hosts[i+1:] {
			if a.id != b.id || !a.up || !b.up || a.gone || b.gone || !w.related(a, b) {
				continue
			}
			if !a.author.Rival() && !b.author.Rival() {
				w.fail("one of two", "%s and %s, of one identity, both go on", a, b)
			}
			for _, h := range []*host{a, b} {
				if h.author.Rival() && len(h.kernel.ports) > 0 {
					w.fail("one of two", "%s, whose identity was copied, has stopped and still has %d addresses", h, len(h.kernel.ports))
				}
			}
		}
	}
}

// related says whether a third host has a way to both.
func (w *World) related(a, b *host) bool {
	return slices.ContainsFunc(w.running(), func(o *host) bool {
		return o.id != a.id && !o.copied && o.knows(a) && a.knows(o) && b.knows(o)
	})
}
