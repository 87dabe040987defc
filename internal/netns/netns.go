// Package netns makes, opens, enters and removes named network namespaces.
//
// A namespace is named by a path: a file that the kernel's nsfs is bound to
// (namespaces(7)), such as /run/meshd/netns or /proc/PID/ns/net. Every package
// of meshd that touches a namespace other than its own does it through here, so
// that a thread whose namespace was changed never returns to Go's pool changed.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The process's first thread cannot be thrown away, and /proc/PID/ns/net shows its
// namespace to others. So it stays with the main goroutine for ever, and never runs
// what onThread runs.
func init() { runtime.LockOSThread() }

// Host is the path of the process's own namespace, which is the host's.
const Host = "/proc/self/ns/net"

// ErrNotExist is returned when a path names no network namespace.
var ErrNotExist = errors.New("no network namespace there")

// Handle is an open network namespace. It keeps the namespace alive until it
// is closed. It may be used by several goroutines.
type Handle struct {
	file *os.File
	path string
}

// Open opens the namespace at path. It returns ErrNotExist if there is no file,
// or if the file is not a network namespace.
func Open(path string) (*Handle, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	if !isNamespace(file) {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrNotExist)
	}
	return &Handle{file: file, path: path}, nil
}

func isNamespace(file *os.File) bool {
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}

// Create makes a new namespace with its loopback up and binds it to path, or
// opens the one that is bound there already.
func Create(path string) (*Handle, error) {
	if h, err := Open(path); err == nil || !errors.Is(err, ErrNotExist) {
		return h, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("creating network namespace: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return nil, fmt.Errorf("creating network namespace: %w", err)
	}
	file.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("creating network namespace: %w", err)
		}
		if err := LoopbackUp(); err != nil {
			return err
		}
		return bind("/proc/thread-self/ns/net", path)
	})
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	return Open(path)
}

// Bind binds the namespace at source to path, which keeps it alive and gives
// it a name that does not depend on a process. It does nothing if path names
// the same namespace already.
func Bind(source, path string) error {
	if same, err := Same(source, path); err == nil && same {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("binding network namespace: %w", err)
	}
	if err := Delete(path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return fmt.Errorf("binding network namespace: %w", err)
	}
	file.Close()
	if err := bind(source, path); err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

func bind(source, path string) error {
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", source, path, err)
	}
	return nil
}

// Same says whether two paths name one namespace.
func Same(a, b string) (bool, error) {
	ha, err := Open(a)
	if err != nil {
		return false, err
	}
	defer ha.Close()
	hb, err := Open(b)
	if err != nil {
		return false, err
	}
	defer hb.Close()
	return ha.ID() == hb.ID(), nil
}

// Delete unbinds the namespace at path and removes the file. The namespace goes
// when its last process, socket and handle have gone. It is no error if there
// is nothing at path.
func Delete(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return fmt.Errorf("unbinding network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing network namespace: %w", err)
	}
	return nil
}

// ID identifies the namespace for as long as the machine runs: two handles
// have the same ID exactly if they are the same namespace.
func (h *Handle) ID() string {
	var st unix.Stat_t
	if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// Path is the path that the handle was opened with.
func (h *Handle) Path() string { return h.path }

// FD is the open file descriptor, for netlink's and nftables' "in namespace"
// options. It belongs to the handle.
func (h *Handle) FD() int { return int(h.file.Fd()) }

// ForNetlink is FD as netlink's subscriptions want it.
func (h *Handle) ForNetlink() *vnetns.NsHandle {
	namespace := vnetns.NsHandle(h.FD())
	return &namespace
}

// Close gives the handle back.
func (h *Handle) Close() error { return h.file.Close() }

// Do runs fn on a thread of its own inside the namespace and returns fn's error.
// Sockets and netlink handles that fn opens stay in the namespace. Goroutines that fn
// starts do not run there.
func (h *Handle) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(h.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %s: %w", h.path, err)
		}
		return fn()
	})
}

// Netlink opens a route-netlink handle inside the namespace. The caller closes it.
func (h *Handle) Netlink() (*netlink.Handle, error) {
	var nl *netlink.Handle
	err := h.Do(func() error {
		var err error
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening netlink in %s: %w", h.path, err)
	}
	return nl, nil
}

// Do opens the namespace at path, runs fn in it (see Handle.Do) and closes it.
func Do(path string, fn func() error) error {
	h, err := Open(path)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Do(fn)
}

// onThread runs fn on a locked OS thread that is thrown away afterwards: it
// may have changed its namespace, and a thread that goes with its goroutine can
// never be handed to another one.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// LoopbackUp sets lo up in the namespace of the calling thread: run it by Do.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return nil
}
