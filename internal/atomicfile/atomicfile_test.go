package atomicfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/meshd/meshd/internal/atomicfile"
	"github.com/meshd/meshd/internal/atomicfile/disktest"
)

func TestWriteReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, want := range []string{"first", "", "a longer third"} {
		if err := atomicfile.Write(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	onlyFile(t, filepath.Dir(path), "state")
}

func TestSweepRemovesOnlyTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"keep", ".state.meshd-tmp-123", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, ".hidden")); err != nil {
		t.Fatalf("swept a file that is not a temporary one: %v", err)
	}
	onlyFile(t, dir, "keep")
}

// A full disk leaves the old file whole and no temporary one beside it.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	disktest.Run(t, dir, "64k", func() {
		path := filepath.Join(dir, "state")
		if err := atomicfile.Write(path, []byte("old"), 0o600); err != nil {
			t.Error(err)
			return
		}
		err := atomicfile.Write(path, bytes.Repeat([]byte("x"), 1<<20), 0o600)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error %v, want no space left", err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != "old" {
			t.Errorf("read %.20q, %v; want the old content", got, err)
		}
		onlyFile(t, dir, "state")
	})
}

func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("directory holds %v, %v; want only %s", entries, err, name)
	}
}
