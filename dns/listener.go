package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/meshd/meshd/internal/netns"
	"golang.org/x/sys/unix"
)

const (
	maxQuery     = 4096             // bytes; a UDP query that is longer is malformed
	maxForwarded = 256              // questions of one endpoint that are with upstreams at once
	maxStreams   = 64               // TCP connections of one endpoint at once
	idleTimeout  = 10 * time.Second // of a TCP connection
	writeTimeout = 2 * time.Second  // of a TCP answer
	restTime     = 100 * time.Millisecond
)

// ErrTaken is returned for an endpoint in whose namespace another resolver
// listens on 127.0.0.11:53.
var ErrTaken = errors.New("another resolver has 127.0.0.11:53 in its namespace: end that one, then names come within seconds")

// listener answers in one namespace. It costs two goroutines and two sockets while
// nobody asks. The sockets keep the namespace alive until the listener is closed.
type listener struct {
	endpoint  string
	namespace string // ID
	udp       *net.UDPConn
	tcp       net.Listener
	source    answerer
	resolver  bool          // there is another resolver in the namespace
	own       *forwarder    // to that one; nil if there is none
	handle    *netns.Handle // for it
	takeover  *takeover     // from it
	log       *slog.Logger

	ctx       context.Context
	cancel    context.CancelFunc
	running   sync.WaitGroup
	forwarded chan struct{} // holds a token for each question with the upstreams
	streams   chan struct{} // holds a token for each TCP connection
}

// answerer knows the answers.
type answerer interface {
	// local gives the encoded answer to an endpoint's query, nil for silence. A
	// question for the upstreams comes back as a request instead.
	local(endpoint string, query []byte, stream bool) ([]byte, *request)
	// forward gives the encoded answer of the upstreams, or of own if that is not nil. It may take seconds.
	forward(ctx context.Context, own *forwarder, r *request) []byte
}

// listen opens a server's sockets in its namespace and begins to answer.
func listen(handle *netns.Handle, server Server, source answerer, log *slog.Logger) (*listener, error) {
	l := &listener{
		endpoint:  server.Endpoint,
		resolver:  server.Resolver,
		namespace: handle.ID(),
		source:    source,
		log:       log.With("endpoint", server.Endpoint),
		forwarded: make(chan struct{}, maxForwarded),
		streams:   make(chan struct{}, maxStreams),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := handle.Do(l.open); err != nil {
		l.cancel()
		return nil, err
	}
	if server.Resolver {
		if err := l.takeOver(server); err != nil {
			l.close()
			return nil, err
		}
	}
	l.running.Go(l.serveDatagrams)
	l.running.Go(l.serveStreams)
	return l, nil
}

func (l *listener) open() error {
	address := netip.AddrPortFrom(resolverAddr, 53).String()
	config := net.ListenConfig{Control: freebind}
	config.SetMultipathTCP(false)
	udp, err := config.ListenPacket(l.ctx, "udp4", address)
	if err != nil {
		return bindError(err)
	}
	tcp, err := config.Listen(l.ctx, "tcp4", address)
	if err != nil {
		_ = udp.Close()
		return bindError(err)
	}
	l.udp, l.tcp = udp.(*net.UDPConn), tcp
	return nil
}

// takeOver takes the address from the namespace's own resolver, now that our sockets are there.
func (l *listener) takeOver(server Server) error {
	handle, err := netns.Open(server.Namespace)
	if err != nil {
		return err
	}
	l.handle, l.own = handle, ownResolver(handle, l.log)
	l.takeover, err = takeOver(handle)
	return err
}

// freebind lets us bind before the loopback is up.
func freebind(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	})
	return errors.Join(err, failed)
}

func bindError(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return ErrTaken
	}
	return fmt.Errorf("opening the name server's socket: %w", err)
}

// close frees the port and waits until nothing of the listener runs.
func (l *listener) close() {
	l.takeover.close() // from now on the other resolver is asked
	l.cancel()
	_ = l.udp.Close()
	_ = l.tcp.Close()
	l.running.Wait()
	if l.handle != nil {
		_ = l.handle.Close() // it was only looked through
	}
}

// serveDatagrams answers from the zone in line, which is quicker than handing over;
// what goes to upstreams gets a goroutine.
func (l *listener) serveDatagrams() {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := l.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if !l.goOn(err) {
				return
			}
			continue
		}
		answer, r := l.source.local(l.endpoint, buf[:n], false)
		if r == nil {
			l.send(answer, from)
			continue
		}
		if !l.acquire() {
			l.send(busy(r), from)
			continue
		}
		l.running.Go(func() {
			defer l.release()
			l.send(l.source.forward(l.ctx, l.own, r), from)
		})
	}
}

// fromResolver has an answer leave from the address that was asked. Being bound to that is not enough: in a namespace whose
// loopback was never up there are no routes yet, the kernel takes any address for a broadcast one, and what was bound then
// sends from 127.0.0.1 for ever.
var fromResolver = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: resolverAddr.As4()})

func (l *listener) send(msg []byte, to netip.AddrPort) {
	if msg == nil {
		return
	}
	if _, _, err := l.udp.WriteMsgUDPAddrPort(msg, fromResolver, to); err != nil && l.ctx.Err() == nil {
		l.log.Debug("sending an answer", "to", to, "err", err)
	}
}

func (l *listener) serveStreams() {
	for {
		conn, err := l.tcp.Accept()
		if err != nil {
			if !l.goOn(err) {
				return
			}
			continue
		}
		select {
		case l.streams <- struct{}{}:
			l.running.Go(func() {
				defer func() { <-l.streams }()
				l.serveStream(conn)
			})
		default:
			_ = conn.Close()
		}
	}
}

// serveStream answers the questions of one connection, one after the other.
func (l *listener) serveStream(conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	defer stop()
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idleTimeout))
		query, err := readMessage(conn)
		if err != nil {
			return
		}
		answer := l.streamAnswer(query)
		if answer == nil {
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := writeMessage(conn, answer); err != nil {
			return
		}
	}
}

func (l *listener) streamAnswer(query []byte) []byte {
	answer, r := l.source.local(l.endpoint, query, true)
	if r == nil {
		return answer
	}
	if !l.acquire() {
		return busy(r)
	}
	defer l.release()
	return l.source.forward(l.ctx, l.own, r)
}

// acquire takes one of the endpoint's places with the upstreams, if one is free: an
// endpoint that floods us must not take sockets from the others.
func (l *listener) acquire() bool {
	select {
	case l.forwarded <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l *listener) release() { <-l.forwarded }

// goOn says whether to serve on after an error, and rests a moment if so: an error
// that stays must not turn into a busy loop.
func (l *listener) goOn(err error) bool {
	if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	l.log.Warn("name server socket", "err", err)
	select {
	case <-l.ctx.Done():
		return false
	case <-time.After(restTime):
		return true
	}
}
