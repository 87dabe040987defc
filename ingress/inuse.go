package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// PortID names a port of the host.
type PortID struct {
	Protocol string // "tcp" or "udp"
	Number   uint16
}

func comparePortIDs(a, b PortID) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
}

// A portKeeper keeps the host's ports apart: what a process has is not published, and no process gets
// what is published. For each published port it has a socket that is in the way of others and takes
// nothing in: packets are translated before they come to sockets. The sockets end with this process; then others may
// get the ports.
//
// Its methods may be called by several goroutines.
type portKeeper struct {
	log     *slog.Logger
	changed func() // called without the lock when others' ports have changed

	mu      sync.Mutex // guards all below
	own     map[PortID]int
	others  []PortID // wanted, and a process has them; sorted
	failing string   // why the last port could not be had, if no process has it
}

// keep makes the wanted ports, and no others, this process's. It returns those that it has.
func (k *portKeeper) keep(want []Port) []Port {
	before, after, got := k.update(want)
	if !slices.Equal(before, after) {
		for _, id := range after {
			if !slices.Contains(before, id) {
				k.log.Warn("a published port is a process's on this host, and not published here", "port", id.Number, "protocol", id.Protocol)
			}
		}
		k.changed()
	}
	return got
}

func (k *portKeeper) update(want []Port) (before, after []PortID, got []Port) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wanted := make(map[PortID]bool, len(want))
	before = k.others
	for _, p := range want {
		id := PortID{p.Protocol, p.Published}
		if p.Shared {
			got = append(got, p)
			continue
		}
		wanted[id] = true
		if _, ok := k.own[id]; !ok {
			fd, err := holdPort(id)
			switch {
			case err == nil:
				k.own[id] = fd
			case errors.Is(err, unix.EADDRINUSE):
				after = append(after, id)
				continue
			default: // it is published all the same: the socket only guards
				k.noteLocked(err)
			}
		}
		got = append(got, p)
	}
	for id, fd := range k.own {
		if !wanted[id] {
			_ = unix.Close(fd)
			delete(k.own, id)
		}
	}
	slices.SortFunc(after, comparePortIDs)
	k.others = after
	return before, after, got
}

// noteLocked logs a failure when it begins.
func (k *portKeeper) noteLocked(err error) {
	if k.failing != err.Error() {
		k.failing = err.Error()
		k.log.Warn("a published port is not guarded against processes of this host", "err", err)
	}
}

// inUse says whether a process other than this one has a port.
func (k *portKeeper) inUse(id PortID) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.own[id]; ok {
		return false, nil
	}
	fd, err := holdPort(id)
	if errors.Is(err, unix.EADDRINUSE) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, unix.Close(fd)
}

// occupied is the wanted ports that others have.
func (k *portKeeper) occupied() []PortID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.others)
}

// holdPort opens a socket that has a port on all addresses of the host and takes nothing in. The error is
// EADDRINUSE if somebody has the port on any address.
func holdPort(id PortID) (int, error) {
	kind := unix.SOCK_STREAM
	switch id.Protocol {
	case "tcp":
	case "udp":
		kind = unix.SOCK_DGRAM
	default:
		return -1, fmt.Errorf("protocol %q: it must be tcp or udp", id.Protocol)
	}
	fd, err := holdOn(kind, &unix.SockaddrInet6{Port: int(id.Number)})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) { // no IPv6 here
		fd, err = holdOn(kind, &unix.SockaddrInet4{Port: int(id.Number)})
	}
	if err != nil {
		return -1, fmt.Errorf("taking port %d/%s: %w", id.Number, id.Protocol, err)
	}
	return fd, nil
}

func holdOn(kind int, address unix.Sockaddr) (int, error) {
	family := unix.AF_INET
	if _, ipv6 := address.(*unix.SockaddrInet6); ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := setUpHold(fd, family, kind, address); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setUpHold(fd, family, kind int, address unix.Sockaddr) error {
	if family == unix.AF_INET6 { // IPv4 as well
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return err
		}
	}
	if kind == unix.SOCK_DGRAM {
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // of each packet, 0 bytes
		program := unix.SockFprog{Len: 1, Filter: &nothing}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
			return err
		}
		return unix.Bind(fd, address)
	}
	// Connections that a process has just closed are no reason to refuse. But then also others may bind who say so too:
	// only once it is unsaid does the kernel refuse them to listen. This socket itself does not listen. So the kernel
	// goes on to reset connections that nobody knows, and to refuse new ones while the rules are gone.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, address); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
}
