package linktest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// Ping sends an ICMP echo of size bytes, headers included, that must not be cut up,
// from the namespace to addr, and fails the test if no answer comes for half a minute.
func Ping(t testing.TB, path, addr string, size int) {
	t.Helper()
	if err := TryPing(path, addr, size, hang); err != nil {
		t.Fatalf("ping %s from %s with %d bytes: %v", addr, path, size, err)
	}
}

// TryPing is Ping with a deadline, which returns what went wrong.
func TryPing(path, addr string, size int, patience time.Duration) error {
	return ping(path, addr, size, patience, resend)
}

// PingOnce is Ping without a second try: the error says that the only request, or its answer, was lost.
func PingOnce(path, addr string, size int) error { return ping(path, addr, size, hang, hang) }

func ping(path, addr string, size int, patience, pace time.Duration) error {
	to, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	p := pingV4
	if to.Is6() {
		p = pingV6
	}
	var conn *icmp.PacketConn
	if err := netns.Do(path, func() error {
		conn, err = icmp.ListenPacket(p.network, p.any)
		return err
	}); err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := p.dontFragment(conn); err != nil {
		return err
	}
	return p.exchange(conn, to, size, time.Now().Add(patience), pace)
}

type pinger struct {
	network, any    string
	protocol        int
	header          int // bytes of IP and ICMP header
	request, answer icmp.Type
	level, option   int
}

var (
	pingV4 = pinger{"ip4:icmp", "0.0.0.0", 1, 28, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER}
	pingV6 = pinger{"ip6:ipv6-icmp", "::", 58, 48, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER}
)

func (p pinger) dontFragment(conn *icmp.PacketConn) error {
	var inner net.PacketConn
	if p.protocol == 1 {
		inner = conn.IPv4PacketConn().PacketConn
	} else {
		inner = conn.IPv6PacketConn().PacketConn
	}
	raw, err := inner.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), p.level, p.option, unix.IP_PMTUDISC_DO)
	})
	return errors.Join(err, failed)
}

// resend is the pace of new requests: the first one may be lost before the
// receiver's interface is ready.
const resend = 300 * time.Millisecond

func (p pinger) exchange(conn *icmp.PacketConn, to netip.Addr, size int, deadline time.Time, pace time.Duration) error {
	id := rand.IntN(1 << 16) // a late answer to another ping is none to this one
	body := make([]byte, max(0, size-p.header))
	var last error
	for sequence := 1; time.Now().Before(deadline); sequence++ {
		message := icmp.Message{Type: p.request, Body: &icmp.Echo{ID: id, Seq: sequence, Data: body}}
		packet, err := message.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			last = err
		}
		if err := conn.SetReadDeadline(time.Now().Add(min(pace, time.Until(deadline)))); err != nil {
			return err
		}
		if p.answered(conn, to, id) {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("no answer"), last)
}

// answered reads until our answer comes or the read deadline passes.
func (p pinger) answered(conn *icmp.PacketConn, from netip.Addr, id int) bool {
	buffer := make([]byte, 65536)
	for {
		n, peer, err := conn.ReadFrom(buffer)
		if err != nil {
			return false
		}
		message, err := icmp.ParseMessage(p.protocol, buffer[:n])
		if err != nil || message.Type != p.answer {
			continue
		}
		echo, ok := message.Body.(*icmp.Echo)
		if ok && echo.ID == id && peer.(*net.IPAddr).IP.Equal(from.AsSlice()) {
			return true
		}
	}
}
