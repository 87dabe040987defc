package wireguard

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// pinger sends ICMPv6 echoes from one host's mesh namespace to another.
type pinger struct {
	conn *icmp.PacketConn
	to   net.Addr
}

func newPinger(t *testing.T, from, to *testHost) *pinger {
	t.Helper()
	p := &pinger{to: &net.IPAddr{IP: to.address.AsSlice()}}
	must(t, netns.Do(from.mesh, func() error {
		var err error
		p.conn, err = icmp.ListenPacket("ip6:ipv6-icmp", from.address.String())
		return err
	}))
	t.Cleanup(func() { _ = p.conn.Close() })
	must(t, makeRoom(p.conn))
	return p
}

// makeRoom has a socket keep all answers that come while nobody gets to read them.
func makeRoom(conn *icmp.PacketConn) error {
	raw, err := conn.IPv6PacketConn().PacketConn.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	return errors.Join(err, failed)
}

// send sends an echo in an IPv6 packet of size bytes.
func (p *pinger) send(seq, size int) error {
	const headers = 40 + 8
	msg := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 7, Seq: seq, Data: make([]byte, size-headers)}}
	body, err := msg.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = p.conn.WriteTo(body, p.to)
	return err
}

// receive returns the number of an answer, or -1 for something else.
func (p *pinger) receive(wait time.Duration) (int, error) {
	buf := make([]byte, 65536)
	_ = p.conn.SetReadDeadline(time.Now().Add(wait))
	n, _, err := p.conn.ReadFrom(buf)
	if err != nil {
		return -1, err
	}
	msg, err := icmp.ParseMessage(ipv6.ICMPTypeEchoReply.Protocol(), buf[:n])
	if err != nil {
		return -1, err
	}
	if echo, ok := msg.Body.(*icmp.Echo); ok && msg.Type == ipv6.ICMPTypeEchoReply {
		return echo.Seq, nil
	}
	return -1, nil
}

// ping waits until a packet of size bytes is answered.
func ping(t *testing.T, from, to *testHost, size int) {
	t.Helper()
	p := newPinger(t, from, to)
	defer func() { _ = p.conn.Close() }()
	seq := 0
	waitFor(t, fmt.Sprintf("an answer to %d bytes from %s to %s", size, from.name, to.name), func() bool {
		seq++
		if err := p.send(seq, size); err != nil {
			t.Logf("sending: %v", err)
			return false
		}
		got, err := p.receive(200 * time.Millisecond)
		return err == nil && got > 0
	})
}

// traffic is a steady stream of full-size pings.
type traffic struct {
	pinger  *pinger
	done    chan struct{} // closed by stop
	once    sync.Once
	sentAll chan struct{} // closed when the last one was sent
	workers sync.WaitGroup

	mu       sync.Mutex // guards all below
	sent     int
	answered map[int]bool
}

func startTraffic(t *testing.T, from, to *testHost) *traffic {
	tr := &traffic{pinger: newPinger(t, from, to), done: make(chan struct{}), sentAll: make(chan struct{}), answered: map[int]bool{}}
	tr.workers.Add(2)
	go tr.send()
	go tr.receive()
	t.Cleanup(tr.abandon)
	return tr
}

func (tr *traffic) send() {
	defer tr.workers.Done()
	defer close(tr.sentAll)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tr.done:
			return
		case <-tick.C:
		}
		tr.mu.Lock()
		tr.sent++
		seq := tr.sent
		tr.mu.Unlock()
		_ = tr.pinger.send(seq, testMTU) // counts as lost
	}
}

// receive takes answers until all have been sent, and then until all have come, or nothing for half a minute.
func (tr *traffic) receive() {
	defer tr.workers.Done()
	wait := 100 * time.Millisecond // until it looks whether all have been sent
	for ended := false; ; {
		seq, err := tr.pinger.receive(wait)
		if err != nil && ended {
			return
		}
		select {
		case <-tr.sentAll:
			ended, wait = true, 30*time.Second
		default:
		}
		tr.mu.Lock()
		if err == nil && seq >= 0 {
			tr.answered[seq] = true
		}
		all := len(tr.answered) == tr.sent
		tr.mu.Unlock()
		if ended && all {
			return
		}
	}
}

func (tr *traffic) counts() (sent, answered int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.sent, len(tr.answered)
}

// await waits until n packets were answered.
func (tr *traffic) await(t *testing.T, n int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d answers", n), func() bool { _, got := tr.counts(); return got >= n })
}

// awaitSilence waits until twenty packets in a row are not answered. Some answers may have been on their way.
func (tr *traffic) awaitSilence(t *testing.T) {
	t.Helper()
	sent, answered := tr.counts()
	waitFor(t, "silence", func() bool {
		nowSent, nowAnswered := tr.counts()
		if nowAnswered != answered {
			sent, answered = nowSent, nowAnswered
		}
		return nowSent >= sent+20
	})
}

// abandon stops, and waits for no more answers.
func (tr *traffic) abandon() {
	_ = tr.pinger.conn.Close()
	tr.stop()
}

// stop waits for the answers to all that was sent.
func (tr *traffic) stop() (sent, lost int) {
	tr.once.Do(func() { close(tr.done) })
	tr.workers.Wait()
	sent, answered := tr.counts()
	return sent, sent - answered
}
