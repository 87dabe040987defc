package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/atomicfile/disktest"
)

// sizes is how long the files of a catalog are.
func sizes(t *testing.T, dir string) (whole, changes int64) {
	t.Helper()
	path := filepath.Join(dir, "catalog")
	for name, size := range map[string]*int64{path: &whole, changesPath(path): &changes} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		*size = info.Size()
	}
	return whole, changes
}

func (w *world) rename(s *store, name string) {
	w.t.Helper()
	if _, err := s.Update(named(name)); err != nil {
		w.t.Fatal(err)
	}
	if err := s.DiskError(); err != nil {
		w.t.Fatal(err)
	}
}

// A change is written beside the catalog; when the changes have become as large as what is there, that is written anew.
func TestChangesAreWrittenAlone(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := w.store(dir, "a", append(w.admitted("b"), w.document("b"))...)
	w.rename(s, "first")
	whole, head := sizes(t, dir)
	last := head
	anew := 0
	for i := 0; anew < 2; i++ {
		w.rename(s, fmt.Sprint("name-", i))
		now, changes := sizes(t, dir)
		switch {
		case now == whole && changes > last: // appended
		case changes == head && last > max(fewChanges, whole):
			anew++
		default:
			t.Fatalf("change %d: the catalog of %d bytes has %d, the changes of %d bytes have %d", i, whole, now, last, changes)
		}
		whole, last = now, changes
		if i%100 == 0 || changes == head {
			if got := w.store(dir, "a").Own().Name; got != fmt.Sprint("name-", i) {
				t.Fatalf("after change %d the disk holds %q", i, got)
			}
		}
	}
	// Who starts goes on from both, and begins with a catalog that is whole.
	w.rename(s, "before")
	back := w.store(dir, "a")
	if back.Own().Name != "before" || back.catalog.Digest() != s.catalog.Digest() {
		t.Errorf("%q is there", back.Own().Name)
	}
	w.rename(back, "after")
	if _, changes := sizes(t, dir); changes != head {
		t.Errorf("%d bytes of changes are kept from the process before", changes)
	}
}

// A power cut in a write leaves a part of it: what was written before it is there, and the next start goes on from that.
func TestCutChangesAreLeftOut(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := w.store(dir, "a", append(w.admitted("b"), w.document("b"))...)
	for _, name := range []string{"whole", "one", "two"} {
		w.rename(s, name)
	}
	path := changesPath(filepath.Join(dir, "catalog"))
	changes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := len(catalog.ChangesHead(w.mesh))
	seen := map[string]int{}
	for cut := head; cut <= len(changes); cut++ {
		if err := os.WriteFile(path, changes[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		seen[w.store(dir, "a").Own().Name]++
	}
	if len(seen) != 3 || seen["two"] != 1 || seen["whole"]+seen["one"] != len(changes)-head {
		t.Errorf("found were %v", seen)
	}
	if err := os.WriteFile(path, changes[:len(changes)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	back := w.store(dir, "a")
	w.rename(back, "three")
	w.rename(back, "four")
	if got := w.store(dir, "a").Own().Name; got != "four" {
		t.Errorf("after a cut the disk holds %q", got)
	}
}

func TestDamagedChangesAreNamed(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.rename(w.store(dir, "a", w.admitted()...), "alpha")
	path := filepath.Join(dir, "catalog")
	other := catalog.ChangesHead(catalog.MeshIDOf(publicOf("elsewhere")))
	for _, content := range [][]byte{nil, []byte("{"), other} {
		if err := os.WriteFile(changesPath(path), content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := newStore(path, w.mesh, keyOf("a"), silent)
		if err == nil || !strings.Contains(err.Error(), changesPath(path)) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := os.Remove(changesPath(path)); err != nil {
		t.Fatal(err)
	}
	if got := w.store(dir, "a").Own().Name; got != "alpha" {
		t.Errorf("without the changes: %q", got)
	}
}

// Changes that were lost while the agent runs are written again, with all else.
func TestLostChangesAreWrittenAgain(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := w.store(dir, "a", w.admitted()...)
	w.rename(s, "alpha")
	if err := os.Remove(changesPath(s.file.path)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(named("beta")); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(s.DiskError(), os.ErrNotExist) {
		t.Errorf("it is not told: %v", s.DiskError())
	}
	if err := s.settle(); err != nil {
		t.Error(err)
	}
	if got := w.store(dir, "a").Own().Name; got != "beta" {
		t.Errorf("the disk holds %q", got)
	}
}

// On a disk that is full a change is written in part. What was there before it stays, and all is there once there is room.
func TestFullDiskCutsNoChange(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	disktest.Run(t, dir, "256k", func() {
		s := w.store(dir, "a", append(w.admitted("b"), w.document("b"))...)
		w.rename(s, "alpha")
		empty := disktest.Fill(t, dir)
		// A file system gives out pages, and the last one of the file has room for some changes more.
		last := "alpha"
		for i := 0; s.DiskError() == nil && i < 1000; i++ {
			if _, err := s.Update(named(fmt.Sprint("name-", i))); err != nil {
				t.Error(err)
			}
			if s.DiskError() == nil {
				last = fmt.Sprint("name-", i)
			}
		}
		if !errors.Is(s.DiskError(), syscall.ENOSPC) {
			t.Errorf("the disk is full, and nobody says so: %v", s.DiskError())
		}
		if got := w.store(dir, "a").Own().Name; got != last {
			t.Errorf("the disk holds %q, and %q was written", got, last)
		}
		empty()
		if err := s.settle(); err != nil {
			t.Error(err)
		}
		back := w.store(dir, "a")
		if back.Own().Name != s.Own().Name || back.catalog.Digest() != s.catalog.Digest() {
			t.Errorf("there is room again, and the disk holds %q", back.Own().Name)
		}
	})
}

// What a change costs the disk in a mesh of a thousand hosts: the change alone, and the whole catalog.
func BenchmarkWriteOneChange(b *testing.B) {
	w := newWorld(b)
	records := w.admitted("b")
	for i := range 1000 {
		name := fmt.Sprint("host-", i)
		records = append(records, w.admitted(name)...)
		records = append(records, w.document(name, func(d *catalog.Document) {
			for block := range uint32(100) { // some kilobytes, as twenty endpoints take
				d.Claims = append(d.Claims, catalog.Claim{Network: "appnet", Block: block, Stamp: testTime})
			}
		}))
	}
	whole := w.catalog(records...).Marshal()
	change := records[len(records)-1]
	f := &catalogFile{path: filepath.Join(b.TempDir(), "catalog")}
	if err := f.Replace(w.mesh, whole); err != nil {
		b.Fatal(err)
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			f.changes = 0
			if err := f.Append([]catalog.Record{change}); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(catalog.AppendChanges(nil, change))))
	})
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			if err := f.Replace(w.mesh, whole); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(whole)))
	})
	if data, err := os.ReadFile(f.path); err != nil || !bytes.Equal(data, whole) {
		b.Error("it was not written", err)
	}
}
