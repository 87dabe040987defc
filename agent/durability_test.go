package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/atomicfile"
	"github.com/meshd/meshd/internal/atomicfile/disktest"
)

// written makes a state directory with a catalog and endpoints in it.
func (w *world) written(dir string) {
	w.t.Helper()
	s := w.store(dir, "a", append(w.admitted("b"), w.document("b"))...)
	if _, err := s.Update(named("alpha")); err != nil {
		w.t.Fatal(err)
	}
	if err := openTestLocals(w.t, dir).Confirm(block("appnet", 1)); err != nil {
		w.t.Fatal(err)
	}
}

// A file that ends early, wherever that is, is never taken for the whole.
func TestCutFilesAreNotBelieved(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.written(dir)
	for name, open := range map[string]func() error{
		"catalog": func() error {
			_, err := newStore(filepath.Join(dir, "catalog"), w.mesh, keyOf("a"), silent)
			return err
		},
		"endpoints": func() error {
			_, err := openLocals(dir)
			return err
		},
	} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for cut := range whole {
			if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			if err := open(); err == nil {
				t.Fatalf("%s, cut at %d of %d bytes, was believed", name, cut, len(whole))
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(); err != nil {
			t.Errorf("%s, whole again: %v", name, err)
		}
	}
}

// A power cut while a file is replaced leaves the old one, and beside it a part of the new
// one. The next start believes the old one and clears the rest away.
func TestPowerCutInAWrite(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.written(dir)
	path := filepath.Join(dir, "catalog")
	next, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(next); cut += 97 {
		torn := filepath.Join(dir, ".catalog.meshd-tmp-"+strconv.Itoa(cut))
		if err := os.WriteFile(torn, next[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.Sweep(dir); err != nil { // as identity.Open does
			t.Fatal(err)
		}
		if _, err := os.Stat(torn); !os.IsNotExist(err) {
			t.Fatalf("%s is left: %v", torn, err)
		}
		if got := w.store(dir, "a").Own().Name; got != "alpha" {
			t.Fatalf("cut at %d: this host's document is %q's", cut, got)
		}
	}
}

const writerEnv = "MESHD_TEST_WRITER"

// TestWriter is no test: it is the process that TestKilledInAnyWrite kills. It says
// each version once it counts as written.
func TestWriter(t *testing.T) {
	dir := os.Getenv(writerEnv)
	if dir == "" {
		t.Skip("runs as a child of TestKilledInAnyWrite")
	}
	w := newWorld(t)
	s, l := w.store(dir, "a", append(w.admitted("b"), w.document("b"))...), openTestLocals(t, dir)
	for i := s.Own().Sequence; ; i++ {
		version, err := s.Update(func(d *catalog.Document) { d.Epoch, d.Name = 1, fmt.Sprint("v", i) })
		if err == nil {
			err = l.Confirm(block("appnet", uint32(version.Sequence)))
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("written", version.Sequence)
	}
}

// Whatever the moment in which an agent is killed, all that it had said was written is there.
func TestKilledInAnyWrite(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	last := uint64(0)
	for round := range 12 {
		child := exec.Command(os.Args[0], "-test.run=^TestWriter$")
		child.Env = append(os.Environ(), writerEnv+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, enough := bufio.NewScanner(out), 1+rand.IntN(8)
		for said := 0; lines.Scan(); {
			number, ok := strings.CutPrefix(lines.Text(), "written ")
			if !ok {
				continue
			}
			if last, err = strconv.ParseUint(number, 10, 64); err != nil {
				t.Fatal(err)
			}
			if said++; said == enough {
				time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { _ = child.Process.Kill() }) // it may have ended
			}
		}
		_ = child.Wait() // it was killed
		if err := atomicfile.Sweep(dir); err != nil {
			t.Fatal(err)
		}
		if got := w.store(dir, "a").Own().Sequence; got < last {
			t.Fatalf("round %d: version %d was written, version %d is there", round, last, got)
		}
		if !openTestLocals(t, dir).Confirmed(block("appnet", uint32(last))) {
			t.Fatalf("round %d: block %d was confirmed, and is not any more", round, last)
		}
	}
	left, err := fs.Glob(os.DirFS(dir), ".*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if last == 0 {
		t.Error("nothing was ever written")
	}
}

// With a full disk this host goes on from memory and says so, but acknowledges nothing that it
// would forget; once there is room all is written.
func TestFullDiskIsSurvived(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	disktest.Run(t, dir, "256k", func() { w.fullDisk(dir) })
}

func (w *world) fullDisk(dir string) {
	t := w.t
	w.written(dir)
	s, l := w.store(dir, "a"), openTestLocals(t, dir)
	e := newLocal("1", "/nowhere", 8)
	if err := l.Put(e); err != nil {
		t.Error(err)
	}
	empty := disktest.Fill(t, dir)
	if _, err := s.Update(named("beta")); err != nil {
		t.Errorf("a full disk stops the mesh: %v", err)
	}
	s.Merge(w.document("b", func(d *catalog.Document) { d.Sequence = 9 }))
	if err := s.settle(); !errors.Is(err, syscall.ENOSPC) || s.DiskError() == nil {
		t.Errorf("what is not on disk would be acknowledged: %v, %v", err, s.DiskError())
	}
	if err := l.Confirm(block("appnet", 2)); err == nil || l.Confirmed(block("appnet", 2)) {
		t.Errorf("a block would be used whose claim is not on disk: %v", err)
	}
	if err := l.Remove(e.ID, now()); err == nil || len(l.All()) != 0 || l.DiskError() == nil {
		t.Errorf("%v, %d endpoints, %v", err, len(l.All()), l.DiskError())
	}
	if s.Own().Name != "beta" {
		t.Errorf("memory holds %q", s.Own().Name)
	}
	if got := w.store(dir, "a").Own().Name; got != "alpha" {
		t.Errorf("the disk holds %q, which is neither the old nor whole", got)
	}
	empty()
	if err := errors.Join(s.settle(), l.Flush(), s.DiskError(), l.DiskError()); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	back := w.store(dir, "a")
	if version, _ := back.forSyncer().Version(nodeOf("b")); back.Own().Name != "beta" || version.Sequence != 9 || len(openTestLocals(t, dir).All()) != 0 {
		t.Errorf("%q, %+v: not all came to disk", back.Own().Name, version)
	}
}
