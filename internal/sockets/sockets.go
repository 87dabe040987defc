// Package sockets tells of the TCP sockets of a network namespace: where they listen, and how many connections it serves.
package sockets

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// States of a TCP socket (linux/net/tcp_states.h).
const (
	established = 1
	finWait1    = 4
	closeWait   = 8
	lastAck     = 9
	listen      = 10
)

// Served is how many connections from elsewhere to a port on which something listens, or listened while they
// came, stand in the namespace at path, and the ports on which something listens now. Those that the
// namespace itself has opened do not count: listening is the set of ports that was returned before, nil at first.
func Served(path string, listening map[uint16]bool) (count int, ports map[uint16]bool, err error) {
	ports = make(map[uint16]bool)
	for port := range listening {
		ports[port] = true
	}
	var all []*netlink.Socket
	err = netns.Do(path, func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			all = append(all, list...)
		}
		return nil
	})
	if err != nil {
		return 0, ports, fmt.Errorf("listing the connections of %s: %w", path, err)
	}
	for _, s := range all {
		if s.State == listen {
			ports[s.ID.SourcePort] = true
		}
	}
	for _, s := range all {
		switch s.State {
		case established, finWait1, closeWait, lastAck:
			if ports[s.ID.SourcePort] && !s.ID.Destination.IsLoopback() {
				count++
			}
		}
	}
	return count, ports, nil
}
