package identity

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/atomicfile"
)

// Names of the files in the state directory.
const (
	lockFile       = "lock"
	identityFile   = "identity.json"
	membershipFile = "membership.json"
	epochFile      = "epoch"
)

// maxFile limits what is read of a state file, in bytes. The largest, the
// membership, has a few kilobytes.
const maxFile = 1 << 20

var (
	// ErrLocked is returned by [Open] while another process has the directory.
	ErrLocked = errors.New("in use by another process")
	// ErrUnsafe is returned for files that others can read, or that belong to others.
	ErrUnsafe = errors.New("not safe")
	// ErrCorrupt is returned for files that do not hold what they should.
	ErrCorrupt = errors.New("damaged")
	// ErrNone is returned by [Dir.Load] when the directory holds no identity.
	ErrNone = errors.New("no identity there yet")
)

// Dir is a state directory that this process has for itself, until it is closed.
// It is not safe for concurrent use.
type Dir struct {
	path string
	lock *os.File
}

// Open makes the state directory if need be and locks it. It returns ErrLocked,
// with the pid, if another process has it, and ErrUnsafe if others can look into it.
// What a crashed predecessor left half-written is removed.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	if err := tightenEmpty(path); err != nil {
		return nil, err
	}
	if err := checkSafe(path, true); err != nil {
		return nil, err
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Sweep(path); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return &Dir{path: path, lock: lock}, nil
}

// Path is the state directory.
func (d *Dir) Path() string { return d.path }

// Close gives the directory back to others.
func (d *Dir) Close() error { return d.lock.Close() }

// Wipe removes the identity, the membership and the epoch. What others keep in the
// directory stays. After a crash half-way the node is no member, and Wipe can be repeated.
func (d *Dir) Wipe() error {
	for _, name := range []string{membershipFile, identityFile, epochFile} {
		if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the identity: %w", err)
		}
	}
	return atomicfile.SyncDir(d.path)
}

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// lockDir takes the directory's lock. The file stays for ever: removing it would let two
// processes lock two files of one name.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	err = waitLock(file)
	if errors.Is(err, unix.EWOULDBLOCK) {
		by := lockHolder(file)
		_ = file.Close()
		return nil, fmt.Errorf("state directory %s is %w%s: two agents cannot be one node: stop that one, or choose another state_dir",
			dir, ErrLocked, by)
	}
	if err == nil {
		err = writePID(file)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return file, nil
}

// dying is how long a holder is waited for that was killed: it has vanished from lists
// of processes a moment before the kernel drops its locks.
const dying = time.Second

func waitLock(file *os.File) error {
	for deadline := time.Now().Add(dying); ; time.Sleep(dying / 50) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

func lockHolder(file *os.File) string {
	text, err := io.ReadAll(io.LimitReader(file, 32))
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return ""
	}
	comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	if err != nil {
		return " (pid " + pid + ")"
	}
	return fmt.Sprintf(" (pid %s, %s)", pid, strings.TrimSpace(string(comm)))
}

func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// read returns a state file's bytes, or an error that wraps os.ErrNotExist,
// ErrUnsafe or ErrCorrupt.
func (d *Dir) read(name string) ([]byte, error) {
	path := d.file(name)
	if err := checkSafe(path, false); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the node's state: %w", err)
	}
	defer func() { _ = file.Close() }() // opened for reading only
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, d.corrupt(name, fmt.Errorf("it is larger than %d bytes", maxFile))
	}
	return data, nil
}

func (d *Dir) write(name string, data []byte) error {
	return atomicfile.Write(d.file(name), data, 0o600)
}

// corrupt says what is wrong with a file and what a person can do about it.
func (d *Dir) corrupt(name string, why error) error {
	return fmt.Errorf("%s is %w: %w: restore it from a backup, or move %s away and join again (as a new node)",
		d.file(name), ErrCorrupt, why, d.path)
}

// tightenEmpty takes an empty directory away from others: nothing in it can have been
// read yet. One that holds something is left alone, it may be /var/lib by mistake.
func tightenEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("reading the state directory: %w", err)
	}
	if len(entries) > 0 {
		return nil
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("closing the state directory to others: %w", err)
	}
	return nil
}

// checkSafe refuses what others own or may open: it may have been read, or put there.
func checkSafe(path string, dir bool) error {
	mode, look := "600", os.Lstat
	if dir {
		mode, look = "700", os.Stat // /var/lib/meshd may be a link to a larger disk
	}
	info, err := look(path)
	if err != nil {
		return fmt.Errorf("reading the node's state: %w", err)
	}
	switch {
	case info.IsDir() != dir || !dir && !info.Mode().IsRegular():
		return fmt.Errorf("%s is %w: it is no plain file or directory: move it away", path, ErrUnsafe)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is %w: others may open it (mode %04o) and it holds keys: chmod %s %s",
			path, ErrUnsafe, info.Mode().Perm(), mode, path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is %w: it belongs to user %d, not to %d: chown %d %s",
			path, ErrUnsafe, stat.Uid, os.Geteuid(), os.Geteuid(), path)
	}
	return nil
}
