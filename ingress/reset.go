package ingress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A connection whose replica has gone is ended at once: its client must not wait for an answer that
// never comes. A client in the same namespace has a socket that the kernel can be told to reset. One
// elsewhere is sent a segment out of its window (poke): by RFC 9293 (3.10.7.4) it answers with what it
// expects, and the host, which has no such connection, resets it with the right sequence number.

// A tcpFlow is a connection as its client sees it.
type tcpFlow struct{ client, server netip.AddrPort }

// A resetter resets sockets of the namespace that it was opened in.
type resetter struct{ conn *netlink.Conn }

func openResetter() (*resetter, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("opening socket diagnosis: %w", err)
	}
	return &resetter{conn}, nil
}

func (r *resetter) close() { _ = r.conn.Close() }

// reset resets the client's socket, if it is in this namespace.
func (r *resetter) reset(f tcpFlow) (found bool, err error) {
	// struct inet_diag_req_v2 (linux/inet_diag.h).
	request := make([]byte, 56)
	request[0], request[1] = unix.AF_INET, unix.IPPROTO_TCP
	if f.client.Addr().Is6() {
		request[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(request[4:], 1<<32-1) // in any state
	binary.BigEndian.PutUint16(request[8:], f.client.Port())
	binary.BigEndian.PutUint16(request[10:], f.server.Port())
	copy(request[12:], f.client.Addr().AsSlice())
	copy(request[28:], f.server.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		request[i] = 0xff // no cookie
	}
	const destroy = 21 // SOCK_DESTROY
	_, err = r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: destroy, Flags: netlink.Request | netlink.Acknowledge}, Data: request,
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return false, fmt.Errorf("resetting %s to %s: %w", f.client, f.server, err)
}

// poke makes the client find out that its connection has gone, from the server's namespace. The connection must
// be forgotten there (see forget), or conntrack would take the segment for a part of it.
func poke(f tcpFlow) error {
	family, packet := unix.AF_INET, bareSegment(f)
	if f.client.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("opening a raw socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: f.client.Addr().As16()}
	if family == unix.AF_INET {
		to = &unix.SockaddrInet4{Addr: f.client.Addr().As4()}
	} else if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1); err != nil {
		return fmt.Errorf("opening a raw socket: %w", err)
	}
	switch err := unix.Sendto(fd, packet, 0, to); err {
	case nil, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN: // whom nothing reaches has to find out by itself
		return nil
	default:
		return fmt.Errorf("telling %s that its connection to %s is over: %w", f.client, f.server, err)
	}
}

// bareSegment is an IP packet with a bare acknowledgement of nothing that was ever sent.
func bareSegment(f tcpFlow) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], f.server.Port())
	binary.BigEndian.PutUint16(tcp[2:], f.client.Port())
	binary.BigEndian.PutUint32(tcp[4:], rand.Uint32())
	binary.BigEndian.PutUint32(tcp[8:], rand.Uint32())
	tcp[12], tcp[13] = 5<<4, 1<<4 // five words of header; ACK
	from, to := f.server.Addr().AsSlice(), f.client.Addr().AsSlice()
	sum := checksum(0, from, to, []byte{0, unix.IPPROTO_TCP, 0, byte(len(tcp))}, tcp)
	binary.BigEndian.PutUint16(tcp[16:], ^sum)
	if f.client.Addr().Is6() {
		ip := make([]byte, 40)
		ip[0], ip[5], ip[6], ip[7] = 6<<4, byte(len(tcp)), unix.IPPROTO_TCP, 64
		copy(ip[8:], from)
		copy(ip[24:], to)
		return append(ip, tcp...)
	}
	ip := make([]byte, 20) // the kernel fills in its length, identification and checksum
	ip[0], ip[8], ip[9] = 4<<4|5, 64, unix.IPPROTO_TCP
	copy(ip[12:], from)
	copy(ip[16:], to)
	return append(ip, tcp...)
}

// checksum adds up 16-bit words as the Internet checksum does (RFC 1071); parts have even lengths.
func checksum(sum uint32, parts ...[]byte) uint16 {
	for _, part := range parts {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
