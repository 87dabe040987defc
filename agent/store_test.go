package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/meshd/meshd/catalog"
)

func named(name string) func(*catalog.Document) {
	return func(d *catalog.Document) { d.Name, d.Epoch = name, max(d.Epoch, 1) }
}

func TestUpdateTellsEverybodyOnce(t *testing.T) {
	w := newWorld(t)
	s := w.store(t.TempDir(), "a", w.admitted("b")...)
	var changes int
	var told []catalog.Record
	s.changed = func() { changes++ }
	s.spread = func(r []catalog.Record) { told = append(told, r...) }
	first, err := s.Update(named("alpha"))
	if err != nil {
		t.Fatal(err)
	}
	if changes != 1 || len(told) != 1 || s.Own().Name != "alpha" || first.Sequence != 1 {
		t.Fatalf("%d changes, %d records told, %+v", changes, len(told), first)
	}
	again, err := s.Update(named("alpha"))
	if err != nil {
		t.Fatal(err)
	}
	if again != first || changes != 1 || len(told) != 1 {
		t.Errorf("a change that changes nothing wrote %+v after %+v, and told %d records", again, first, len(told))
	}
}

func TestCatalogSurvivesARestart(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := w.store(dir, "a", append(w.admitted("b"), w.document("b"))...)
	if _, err := s.Update(named("alpha")); err != nil {
		t.Fatal(err)
	}
	back := w.store(dir, "a")
	if back.Own().Name != "alpha" || back.Own().Sequence != 1 {
		t.Errorf("own document: %+v", back.Own())
	}
	if got, want := len(back.Records()), len(s.Records()); got != want {
		t.Errorf("%d of %d records came back", got, want)
	}
}

func TestDamagedCatalogIsNamed(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	path := filepath.Join(dir, "catalog")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newStore(path, w.mesh, keyOf("a"), silent)
	if !errors.Is(err, catalog.ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
		t.Fatalf("%v", err)
	}
}

// After a roll-back the others know a later document of this host than it does itself.
func TestOwnDocumentAfterARollBack(t *testing.T) {
	w := newWorld(t)
	claim := catalog.Claim{Network: "appnet", Block: 3, Stamp: testTime}
	later := w.document("a", func(d *catalog.Document) {
		d.Epoch, d.Sequence, d.Name = 5, 70, "later"
		d.Claims = []catalog.Claim{claim}
	})
	s := w.store(t.TempDir(), "a", slices.Concat(w.admitted(), w.networks())...)
	if _, err := s.Update(named("rolled back")); err != nil {
		t.Fatal(err)
	}
	if _, rejected := s.Merge(later); len(rejected) > 0 {
		t.Fatal(rejected)
	}
	select {
	case <-s.overtaken:
	default:
		t.Error("nobody is asked to write the document anew")
	}
	if s.Overtaken() != 1 {
		t.Errorf("overtaken %d times", s.Overtaken())
	}
	version, err := s.Update(func(*catalog.Document) {})
	if err != nil {
		t.Fatal(err)
	}
	if version.Epoch != 6 || version.Sequence != 1 {
		t.Errorf("the next version is %d.%d: the others would not take it", version.Epoch, version.Sequence)
	}
	m, _ := s.View().Member(nodeOf("a"))
	if m.Name != "rolled back" {
		t.Errorf("the others see %q, which is no longer so", m.Name)
	}
	if !slices.Contains(s.Own().Claims, claim) {
		t.Error("a claim that the others hold was forgotten")
	}
}

func TestFullDiskKeepsTheCatalogInMemory(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := w.store(dir, "a", w.admitted()...)
	s.file.path = filepath.Join(dir, "no such directory", "catalog")
	if _, err := s.Update(named("alpha")); err != nil {
		t.Fatalf("a full disk stops the mesh: %v", err)
	}
	if s.Own().Name != "alpha" || s.DiskError() == nil {
		t.Errorf("name %q, disk %v", s.Own().Name, s.DiskError())
	}
	select {
	case <-s.dirty:
	default:
		t.Error("nobody is asked to try the disk again")
	}
	s.file.path = filepath.Join(dir, "catalog")
	if err := s.save(); err != nil || s.DiskError() != nil {
		t.Errorf("%v, %v", err, s.DiskError())
	}
}

