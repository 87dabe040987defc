package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ErrNoEndpoint is returned by Query for an endpoint that is not in the Config.
var ErrNoEndpoint = errors.New("no such endpoint on this host: see `meshd endpoint ls`")

// ErrBadQuestion is returned by Query for what no resolver could ask.
var ErrBadQuestion = errors.New("not a question for a name server")

// Result is an answer as an endpoint gets it.
type Result struct {
	Name    string   // as asked, absolute; an address is turned into its reverse name
	Type    string   // such as A
	Rcode   string   // NOERROR, NXDOMAIN, SERVFAIL, ...
	Source  string   // "mesh", "upstream 192.0.2.1:53", or "" if nobody was asked
	Why     string   // of a failure, a sentence; else empty
	Records []Record // the answer section
}

// Record is one resource record.
type Record struct {
	Name string
	Type string
	TTL  uint32 // seconds
	Data string // as in a zone file
}

// Query resolves name exactly as a program in the endpoint would, without the
// socket. An empty endpoint stands for one that is on all networks, in the
// Config's order, and may ask the upstreams. name may be an address; qtype is
// such as "A"; empty is "A", or "PTR" for an address. What a name server may
// answer, NXDOMAIN and SERVFAIL too, is no error.
func (r *Resolver) Query(ctx context.Context, endpoint, name, qtype string) (Result, error) {
	state := r.state.Load()
	client, ok := state.clients[endpoint]
	if endpoint == "" {
		client, ok = Server{Networks: state.all, Forward: true}, true
	}
	if !ok {
		return Result{}, fmt.Errorf("%s: %w", endpoint, ErrNoEndpoint)
	}
	req, err := newRequest(name, qtype)
	if err != nil {
		return Result{}, err
	}
	question := req.question()
	result := Result{Name: question.Name, Type: dns.Type(question.Qtype).String()}
	answer, upstream := r.decide(state, client, req)
	if upstream != nil {
		var from netip.AddrPort
		answer, from = r.ask(ctx, state.forward, upstream)
		if err := ctx.Err(); err != nil {
			return Result{}, fmt.Errorf("resolving %s: %w", name, err)
		}
		if from.IsValid() {
			result.Source = "upstream " + from.String()
		}
	}
	return result.fill(answer)
}

func newRequest(name, qtype string) (*request, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		if name, err = dns.ReverseAddr(addr.Unmap().WithZone("").String()); err != nil {
			return nil, fmt.Errorf("%s: %w", addr, ErrBadQuestion)
		}
		if qtype == "" {
			qtype = "PTR"
		}
	}
	if qtype == "" {
		qtype = "A"
	}
	number, ok := dns.StringToType[strings.ToUpper(qtype)]
	if !ok {
		return nil, fmt.Errorf("record type %q is unknown: %w; try A, AAAA, SRV or PTR", qtype, ErrBadQuestion)
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return nil, fmt.Errorf("%q is no domain name: %w", name, ErrBadQuestion)
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), number)
	m.SetEdns0(upstreamSize, false)
	raw, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", name, ErrBadQuestion, err)
	}
	req, refusal := parse(raw, true)
	if refusal != nil {
		return nil, fmt.Errorf("%s %s: %w", name, qtype, ErrBadQuestion)
	}
	return req, nil
}

// fill adds what an encoded answer says.
func (result Result) fill(answer []byte) (Result, error) {
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		return result, fmt.Errorf("reading the answer for %s: %w", result.Name, err)
	}
	if result.Source == "" && m.Authoritative {
		result.Source = "mesh"
	}
	result.Rcode = dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		h := rr.Header()
		result.Records = append(result.Records, Record{
			Name: h.Name, Type: dns.Type(h.Rrtype).String(), TTL: h.Ttl,
			Data: strings.TrimPrefix(rr.String(), h.String()),
		})
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			if ede, ok := option.(*dns.EDNS0_EDE); ok {
				result.Why = ede.ExtraText
			}
		}
	}
	return result, nil
}
