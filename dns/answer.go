package dns

import (
	"net/netip"

	"github.com/miekg/dns"
)

// ttl of every record of ours, in seconds. It bounds how long a client may go on
// with a replica that is gone, and with a name's absence after it came.
const ttl = 5

// Reply is what the zone says to one question.
type Reply struct {
	Rcode     int // NOERROR or NXDOMAIN
	Answer    []dns.RR
	Authority []dns.RR // the SOA record of a negative answer (RFC 2308)
	Extra     []dns.RR // addresses of the targets of SRV records
}

// Answer answers a question of class IN as an endpoint on these networks, in this
// order, may see it. It returns false if the name is none of ours: such a name is for
// the upstreams. Records come sorted; the rotation is up to the caller.
func (z *Zone) Answer(networks []string, question dns.Question) (Reply, bool) {
	lower := make([]string, len(networks))
	for i, network := range networks {
		lower[i] = canonical(network)
	}
	name := canonical(question.Name)
	f, ok := z.find(lower, name)
	if !ok {
		return Reply{}, false
	}
	if f.record == nil {
		return Reply{Rcode: dns.RcodeNameError, Authority: []dns.RR{soa(f.apex)}}, true
	}
	reply := z.records(f, question)
	if question.Qtype == dns.TypeSOA && name == f.apex && name == z.domain {
		reply.Answer = []dns.RR{soa(f.apex)}
	}
	if len(reply.Answer) == 0 {
		reply.Authority = []dns.RR{soa(f.apex)}
	}
	return reply, true
}

// records gives the records of a name that exists.
func (z *Zone) records(f finding, question dns.Question) Reply {
	var reply Reply
	name := question.Name
	switch question.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		reply.Answer = addresses(name, f.record.addrs, question.Qtype)
	case dns.TypePTR:
		if f.pointer != "" {
			reply.Answer = []dns.RR{&dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: f.pointer}}
		}
	case dns.TypeSRV:
		for _, p := range f.record.ports {
			reply.Answer = append(reply.Answer, &dns.SRV{Hdr: header(name, dns.TypeSRV), Port: p.number, Target: p.target})
			reply.Extra = append(reply.Extra, addresses(p.target, p.addrs, dns.TypeA)...)
			reply.Extra = append(reply.Extra, addresses(p.target, p.addrs, dns.TypeAAAA)...)
		}
	case dns.TypeANY:
		// RFC 8482, 4.2: one small record in place of all.
		if !f.record.hollow || f.pointer != "" {
			reply.Answer = []dns.RR{&dns.HINFO{Hdr: header(name, dns.TypeHINFO), Cpu: "RFC8482"}}
		}
	}
	return reply
}

func addresses(name string, addrs []netip.Addr, qtype uint16) []dns.RR {
	var out []dns.RR
	for _, addr := range addrs {
		switch {
		case qtype == dns.TypeA && addr.Is4():
			out = append(out, &dns.A{Hdr: header(name, dns.TypeA), A: addr.AsSlice()})
		case qtype == dns.TypeAAAA && addr.Is6():
			out = append(out, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: addr.AsSlice()})
		}
	}
	return out
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// soa is the record that says how long a negative answer may be kept: the lower
// of its own TTL and its last field (RFC 2308, 5).
func soa(apex string) dns.RR {
	name := dns.Fqdn(apex)
	return &dns.SOA{
		Hdr: header(name, dns.TypeSOA), Ns: name, Mbox: "nobody.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}
