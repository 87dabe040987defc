package scale

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/meshd/meshd/peers/meshnet"
)

// The network between the hosts: a local one.
const (
	latency   = 500 * time.Microsecond // one way, with the two tunnels' work
	bandwidth = 125e6                  // bytes a second
)

// What packets carry beside their payload, in bytes.
const (
	tunnelBytes  = 60                    // outer IPv4 and UDP, and WireGuard's header and tag
	udpBytes     = tunnelBytes + 40 + 8  // IPv6 and UDP within
	tcpBytes     = tunnelBytes + 40 + 32 // IPv6 and TCP with timestamps within
	segmentBytes = 1420 - 72             // of payload in a full one
	openSegments = 2                     // empty ones that each end sends to open a connection, and to close it
)

// traffic is what one host has sent, by purpose.
type traffic struct {
	gossip atomic.Int64 // bytes
	sync   atomic.Int64
	opened atomic.Int64 // connections
}

// wire is a host's network that counts what it sends. What is received, another has sent.
type wire struct {
	meshnet.Network
	traffic *traffic
	gossip  bool
}

func (w wire) count(bytes int64) {
	if w.gossip {
		w.traffic.gossip.Add(bytes)
	} else {
		w.traffic.sync.Add(bytes)
	}
}

func (w wire) ListenPacket(ctx context.Context, at netip.AddrPort) (net.PacketConn, error) {
	c, err := w.Network.ListenPacket(ctx, at)
	return packets{c, w}, err
}

func (w wire) Listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := w.Network.Listen(ctx, at)
	return listener{l, w}, err
}

func (w wire) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	time.Sleep(2 * latency) // virtual
	c, err := w.Network.Dial(ctx, from, to)
	if err != nil {
		w.count(tcpBytes)
		return nil, err
	}
	w.traffic.opened.Add(1)
	return w.stream(c), nil
}

func (w wire) stream(c net.Conn) net.Conn {
	w.count(2 * openSegments * tcpBytes)
	return &stream{Conn: c, wire: w}
}

type packets struct {
	net.PacketConn
	wire wire
}

func (p packets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.wire.count(int64(len(b) + udpBytes))
	return p.PacketConn.WriteTo(b, to)
}

type listener struct {
	net.Listener
	wire wire
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wire.stream(c), nil
}

// stream delays what it writes as the network would, and counts it with its headers. What the other
// end sends to acknowledge it, an empty segment for every two, is counted there, as it reads.
type stream struct {
	net.Conn
	wire wire
	read int
}

func (s *stream) Write(b []byte) (int, error) {
	time.Sleep(latency + time.Duration(float64(len(b))/bandwidth*1e9)) // virtual
	segments := (len(b) + segmentBytes - 1) / segmentBytes
	s.wire.count(int64(len(b) + segments*tcpBytes))
	return s.Conn.Write(b)
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.read == 0 && n > 0 {
		s.wire.count(tcpBytes)
	}
	if s.read += n; s.read >= 2*segmentBytes {
		s.read = 0
	}
	return n, err
}
