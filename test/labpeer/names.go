package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/miekg/dns"
)

// names answers A questions for the given names, and NXDOMAIN to all others.
func names(addr string, known []string) error {
	addresses := make(map[string]net.IP)
	for _, pair := range known {
		name, ip, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=IP", pair)
		}
		addresses[dns.Fqdn(name)] = net.ParseIP(ip)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg)
		answer.SetReply(question)
		name := question.Question[0].Name
		if ip, ok := addresses[strings.ToLower(name)]; !ok {
			answer.Rcode = dns.RcodeNameError
		} else if question.Question[0].Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: ip,
			}}
		}
		_ = w.WriteMsg(answer) // the asker asks again
	})
	return (&dns.Server{Addr: addr, Net: "udp", Handler: handler}).ListenAndServe()
}
