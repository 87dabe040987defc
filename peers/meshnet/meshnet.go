// Package meshnet opens sockets where the mesh addresses live: in the mesh namespace,
// which is not the one that the agent runs in.
//
// What runs inside the tunnel (membership, catalog sync) takes a [Network] and so
// neither knows nor cares where its sockets are. Tests use memnet instead.
package meshnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// Network opens sockets. All methods may be called by several goroutines.
// Connections and addresses are TCP and UDP; a connection's RemoteAddr is a
// *net.TCPAddr, a packet's source a *net.UDPAddr.
type Network interface {
	// Listen accepts TCP connections on addr. Port 0 takes any free port.
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	// ListenPacket sends and receives UDP datagrams on addr. Port 0 takes any free port.
	ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error)
	// Dial connects to a TCP listener, from the address that the peer knows us by, until ctx ends.
	Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error)
}

// Sent data that stays unacknowledged for this long breaks the connection
// (TCP_USER_TIMEOUT, RFC 5482), as does silence of about this length. The
// kernel's own limits, minutes and hours, are too long to notice a host that died.
const deadAfter = 10 * time.Second

// udpBuffer is the receive buffer of UDP sockets in bytes: a burst of gossip while
// the agent waits for a processor should not be lost.
const udpBuffer = 1 << 20

// InNamespace opens its sockets in the network namespace at path, or in the
// calling process's own if path is empty. The namespace is opened at each call, so it
// may be made later.
func InNamespace(path string) Network { return namespace{path: path} }

type namespace struct{ path string }

// addressWait is how long binding waits for an address: the kernel takes a moment to
// make a new IPv6 address usable, also on devices without duplicate address detection.
const (
	addressWait = 2 * time.Second
	addressPoll = 10 * time.Millisecond
)

// bind runs fn in the namespace, and again while its address is not usable yet.
func (n namespace) bind(ctx context.Context, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, addressWait)
	defer cancel()
	tick := time.NewTicker(addressPoll)
	defer tick.Stop()
	for {
		err := n.do(fn)
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (n namespace) do(fn func() error) error {
	if n.path == "" {
		return fn()
	}
	return netns.Do(n.path, fn)
}

// where names the namespace in errors.
func (n namespace) where() string {
	if n.path == "" {
		return ""
	}
	return " in " + n.path
}

func (n namespace) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{Control: control, KeepAliveConfig: keepAlive()}
	var l net.Listener
	err := n.bind(ctx, func() (err error) {
		l, err = config.Listen(ctx, "tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening on TCP %s%s: %w", addr, n.where(), err)
	}
	return l, nil
}

func (n namespace) ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	var config net.ListenConfig
	var conn net.PacketConn
	err := n.bind(ctx, func() (err error) {
		conn, err = config.ListenPacket(ctx, "udp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening on UDP %s%s: %w", addr, n.where(), err)
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		_ = udp.SetReadBuffer(udpBuffer) // as much as the kernel lets us have
	}
	return conn, nil
}

// Dial gives Go's dialer a literal address and nothing to race with, so it makes the
// socket on the thread that is in the namespace.
func (n namespace) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{
		LocalAddr:       net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
		Control:         control,
		KeepAliveConfig: keepAlive(),
	}
	var conn net.Conn
	err := n.do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to %s%s: %w", to, n.where(), err)
	}
	return conn, nil
}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: deadAfter / 2, Interval: deadAfter / 5, Count: 3}
}

// control sets what net has no option for. Accepted connections inherit it.
func control(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
	})
	if err != nil {
		return fmt.Errorf("setting TCP_USER_TIMEOUT: %w", err)
	}
	if failed != nil {
		return fmt.Errorf("setting TCP_USER_TIMEOUT: %w", failed)
	}
	return nil
}