func TestConcurrentUpdatesAndMerges(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := w.store(dir, "a", w.admitted("b")...)
	const each = 20
	var group sync.WaitGroup
	for g := range 4 {
		group.Add(2)
		go func() {
			defer group.Done()
			for i := range each {
				_, err := s.Update(func(d *catalog.Document) {
					d.Epoch = 1
					d.Claims = append(d.Claims, catalog.Claim{Network: "appnet", Block: uint32(g*each + i), Stamp: 1})
					slices.SortFunc(d.Claims, compareClaims)
				})
				if err != nil {
					t.Error(err)
				}
			}
		}()
		go func() {
			defer group.Done()
			for i := range each {
				s.Merge(w.document("b", func(d *catalog.Document) { d.Sequence = uint64(g*each + i + 1) }))
				s.View()
				s.Records()
			}
		}()
	}
	group.Wait()
	own := s.Own()
	if len(own.Claims) != 4*each || own.Sequence != 4*each {
		t.Errorf("%d of %d claims in version %d", len(own.Claims), 4*each, own.Sequence)
	}
	if version, _ := s.forSyncer().Version(nodeOf("b")); version.Sequence != 4*each {
		t.Errorf("b's document is version %d", version.Sequence)
	}
	if err := s.settle(); err != nil || w.store(dir, "a").catalog.Digest() != s.catalog.Digest() {
		t.Errorf("another catalog is on disk (%v)", err)
	}
}

func TestWrongClockIsRemembered(t *testing.T) {
	w := newWorld(t)
	s := w.store(t.TempDir(), "a", w.admitted("b")...)
	if err := s.ClockError(); err != nil {
		t.Fatal(err)
	}
	_, rejected := s.Merge(w.document("b", func(d *catalog.Document) { d.Stamp = now().Add(2 * catalog.MaxSkew) }))
	if len(rejected) != 1 {
		t.Fatalf("%v", rejected)
	}
	if err := s.ClockError(); !errors.Is(err, catalog.ErrFuture) || !strings.Contains(err.Error(), string(nodeOf("b"))) {
		t.Errorf("%v", err)
	}
}

func TestStandingAndAddresses(t *testing.T) {
	w := newWorld(t)
	s := w.store(t.TempDir(), "a", w.admitted("b")...)
	address := catalog.MeshAddress(w.mesh, nodeOf("c"))
	if id, ok := s.NodeAt(address); ok {
		t.Errorf("%s is %s", address, id)
	}
	session := &session{store: s}
	if err := session.verifyPeer(nodeOf("c"), address); err == nil || !strings.Contains(err.Error(), "is not known") {
		t.Errorf("a stranger: %v", err)
	}
	s.Merge(w.admitted("b", "c")...)
	if id, ok := session.peerOf(address); !ok || id != nodeOf("c") {
		t.Errorf("%s is %q just after it was let in", address, id)
	}
	if err := session.verifyPeer(nodeOf("c"), address); err != nil {
		t.Error(err)
	}
	if err := session.verifyPeer(nodeOf("c"), netip.MustParseAddr("fd00::1")); err == nil {
		t.Error("a member may speak from any address")
	}
	s.Merge(w.evict("c"))
	if id, ok := session.peerOf(address); ok {
		t.Errorf("%s, which was evicted, is still a peer", id)
	}
	if err := session.verifyPeer(nodeOf("c"), address); err == nil || !strings.Contains(err.Error(), "was evicted") {
		t.Errorf("an evicted member: %v", err)
	}
}

// With everything that a large mesh changes at once, who asks often must not make the view anew.
func BenchmarkPeerOfDuringChanges(b *testing.B) {
	w := newWorld(b)
	s := w.store(b.TempDir(), "a", w.threeHosts()...)
	session := &session{store: s}
	address := catalog.MeshAddress(w.mesh, nodeOf("b"))
	var documents []catalog.Record
	for i := range 1000 {
		documents = append(documents, w.document("b", func(d *catalog.Document) { d.Sequence, d.Name = uint64(i+2), fmt.Sprint(i) }))
	}
	for i := 0; b.Loop(); i++ {
		s.Merge(documents[i%len(documents)])
		session.peerOf(address)
	}
}
