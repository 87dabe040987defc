// Package atomicfile replaces files whole: after a crash or on a full disk a file
// holds what it held before or what was written, never a part.
package atomicfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// tempMark is in the name of every temporary file, so that [Sweep] knows what
// a crash left behind.
const tempMark = ".meshd-tmp-"

// disk is what Write does to a file system. Tests cut its power at every step.
type disk interface {
	createTemp(dir, pattern string) (file, error)
	rename(from, to string) error
	remove(name string) error
	syncDir(dir string) error
}

// file is a file that is being written.
type file interface {
	Name() string
	Chmod(perm os.FileMode) error
	Write(data []byte) (int, error)
	Sync() error
	Close() error
}

type realDisk struct{}

func (realDisk) createTemp(dir, pattern string) (file, error) { return os.CreateTemp(dir, pattern) }
func (realDisk) rename(from, to string) error                 { return os.Rename(from, to) }
func (realDisk) remove(name string) error                     { return os.Remove(name) }
func (realDisk) syncDir(dir string) error                     { return SyncDir(dir) }

// Write replaces the file at path with data, mode perm. The temporary file lies
// beside it, so the directory must be writable. When Write returns nil the data and
// its name are on disk; when it returns an error the old file is as it was, or, if only
// making the new name durable failed, the new one is there.
func Write(path string, data []byte, perm os.FileMode) error {
	return write(realDisk{}, path, data, perm)
}

func write(d disk, path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	temp, err := d.createTemp(dir, "."+filepath.Base(path)+tempMark+"*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = d.remove(temp.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err = temp.Chmod(perm); err != nil {
		return err
	}
	if _, err = temp.Write(data); err != nil {
		return err
	}
	// Without this a power cut can leave the new name on an empty file.
	if err = temp.Sync(); err != nil {
		return err
	}
	if err = temp.Close(); err != nil {
		return err
	}
	if err = d.rename(temp.Name(), path); err != nil {
		return err
	}
	return d.syncDir(dir)
}

// SyncDir makes the names in a directory durable: created, renamed and removed ones.
func SyncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	defer func() { _ = file.Close() }() // opened for reading only
	if err := file.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

// Sweep removes the temporary files that a crash left in dir. The caller must
// be the only one that writes there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing temporary files: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") || !strings.Contains(entry.Name(), tempMark) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("removing temporary file: %w", err)
		}
	}
	return nil
}
