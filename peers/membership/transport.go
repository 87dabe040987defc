package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/meshd/meshd/peers/meshnet"
)

// transport carries memberlist's packets and streams on the mesh address.
type transport struct {
	network meshnet.Network
	local   netip.AddrPort
	udp     net.PacketConn
	tcp     net.Listener
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup

	mu      sync.Mutex // guards blocked
	blocked map[netip.Addr]bool
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(ctx context.Context, network meshnet.Network, local netip.AddrPort) (*transport, error) {
	udp, err := network.ListenPacket(ctx, local)
	if err != nil {
		return nil, err
	}
	tcp, err := network.Listen(ctx, local)
	if err != nil {
		_ = udp.Close()
		return nil, err
	}
	t := &transport{
		network: network,
		local:   local,
		udp:     udp,
		tcp:     tcp,
		packets: make(chan *memberlist.Packet, 64),
		streams: make(chan net.Conn),
		done:    make(chan struct{}),
		blocked: map[netip.Addr]bool{},
	}
	t.wg.Add(2)
	go t.readPackets()
	go t.accept()
	return t, nil
}

// block makes the transport deaf to an address.
func (t *transport) block(address netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blocked[address] = true
}

func (t *transport) isBlocked(from netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.blocked[from.Addr().Unmap()]
}

func (t *transport) readPackets() {
	defer t.wg.Done()
	buffer := make([]byte, 65535)
	for {
		n, from, err := t.udp.ReadFrom(buffer)
		now := time.Now()
		if err != nil {
			if t.pauseAfter(err) {
				continue
			}
			return
		}
		source, ok := from.(*net.UDPAddr)
		if !ok || n == 0 || t.isBlocked(source.AddrPort()) {
			continue
		}
		packet := &memberlist.Packet{Buf: append([]byte(nil), buffer[:n]...), From: from, Timestamp: now}
		select {
		case t.packets <- packet:
		case <-t.done:
			return
		}
	}
}

func (t *transport) accept() {
	defer t.wg.Done()
	for {
		conn, err := t.tcp.Accept()
		if err != nil {
			if t.pauseAfter(err) {
				continue
			}
			return
		}
		source, ok := conn.RemoteAddr().(*net.TCPAddr)
		if !ok || t.isBlocked(source.AddrPort()) {
			_ = conn.Close()
			continue
		}
		select {
		case t.streams <- conn:
		case <-t.done:
			_ = conn.Close()
			return
		}
	}
}

// pauseAfter says whether to go on after an error: not when the socket was closed. Other
// errors, such as too many open files or an ICMP answer, pass; a moment's rest keeps them
// from taking a processor.
func (t *transport) pauseAfter(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	rest := time.NewTimer(50 * time.Millisecond)
	defer rest.Stop()
	select {
	case <-t.done:
		return false
	case <-rest.C:
		return true
	}
}

// FinalAdvertiseAddr: the others reach us where we are bound.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.local.Addr().AsSlice(), int(t.local.Port()), nil
}

// WriteTo sends a packet to "ADDRESS:PORT".
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("sending gossip: %w", err)
	}
	// memberlist looks at the error's type, so it is not wrapped.
	_, err = t.udp.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

// WriteToAddress sends a packet; the node's name is not needed for it.
func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, addr.Addr)
}

// DialTimeout connects to "ADDRESS:PORT".
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := t.network.Dial(ctx, t.local.Addr(), to)
	var opError *net.OpError
	if errors.As(err, &opError) {
		return nil, opError // memberlist looks at the error's type
	}
	return conn, err
}

// DialAddressTimeout connects; the node's name is not needed for it.
func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(addr.Addr, timeout)
}

// PacketCh is where packets come in.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where streams come in.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown closes the sockets and waits for their readers. It may be called again.
func (t *transport) Shutdown() error {
	var err error
	t.once.Do(func() {
		close(t.done)
		err = errors.Join(t.udp.Close(), t.tcp.Close())
	})
	t.wg.Wait()
	return err
}
