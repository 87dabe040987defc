package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Group is the group whose members may use the socket, if it exists.
const Group = "meshd"

// maxSocketPath is the longest path of a Unix socket in bytes (unix(7), sun_path).
const maxSocketPath = 107

// Listen opens the API's socket at path, for root and [Group] only. It makes the directory. A
// socket that a dead daemon left is replaced; if another daemon lives there, Listen fails. Closing
// the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if len(dir)+len("/.new1234567890/s") > maxSocketPath || len(path) > maxSocketPath {
		return nil, fmt.Errorf("opening the local API %s: the path is longer than a socket's may be: choose a shorter runtime_dir", path)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the local API: %w: run meshd agent as root, or choose another runtime_dir", err)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	listener, err := bindSocket(path)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return &ownedListener{Listener: listener, path: path, lock: lock}, nil
}

// lockSocket makes sure that one daemon at most has the socket. The kernel
// drops the lock with its holder, however that dies, so a stale socket is known for one.
func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the local API: %w: run meshd agent as root, or choose another runtime_dir", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && answers(path) {
		err = unix.EWOULDBLOCK
	}
	if err == nil {
		return lock, nil
	}
	_ = lock.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("opening the local API %s: another meshd agent runs there: stop it first (systemctl stop meshd), or give this one a runtime_dir of its own", path)
	}
	return nil, fmt.Errorf("locking %s: %w: choose a runtime_dir on a local file system", lock.Name(), err)
}

func answers(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// bindSocket makes the socket in a directory that only we can enter, and moves it to its place when
// its owner and mode are right: nobody can connect in between, whatever the umask.
func bindSocket(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("opening the local API %s: something that is no socket is in its place: move it away, or choose another runtime_dir", path)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".new")
	if err != nil {
		return nil, fmt.Errorf("opening the local API: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fresh := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening the local API %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	err = permit(fresh)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("opening the local API %s: %w", path, err)
	}
	return listener, nil
}

func permit(socket string) error {
	if err := os.Chmod(socket, 0o660); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil // it is ours already, and nobody else's
	}
	gid := 0
	if group, err := user.LookupGroup(Group); err == nil {
		if gid, err = strconv.Atoi(group.Gid); err != nil {
			return fmt.Errorf("group %s: %w", Group, err)
		}
	}
	return os.Chown(socket, 0, gid)
}

// ownedListener removes its socket and gives its lock back when it is closed.
type ownedListener struct {
	net.Listener
	path string
	lock *os.File
}

func (l *ownedListener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err // a second time: the path may be somebody else's by now
	}
	return errors.Join(err, os.Remove(l.path), l.lock.Close())
}
