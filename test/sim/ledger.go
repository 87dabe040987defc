package sim

import (
	"maps"
	"slices"

	"github.com/meshd/meshd/catalog"
)

// ledger is what was ever written, and of that what stands: the latest of which a copy is
// left. A disk that was rolled back, or a message that was lost, may have been the only
// place of a removal: then it never happened, and nobody can be blamed.
type ledger struct {
	standing  catalog.Vector
	flying    map[*cargo]bool
	only      []*host                                // if set, whose copies count
	removals  map[catalog.RecordID][]catalog.Version // by network
	evictions map[catalog.RecordID]*host
}

// cargo is the records of a message under way.
type cargo struct{ records []catalog.Record }

func (l *ledger) init() {
	l.standing, l.flying = catalog.Vector{}, map[*cargo]bool{}
	l.removals, l.evictions = map[catalog.RecordID][]catalog.Version{}, map[catalog.RecordID]*host{}
}

// wrote notes a record that a host has just made. Nobody has to keep what one says that
// does not belong any more.
func (l *ledger) wrote(h *host, r catalog.Record) (catalog.RecordID, catalog.Version) {
	id, version, err := catalog.IDOf(r)
	if err != nil {
		panic(err) // the simulator's own mistake
	}
	if !h.gone {
		newest(l.standing, id, version)
	}
	return id, version
}

// removed says whether a network was removed and not made again, as far as anybody can know.
func (l *ledger) removed(name string) bool {
	id := catalog.RecordID(string(catalog.KindNetwork) + "/" + name)
	version, ok := l.standing[id]
	return ok && slices.Contains(l.removals[id], version)
}

// departs notes records that are under way; to be called when they no longer are.
func (w *World) departs(from *host, records []catalog.Record) (landed func()) {
	if len(records) == 0 {
		return func() {}
	}
	c, run := &cargo{records}, from.run
	w.ledger.flying[c] = true
	return func() {
		if from.up && from.run == run && !from.gone {
			delete(w.ledger.flying, c) // the sender has them all
			return
		}
		w.losing(func() { delete(w.ledger.flying, c) })
	}
}

// losing does something that may destroy copies of records, or bring old ones back. What
// had a copy until then and has none after it no longer stands.
func (w *World) losing(do func()) {
	before := w.copies()
	do()
	after := w.copies()
	for id, version := range w.ledger.standing {
		if holds(before, id, version) && !holds(after, id, version) {
			delete(w.ledger.standing, id)
		}
	}
	for id, version := range after { // an older one, or one that was thought lost
		newest(w.ledger.standing, id, version)
	}
	var back []*host
	for _, id := range slices.Sorted(maps.Keys(w.ledger.evictions)) {
		h := w.ledger.evictions[id]
		before := h.evicted
		_, h.evicted = w.ledger.standing[id]
		h.gone = h.left || h.evicted
		if before && !h.evicted {
			back = append(back, h)
		}
	}
	w.forgotten(back)
}

// forgotten is hosts whose eviction was lost. Who knew of it has dropped what they said, as it should: that
// stands only if a copy is left after all.
func (w *World) forgotten(back []*host) {
	if len(back) == 0 {
		return
	}
	left := w.copies()
	for _, h := range back {
		id := documentOf(h)
		if version, ok := w.ledger.standing[id]; ok && !holds(left, id, version) {
			delete(w.ledger.standing, id)
			if version, ok := left[id]; ok {
				w.ledger.standing[id] = version
			}
		}
	}
}

// copies is the newest of every record that is anywhere: with members, on their disks, or
// under way.
func (w *World) copies() catalog.Vector {
	all := catalog.Vector{}
	add := func(v catalog.Vector) {
		for id, version := range v {
			newest(all, id, version)
		}
	}
	for _, h := range w.hosts {
		if h.gone || w.ledger.only != nil && !slices.Contains(w.ledger.only, h) {
			continue
		}
		if h.up {
			add(h.cat.Vector())
		}
		if !h.asleep {
			add(h.onDisk)
		}
	}
	for c := range w.ledger.flying {
		for _, r := range c.records {
			if id, version, err := catalog.IDOf(r); err == nil {
				newest(all, id, version)
			}
		}
	}
	return all
}

func newest(v catalog.Vector, id catalog.RecordID, version catalog.Version) {
	if old, ok := v[id]; !ok || old.Less(version) {
		v[id] = version
	}
}

// holds says whether v has a record, of that version or a later one.
func holds(v catalog.Vector, id catalog.RecordID, version catalog.Version) bool {
	have, ok := v[id]
	return ok && !have.Less(version)
}

// claimsOf is what a host knows of another's claims.
func (h *host) claimsOf(other *host) []catalog.Claim {
	doc, _, _ := h.cat.Document(other.id)
	return doc.Claims
}

func documentOf(h *host) catalog.RecordID {
	return catalog.RecordID(string(catalog.KindDocument) + "/" + string(h.id))
}
