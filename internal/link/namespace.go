package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	vnetns "github.com/vishvananda/netns"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/netns"
)

// Namespace is an open network namespace with netlink sockets inside. It may be
// used by several goroutines. The holder closes it.
type Namespace struct {
	handle *netns.Handle
	nl     *netlink.Handle
	raw    *nl.SocketHandle // for what package netlink has no words for

	changes *journal.Journal // nil: nobody reads it
}

// Open opens the namespace at path. It returns netns.ErrNotExist (wrapped) if
// there is none.
func Open(path string) (*Namespace, error) {
	handle, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	n := &Namespace{handle: handle}
	err = handle.Do(func() error {
		var err error
		if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		socket, err := nl.GetNetlinkSocketAt(vnetns.None(), vnetns.None(), unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		n.raw = &nl.SocketHandle{Socket: socket}
		return nil
	})
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("opening netlink in %s: %w", path, classify(err))
	}
	return n, nil
}

// Current opens the namespace of the calling thread: the process's, unless the
// caller runs inside netns.Do.
func Current() (*Namespace, error) { return Open("/proc/thread-self/ns/net") }

// Close gives the sockets and the handle back.
func (n *Namespace) Close() {
	if n.nl != nil {
		n.nl.Close()
	}
	if n.raw != nil {
		n.raw.Close()
	}
	_ = n.handle.Close()
}

// Keep has the namespace's changes taken down.
func (n *Namespace) Keep(changes *journal.Journal) { n.changes = changes }

// Netlink is the namespace's route-netlink handle. It belongs to n.
func (n *Namespace) Netlink() *netlink.Handle { return n.nl }

// Handle is the open namespace. It belongs to n.
func (n *Namespace) Handle() *netns.Handle { return n.handle }

// Links returns all interfaces by name.
func (n *Namespace) Links() (map[string]netlink.Link, error) {
	list, err := Dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", classify(err))
	}
	links := make(map[string]netlink.Link, len(list))
	for _, l := range list {
		links[l.Attrs().Name] = l
	}
	return links, nil
}

// Link returns the interface of that name, or ErrNotFound.
func (n *Namespace) Link(name string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("finding interface %s: %w", name, classify(err))
	}
	return l, nil
}

// Delete removes an interface. It is no error if it has gone already.
func (n *Namespace) Delete(l netlink.Link) error {
	err := classify(n.nl.LinkDel(l))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("deleting interface %s: %w", l.Attrs().Name, err)
	}
	n.changes.Note("ip link del %s", l.Attrs().Name)
	return nil
}

// EnsureUp sets the interface up if it is down.
func (n *Namespace) EnsureUp(l netlink.Link) error {
	if l.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("setting interface %s up: %w", l.Attrs().Name, classify(err))
	}
	n.changes.Note("ip link set %s up", l.Attrs().Name)
	return nil
}

// EnsureMTU sets the interface's MTU, in bytes, if it is another.
func (n *Namespace) EnsureMTU(l netlink.Link, mtu int) error {
	if l.Attrs().MTU == mtu {
		return nil
	}
	if err := n.nl.LinkSetMTU(l, mtu); err != nil {
		return fmt.Errorf("setting MTU of interface %s to %d: %w", l.Attrs().Name, mtu, classify(err))
	}
	n.changes.Note("ip link set %s mtu %d", l.Attrs().Name, mtu)
	return nil
}

// dumpAttempts is how often a dump is asked for again that the kernel had to
// interrupt because the table changed under it.
const dumpAttempts = 8

// Dump calls a netlink listing until it comes back whole.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	for attempt := 1; ; attempt++ {
		all, err := list()
		if err == nil || !errors.Is(err, netlink.ErrDumpInterrupted) || attempt == dumpAttempts {
			return all, err
		}
	}
}
