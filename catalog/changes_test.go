package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// changed is a catalog, the changes that lead to it from a founding, and how it looked after each.
func changed(w *world) (c *Catalog, changes [][]byte, digests []Digest) {
	w.t.Helper()
	c = w.filled(w.founding())
	digests = append(digests, c.Digest())
	steps := [][]Record{
		w.join("a", "b"),
		{w.network("b", "n")},
		{w.document("b", func(d *Document) { d.Sequence, d.Name = 2, "later" })},
		{w.evict("a", "b")},
	}
	for _, recs := range steps {
		news, rejected := c.Merge(testNow, recs...)
		if len(news) == 0 || len(rejected) > 0 {
			w.t.Fatal(news, rejected)
		}
		for _, r := range news {
			changes = append(changes, AppendChanges(nil, r))
		}
	}
	replayed := w.filled(w.founding())
	data := ChangesHead(w.mesh)
	for _, change := range changes {
		data = append(data, change...)
		if lost, err := replayed.Replay(data); lost != 0 || err != nil {
			w.t.Fatal(lost, err)
		}
		digests = append(digests, replayed.Digest())
	}
	return c, changes, digests
}

// Changes that are merged after a stored catalog lead to what was there, however much of them the catalog holds already.
func TestReplayLeadsToTheSame(t *testing.T) {
	w := newWorld(t)
	c, changes, digests := changed(w)
	if digests[len(digests)-1] != c.Digest() {
		t.Error("another catalog comes back")
	}
	data := append(ChangesHead(w.mesh), bytes.Join(changes, nil)...)
	back, err := Unmarshal(c.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	// Those before the eviction are refused now, and that is no damage.
	if lost, err := back.Replay(data); lost != 0 || err != nil || back.Digest() != c.Digest() {
		t.Errorf("on top of what holds them: %d, %v", lost, err)
	}
}

// Changes that are cut off, at any byte, are those that are whole; and so if one byte is another.
func TestReplayBelievesWholeChangesOnly(t *testing.T) {
	w := newWorld(t)
	_, changes, digests := changed(w)
	head := ChangesHead(w.mesh)
	data := append(bytes.Clone(head), bytes.Join(changes, nil)...)
	whole := func(size int) (n, end int) {
		for end = len(head); n < len(changes) && end+len(changes[n]) <= size; n++ {
			end += len(changes[n])
		}
		return n, end
	}
	replay := func(what string, data []byte, n, lost int) {
		t.Helper()
		c := w.filled(w.founding())
		got, err := c.Replay(data)
		if err != nil || got != lost || c.Digest() != digests[n] {
			t.Fatalf("%s: %d bytes lost, want %d; %v; as after %d changes: %t", what, got, lost, err, n, c.Digest() == digests[n])
		}
	}
	for size := len(head); size <= len(data); size++ {
		n, end := whole(size)
		replay(fmt.Sprintf("cut at %d", size), data[:size], n, size-end)
		if size == len(data) {
			break
		}
		bad := bytes.Clone(data)
		bad[size] ^= 0x40
		replay(fmt.Sprintf("byte %d changed", size), bad, n, len(data)-end)
	}
	for size := range head {
		if _, err := New(w.mesh).Replay(head[:size]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("head cut at %d: %v", size, err)
		}
	}
	if _, err := New(MeshIDOf(pub(keyOf("other")))).Replay(head); !errors.Is(err, ErrOtherMesh) {
		t.Errorf("another mesh's: %v", err)
	}
}

func FuzzReplay(f *testing.F) {
	w := newWorld(f)
	_, changes, _ := changed(w)
	f.Add(append(ChangesHead(w.mesh), bytes.Join(changes, nil)...))
	f.Add(ChangesHead(w.mesh))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := New(w.mesh)
		lost, err := c.Replay(data)
		if lost < 0 || lost > len(data) || err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrOtherMesh) {
			t.Fatal(lost, err)
		}
		if _, err := Unmarshal(c.Marshal()); err != nil {
			t.Fatal(err)
		}
	})
}
