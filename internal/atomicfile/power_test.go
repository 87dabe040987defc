package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// model is a disk as POSIX promises it, and no better: what was written and not synced may be
// there, in part, or not at all after a power cut; and so may a name, until its directory is synced.
type model struct {
	names   map[string]*inode // as programs see them
	durable map[string]*inode // as a power cut leaves them at worst
	steps   int               // until the power goes or, with broken, a step fails; -1: never
	broken  bool
	lazy    string // a step that the code under test forgets: "sync", or "dir"
	made    int
}

type inode struct{ content, synced string }

var (
	errPower = errors.New("the power is gone")
	errDisk  = errors.New("no space left on device")
)

// step is one instruction. At the last one the power goes, or the disk refuses once.
func (m *model) step() error {
	if m.steps == 0 && !m.broken {
		return errPower
	}
	m.steps--
	if m.broken && m.steps == -1 {
		return errDisk
	}
	return nil
}

func (m *model) createTemp(dir, pattern string) (file, error) {
	if err := m.step(); err != nil {
		return nil, err
	}
	m.made++
	name := filepath.Join(dir, strings.Replace(pattern, "*", strconv.Itoa(m.made), 1))
	m.names[name] = &inode{}
	return &modelFile{m, name}, nil
}

func (m *model) rename(from, to string) error {
	if err := m.step(); err != nil {
		return err
	}
	m.names[to] = m.names[from]
	delete(m.names, from)
	return nil
}

func (m *model) remove(name string) error {
	if err := m.step(); err != nil {
		return err
	}
	delete(m.names, name)
	return nil
}

func (m *model) syncDir(string) error {
	if m.lazy == "dir" {
		return nil
	}
	if err := m.step(); err != nil {
		return err
	}
	m.durable = map[string]*inode{}
	for name, node := range m.names {
		m.durable[name] = node
	}
	return nil
}

type modelFile struct {
	m    *model
	name string
}

func (f *modelFile) Name() string            { return f.name }
func (f *modelFile) Chmod(os.FileMode) error { return f.m.step() }
func (f *modelFile) Close() error            { return f.m.step() }

func (f *modelFile) Write(data []byte) (int, error) {
	for i, b := range data { // each byte is a step: a write may end anywhere
		if err := f.m.step(); err != nil {
			return i, err
		}
		f.m.names[f.name].content += string(b)
	}
	return len(data), nil
}

func (f *modelFile) Sync() error {
	if f.m.lazy == "sync" {
		return nil
	}
	if err := f.m.step(); err != nil {
		return err
	}
	f.m.names[f.name].synced = f.m.names[f.name].content
	return nil
}

// afterPowerCut is all that may be found under a name when the power is back.
func (m *model) afterPowerCut(name string) []string {
	var found []string
	for _, node := range []*inode{m.names[name], m.durable[name]} {
		if node == nil {
			found = append(found, "nothing")
			continue
		}
		for cut := len(node.synced); cut <= len(node.content); cut++ {
			found = append(found, node.content[:cut])
		}
	}
	return found
}

func newModel() *model {
	old := &inode{"old", "old"}
	return &model{names: map[string]*inode{"/s/state": old}, durable: map[string]*inode{"/s/state": old}, steps: -1}
}

// Whatever the step at which the power goes, there is the old file or the new one, whole; and the
// new one once Write has said so.
func TestPowerCutAtEveryStep(t *testing.T) {
	for _, lazy := range []string{"", "sync", "dir"} {
		wrong := 0
		for steps := 0; ; steps++ {
			m := newModel()
			m.steps, m.lazy = steps, lazy
			err := write(m, "/s/state", []byte("new one"), 0o600)
			want := []string{"new one"}
			if err != nil {
				want = append(want, "old")
			}
			for _, found := range m.afterPowerCut("/s/state") {
				if !slices.Contains(want, found) {
					wrong++
					if lazy == "" {
						t.Errorf("power cut at step %d, %v: %q is found", steps, err, found)
					}
				}
			}
			if err == nil {
				break
			}
		}
		if lazy != "" && wrong == 0 {
			t.Errorf("that Write forgets to sync (%s) is not noticed", lazy)
		}
	}
}

// Whatever the step that fails, the file is whole, no temporary one is left, and the next write
// succeeds.
func TestDiskRefusesEveryStep(t *testing.T) {
	for steps := 0; ; steps++ {
		m := newModel()
		m.steps, m.broken = steps, true
		err := write(m, "/s/state", []byte("new one"), 0o600)
		if err == nil {
			if steps < 10 {
				t.Errorf("only %d steps were tried", steps)
			}
			return
		}
		if !errors.Is(err, errDisk) {
			t.Fatalf("step %d: %v", steps, err)
		}
		if got := m.names["/s/state"].content; len(m.names) != 1 || got != "old" && got != "new one" {
			t.Errorf("step %d fails: %d files, %q", steps, len(m.names), got)
		}
		if err := write(m, "/s/state", []byte("third"), 0o600); err != nil || m.names["/s/state"].content != "third" {
			t.Errorf("after a failure at step %d: %v", steps, err)
		}
	}
}
