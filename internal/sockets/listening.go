package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// Listening is the addresses and ports at which TCP sockets of a network namespace listen. The kernel looks at no others for
// it (sock_diag(7)), so it takes little time however many connections there are.
func Listening(ns *netns.Handle) ([]netip.AddrPort, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns.FD()})
	if err != nil {
		return nil, fmt.Errorf("opening socket diagnosis: %w", err)
	}
	defer func() { _ = conn.Close() }()
	var found []netip.AddrPort
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		// struct inet_diag_req_v2 (linux/inet_diag.h).
		request := make([]byte, 56)
		request[0], request[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(request[4:], 1<<listen)
		replies, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: request,
		})
		if err != nil {
			return nil, fmt.Errorf("listing listening sockets: %w", err)
		}
		for _, reply := range replies {
			if len(reply.Data) < 24 { // struct inet_diag_msg begins with four bytes, two ports and the local address
				continue
			}
			addr := netip.AddrFrom16([16]byte(reply.Data[8:24])).Unmap()
			if reply.Data[0] == unix.AF_INET {
				addr = netip.AddrFrom4([4]byte(reply.Data[8:12]))
			}
			found = append(found, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(reply.Data[4:6])))
		}
	}
	return found, nil
}
