package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/meshd/meshd/internal/netns"
)

// attempts is how often Path asks; an answer to any will do.
const attempts = 3

// Path asks an address for an echo of a packet of so many bytes, IPv6 header included, from an address inside the network
// namespace at path. It returns the round trip, or os.ErrDeadlineExceeded (wrapped) if nothing comes back from
// any of three within a second each.
func Path(ctx context.Context, path string, from, to netip.Addr, size int) (time.Duration, error) {
	var conn net.PacketConn
	err := netns.Do(path, func() error {
		var err error
		conn, err = net.ListenPacket("ip6:ipv6-icmp", from.String())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("opening a socket for pings from %s: %w", from, err)
	}
	p := &icmp{conn: conn.(*net.IPConn), id: uint16(rand.Uint32())}
	defer func() { _ = p.Close() }()
	if err := p.filter(); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	defer stop()
	for attempt := 1; ; attempt++ {
		took, err := p.once(to, size)
		if err == nil || attempt == attempts || errors.Is(err, net.ErrClosed) {
			return took, err
		}
	}
}

func (p *icmp) once(to netip.Addr, size int) (time.Duration, error) {
	began := time.Now()
	message := make([]byte, max(size-40, 8))
	message[0] = echoRequest
	message[4], message[5] = byte(p.id>>8), byte(p.id)
	if _, err := p.conn.WriteToIP(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, fmt.Errorf("sending %d bytes to %s: %w", size, to, err)
	}
	if err := p.conn.SetReadDeadline(began.Add(time.Second)); err != nil {
		return 0, err
	}
	buffer := make([]byte, 65536)
	for {
		n, sender, err := p.conn.ReadFromIP(buffer)
		if err != nil {
			return 0, fmt.Errorf("waiting for %d bytes from %s: %w", size, to, err)
		}
		addr, _ := netip.AddrFromSlice(sender.IP)
		if n == len(message) && addr == to && buffer[0] == echoReply && buffer[4] == message[4] && buffer[5] == message[5] {
			return time.Since(began), nil
		}
	}
}
