package memnet

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// conn is one end of a stream. Its writes wait while the link is cut.
type conn struct {
	net.Conn
	fabric        *Fabric
	local, remote netip.AddrPort
	done          chan struct{}
	once          sync.Once

	mu       sync.Mutex // guards deadline
	deadline time.Time  // of writes
}

func newConn(f *Fabric, end net.Conn, local, remote netip.AddrPort) *conn {
	return &conn{Conn: end, fabric: f, local: local, remote: remote, done: make(chan struct{})}
}

func (c *conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *conn) Write(b []byte) (int, error) {
	for {
		severed, changed := c.fabric.severed(c.local.Addr(), c.remote.Addr())
		if !severed {
			return c.Conn.Write(b)
		}
		if err := c.wait(changed); err != nil {
			return 0, err
		}
	}
}

// wait returns nil when the fabric changes.
func (c *conn) wait(changed <-chan struct{}) error {
	var expired <-chan time.Time
	c.mu.Lock()
	deadline := c.deadline
	c.mu.Unlock()
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-changed:
		return nil
	case <-c.done:
		return net.ErrClosed
	case <-expired:
		return os.ErrDeadlineExceeded
	}
}

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.fabric.mu.Lock()
		delete(c.fabric.conns, c)
		c.fabric.mu.Unlock()
		close(c.done)
	})
	return c.Conn.Close()
}

type datagram struct {
	from netip.AddrPort
	body []byte
}

type packetConn struct {
	fabric *Fabric
	at     netip.AddrPort
	queue  chan datagram
	done   chan struct{}
	once   sync.Once
}

func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.queue:
		return copy(b, d.body), net.UDPAddrFromAddrPort(d.from), nil
	case <-p.done:
		return 0, nil, net.ErrClosed
	}
}

func (p *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-p.done:
		return 0, net.ErrClosed
	default:
	}
	target := to.(*net.UDPAddr).AddrPort()
	d := datagram{from: p.at, body: append([]byte(nil), b...)}
	time.AfterFunc(p.fabric.latency, func() { p.fabric.deliver(target, d) })
	return len(b), nil
}

func (f *Fabric) deliver(to netip.AddrPort, d datagram) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.packets[to]
	if p == nil || f.cut(d.from.Addr(), to.Addr()) || f.cut(to.Addr(), d.from.Addr()) {
		f.dropped++
		return
	}
	select {
	case p.queue <- d:
	default:
		f.dropped++
	}
}

func (p *packetConn) Close() error {
	p.once.Do(func() {
		p.fabric.mu.Lock()
		delete(p.fabric.packets, p.at)
		p.fabric.mu.Unlock()
		close(p.done)
	})
	return nil
}

func (p *packetConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(p.at) }
func (p *packetConn) SetDeadline(time.Time) error      { return nil }
func (p *packetConn) SetReadDeadline(time.Time) error  { return nil }
func (p *packetConn) SetWriteDeadline(time.Time) error { return nil }
