package probe

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// Of RFC 4443, sections 4.1 and 4.2.
const (
	echoRequest = 128
	echoReply   = 129
	echoSize    = 16 // type, code, checksum, identifier, sequence number, payload
)

// ICMP pings from an address inside the network namespace at path.
func ICMP(path string, from netip.Addr) (Pinger, error) {
	var conn net.PacketConn
	err := netns.Do(path, func() error {
		var err error
		conn, err = net.ListenPacket("ip6:ipv6-icmp", from.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a socket for pings from %s: %w", from, err)
	}
	p := &icmp{conn: conn.(*net.IPConn), id: uint16(rand.Uint32())}
	if err := p.filter(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return p, nil
}

type icmp struct {
	conn *net.IPConn
	id   uint16
}

// filter has the kernel hand over answers only.
func (p *icmp) filter() error {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	var filter unix.ICMPv6Filter // a bit that is set blocks its type
	for i := range filter.Data {
		filter.Data[i] = 1<<32 - 1
	}
	filter.Data[echoReply/32] &^= 1 << (echoReply % 32)
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptICMPv6Filter(int(fd), unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("filtering pings: %w", err)
	}
	return nil
}

// Send implements Pinger. The kernel adds the checksum.
func (p *icmp) Send(to netip.Addr, payload uint64) error {
	message := make([]byte, echoSize)
	message[0] = echoRequest
	binary.BigEndian.PutUint16(message[4:], p.id)
	binary.BigEndian.PutUint64(message[8:], payload)
	_, err := p.conn.WriteToIP(message, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// Receive implements Pinger.
func (p *icmp) Receive() (netip.Addr, uint64, error) {
	buffer := make([]byte, 128)
	for {
		n, from, err := p.conn.ReadFromIP(buffer)
		if err != nil {
			return netip.Addr{}, 0, err
		}
		if n != echoSize || buffer[0] != echoReply || binary.BigEndian.Uint16(buffer[4:]) != p.id {
			continue
		}
		addr, _ := netip.AddrFromSlice(from.IP)
		return addr, binary.BigEndian.Uint64(buffer[8:]), nil
	}
}

// Close implements Pinger.
func (p *icmp) Close() error { return p.conn.Close() }
