// Package disktest lets tests see what a full disk does.
package disktest

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs fn with a file system of so many bytes (such as "64k", tmpfs(5)) at dir, that no other
// thread sees. It wants root; in CI the test fails without. Fn must not start
// goroutines that use dir.
func Run(t testing.TB, dir, size string, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root to mount a small file system, and CI is set")
		}
		t.Skip("needs root to mount a small file system")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its mounts with it
		err := errors.New("the test ended early")
		defer func() { done <- err }() // also if fn calls FailNow
		err = mount(dir, size, fn)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func mount(dir, size string, fn func()) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		return err
	}
	fn()
	return nil
}

// Fill leaves no room in dir, and returns how to make it again.
func Fill(t testing.TB, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Error(err)
		return func() {}
	}
	chunk := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(chunk)
	}
	_ = f.Close() // what was written is what matters
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}
