package sim

import (
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
)

// What stands follows the copies that are left: it is lost with the last, and back with it.
func TestLedgerFollowsCopies(t *testing.T) {
	w := newWorld(1, none)
	h := w.hosts[0]
	w.run(time.Second)
	h.makeNetwork("n", 25)
	snapshot := backup{h.disk.clone(), h.saved, h.onDisk}
	h.removeNetwork("n")
	removed := backup{h.disk.clone(), h.saved, h.onDisk}
	restore := func(b backup) {
		h.past = []backup{b}
		h.rollBack(0)
	}
	if !w.ledger.removed("n") {
		t.Fatal("a removal on disk does not stand")
	}
	h.stop(true)
	if !w.ledger.removed("n") {
		t.Error("a power cut ends a removal that is on disk")
	}
	restore(snapshot)
	if w.ledger.removed("n") {
		t.Error("a removal stands of which no copy is left")
	}
	restore(removed)
	if !w.ledger.removed("n") {
		t.Error("a removal does not stand that is on disk again")
	}
	var record catalog.Record
	c, err := catalog.Unmarshal(removed.saved)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Records() {
		if r.Kind == catalog.KindNetwork {
			record = r
		}
	}
	landed := w.departs(h, []catalog.Record{record})
	restore(snapshot)
	if !w.ledger.removed("n") {
		t.Error("a removal does not stand that is under way")
	}
	landed()
	if w.ledger.removed("n") {
		t.Error("a removal stands whose last copy was lost under way")
	}
}
