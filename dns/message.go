package dns

import (
	"math/rand/v2"

	"github.com/miekg/dns"
)

const (
	headerSize = 12 // RFC 1035, 4.1.1

	// upstreamSize is the largest UDP answer that upstreams may send: it fits
	// every path without fragments (RFC 9715).
	upstreamSize = 1232
)

// request is a query that makes sense.
type request struct {
	msg  *dns.Msg
	opt  *dns.OPT // nil: the client does not speak EDNS0
	size int      // bytes that the answer may have
}

func (r *request) question() dns.Question { return r.msg.Question[0] }

// parse reads a query. If it gives no request then it gives the refusal to send, or
// nil when silence is best: what is itself an answer must never be answered.
func parse(raw []byte, stream bool) (*request, *dns.Msg) {
	if len(raw) < headerSize || raw[2]&0x80 != 0 {
		return nil, nil
	}
	if opcode := int(raw[2]>>3) & 0xf; opcode != dns.OpcodeQuery {
		return nil, headerOnly(raw, dns.RcodeNotImplemented)
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(raw); err != nil || len(msg.Question) != 1 {
		return nil, headerOnly(raw, dns.RcodeFormatError)
	}
	r := &request{msg: msg, size: dns.MinMsgSize}
	for _, rr := range msg.Extra {
		if opt, ok := rr.(*dns.OPT); ok {
			if r.opt != nil { // RFC 6891, 6.1.1
				return nil, headerOnly(raw, dns.RcodeFormatError)
			}
			r.opt = opt
			r.size = max(r.size, int(opt.UDPSize()))
		}
	}
	if stream {
		r.size = dns.MaxMsgSize
	}
	if r.opt != nil && r.opt.Version() != 0 {
		return nil, r.fail(dns.RcodeBadVers)
	}
	q := r.question()
	transfer := q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR
	if q.Qclass != dns.ClassINET || transfer {
		return nil, r.fail(dns.RcodeRefused)
	}
	return r, nil
}

// headerOnly refuses a message of which only the header is to be trusted.
func headerOnly(raw []byte, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.Id = uint16(raw[0])<<8 | uint16(raw[1])
	m.Response = true
	m.Opcode = int(raw[2]>>3) & 0xf
	m.RecursionDesired = raw[2]&1 != 0
	m.Rcode = rcode
	return m
}

// reply begins an answer, with the question as it was put: a client may have
// written it in mixed case to know its answers by.
func (r *request) reply() *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(r.msg)
	m.RecursionAvailable = true
	if r.opt != nil {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetUDPSize(upstreamSize)
		opt.SetDo(r.opt.Do())
		m.Extra = []dns.RR{opt}
	}
	return m
}

func (r *request) fail(rcode int) *dns.Msg {
	m := r.reply()
	m.Rcode = rcode
	return m
}

// explain is fail with a sentence that says why (RFC 8914), for clients that
// speak EDNS0.
func (r *request) explain(rcode int, code uint16, why string) *dns.Msg {
	m := r.fail(rcode)
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: why})
	}
	return m
}

// absent says that the name does not exist, on nobody's authority but the root's.
func (r *request) absent() *dns.Msg {
	m := r.fail(dns.RcodeNameError)
	m.Ns = []dns.RR{soa("")}
	return m
}

// authoritative makes a message of the zone's reply, its records in random order.
func (r *request) authoritative(reply Reply) *dns.Msg {
	m := r.fail(reply.Rcode)
	m.Authoritative = true
	m.Answer = reply.Answer
	m.Ns = reply.Authority
	m.Extra = append(reply.Extra, m.Extra...)
	rand.Shuffle(len(m.Answer), func(i, j int) { m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i] })
	return m
}

// pack encodes an answer of at most size bytes. What does not fit is cut off, and
// said to be, so that the client asks again by TCP; except for additional
// records, which nobody needs to miss (RFC 2181, 9).
func pack(m *dns.Msg, size int) ([]byte, error) {
	answers, authorities, truncated := len(m.Answer), len(m.Ns), m.Truncated
	m.Compress = true
	m.Truncate(size)
	if len(m.Answer) == answers && len(m.Ns) == authorities {
		m.Truncated = truncated
	}
	return m.Pack()
}
