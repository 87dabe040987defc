package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	attemptTimeout = 2 * time.Second         // one upstream has so long to answer
	totalTimeout   = 4500 * time.Millisecond // all have; glibc gives up after 5 s
	shunTime       = 10 * time.Second        // an upstream that was silent is asked last
)

// errNoUpstreams is why a name was not found when there is nobody to ask.
var errNoUpstreams = errors.New("there are no upstream name servers: set dns.upstreams, or name one in the host's /etc/resolv.conf")

// resolverAddr is where endpoints ask. As an upstream it would be ourselves.
var resolverAddr = netip.MustParseAddr("127.0.0.11")

// Dial opens a connection to an upstream; network is "udp" or "tcp".
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// forwarder asks upstreams, in order, each question from a fresh socket, so that
// its source port is as hard to guess as its id (RFC 5452).
type forwarder struct {
	upstreams []*upstream
	dial      Dial
	log       *slog.Logger
}

type upstream struct {
	addr  netip.AddrPort
	shun  atomic.Int64 // nanoseconds since 1970: until then it is asked last
	noted atomic.Bool  // its silence was logged
}

func newForwarder(addrs []netip.AddrPort, dial Dial, log *slog.Logger) *forwarder {
	f := &forwarder{dial: dial, log: log}
	for _, addr := range usable(addrs) {
		f.upstreams = append(f.upstreams, &upstream{addr: addr})
	}
	return f
}

// usable is the upstreams that are not ourselves.
func usable(addrs []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool {
		return !a.IsValid() || a.Port() == 0 || a.Addr().Unmap() == resolverAddr
	})
}

func (f *forwarder) asks(addrs []netip.AddrPort) bool {
	return slices.EqualFunc(f.upstreams, usable(addrs), func(u *upstream, a netip.AddrPort) bool { return u.addr == a })
}

// order is the upstreams with those that were silent of late at the end.
func (f *forwarder) order(now time.Time) []*upstream {
	var good, bad []*upstream
	for _, u := range f.upstreams {
		if u.shun.Load() > now.UnixNano() {
			bad = append(bad, u)
		} else {
			good = append(good, u)
		}
	}
	return append(good, bad...)
}

// forward gives the encoded answer of the first upstream that has one, as it came
// but for the id, and who it was. If all refuse or fail, the last refusal is the
// answer. The error says of each upstream what it did.
func (f *forwarder) forward(ctx context.Context, r *request) ([]byte, netip.AddrPort, error) {
	if len(f.upstreams) == 0 {
		return nil, netip.AddrPort{}, errNoUpstreams
	}
	ctx, cancel := context.WithTimeout(ctx, totalTimeout)
	defer cancel()
	var refusal []byte
	var refuser netip.AddrPort
	var failures []string
	for _, u := range f.order(time.Now()) {
		if ctx.Err() != nil {
			break
		}
		answer, err := f.attempt(ctx, u, r)
		if err != nil {
			failures = append(failures, fmt.Sprintf("%s: %s", u.addr, reason(err)))
			continue
		}
		if final(answer) {
			return answer, u.addr, nil
		}
		refusal, refuser = answer, u.addr
	}
	if refusal != nil {
		return refusal, refuser, nil
	}
	return nil, netip.AddrPort{}, fmt.Errorf("no upstream name server answered (%s)", strings.Join(failures, "; "))
}

// attempt asks one upstream and remembers whether it was there.
func (f *forwarder) attempt(ctx context.Context, u *upstream, r *request) ([]byte, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	answer, err := f.ask(ctx, u.addr, r)
	switch {
	case err == nil:
		u.shun.Store(0)
		if u.noted.CompareAndSwap(true, false) {
			f.log.Info("upstream name server answers again", "upstream", u.addr)
		}
	case errors.Is(whole.Err(), context.Canceled): // not its fault
	default:
		u.shun.Store(time.Now().Add(shunTime).UnixNano())
		if u.noted.CompareAndSwap(false, true) {
			f.log.Warn("upstream name server does not answer", "upstream", u.addr, "err", err)
		}
	}
	return answer, err
}

// ask asks by UDP, and by TCP what does not fit there.
func (f *forwarder) ask(ctx context.Context, addr netip.AddrPort, r *request) ([]byte, error) {
	query, err := upstreamQuery(r)
	if err != nil {
		return nil, err
	}
	answer, err := f.exchange(ctx, "udp", addr, query)
	if err != nil {
		return nil, err
	}
	if truncated(answer) {
		// Without TCP the client gets what there is, marked as cut off.
		if full, err := f.exchange(ctx, "tcp", addr, query); err == nil {
			answer = full
		}
	}
	return restore(answer, query, r)
}

// upstreamQuery is the client's question without what is between the client and us
// only (cookies and other options of RFC 6891).
func upstreamQuery(r *request) ([]byte, error) {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = r.msg.RecursionDesired
	m.CheckingDisabled = r.msg.CheckingDisabled
	m.AuthenticatedData = r.msg.AuthenticatedData
	m.Question = r.msg.Question
	if r.opt != nil {
		m.SetEdns0(uint16(min(upstreamSize, max(dns.MinMsgSize, int(r.opt.UDPSize())))), r.opt.Do())
	}
	query, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("encoding the question: %w", err)
	}
	return query, nil
}

// restore gives the answer the client's id and question, and cuts it to the
// client's size.
func restore(answer, query []byte, r *request) ([]byte, error) {
	binary.BigEndian.PutUint16(answer, r.msg.Id)
	copy(answer[headerSize:], query[headerSize:questionEnd(query)])
	if len(answer) <= r.size {
		return answer, nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		m = r.reply()
		m.Truncated = true
	}
	return pack(m, r.size)
}

// exchange sends query and waits for what may be its answer. Whatever else
// arrives is passed over: somebody may be guessing ids.
func (f *forwarder) exchange(ctx context.Context, network string, addr netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := f.dial(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	send, receive := sendDatagram, receiveDatagram
	if network == "tcp" {
		send, receive = writeMessage, readMessage
	}
	if err := send(conn, query); err != nil {
		return nil, err
	}
	for {
		answer, err := receive(conn)
		if err != nil {
			return nil, err
		}
		if answers(answer, query) {
			return answer, nil
		}
		if rcode, ok := refusal(answer, query); ok {
			return nil, fmt.Errorf("it answers %s to every question", dns.RcodeToString[rcode])
		}
		if network == "tcp" {
			return nil, errors.New("it answers another question")
		}
	}
}

// final says whether other upstreams need not be asked.
func final(msg []byte) bool {
	switch int(msg[3] & 0xf) {
	case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
		return false
	}
	return true
}

// reason is an error without the addresses that net's errors repeat.
func reason(err error) string {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Sprintf("no answer in %s", attemptTimeout)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}
