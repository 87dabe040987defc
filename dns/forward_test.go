package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// fakeUpstreams stands for name servers and the network before them. Each answers a
// question with messages, in this order; nil is silence.
type fakeUpstreams struct {
	answer map[string]func(network string, query *dns.Msg) []*dns.Msg // by address

	mu    sync.Mutex // guards asked
	asked []string   // "udp ADDRESS", in order
}

func (f *fakeUpstreams) dial(_ context.Context, network, address string) (net.Conn, error) {
	f.mu.Lock()
	f.asked = append(f.asked, network+" "+address)
	f.mu.Unlock()
	answer := f.answer[address]
	if answer == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		receive, send := receiveDatagram, sendDatagram
		if network == "tcp" {
			receive, send = readMessage, writeMessage
		}
		raw, err := receive(theirs)
		if err != nil {
			return
		}
		query := new(dns.Msg)
		if err := query.Unpack(raw); err != nil {
			return
		}
		for _, m := range answer(network, query) {
			raw, err := m.Pack()
			if err != nil || send(theirs, raw) != nil {
				return
			}
		}
		_, _ = receive(theirs) // until the asker hangs up
	}()
	return ours, nil
}

func (f *fakeUpstreams) takeAsked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

func answerA(query *dns.Msg, ips ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(query)
	for _, ip := range ips {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 86400}, A: net.ParseIP(ip)})
	}
	return m
}

func says(ip string) func(string, *dns.Msg) []*dns.Msg {
	return func(_ string, query *dns.Msg) []*dns.Msg { return []*dns.Msg{answerA(query, ip)} }
}

func fails(rcode int) func(string, *dns.Msg) []*dns.Msg {
	return func(_ string, query *dns.Msg) []*dns.Msg {
		return []*dns.Msg{new(dns.Msg).SetRcode(query, rcode)}
	}
}

func silent(string, *dns.Msg) []*dns.Msg { return nil }

const one, two = "192.0.2.1:53", "192.0.2.2:53"

// forwarding is a Resolver with the upstreams one and two.
func forwarding(f *fakeUpstreams) *Resolver {
	config := Config{
		Domain:    "mesh.internal",
		Upstreams: []netip.AddrPort{netip.MustParseAddrPort(one), netip.MustParseAddrPort(two)},
		Servers:   []Server{{Endpoint: "e", Forward: true}},
	}
	r := New(Options{Dial: f.dial})
	r.state.Store(r.compile(config))
	return r
}

type upstreamAnswers = map[string]func(string, *dns.Msg) []*dns.Msg

func TestUpstreamsAreAskedInOrder(t *testing.T) {
	for _, test := range []struct {
		name    string
		answers upstreamAnswers
		ask     string
		want    string
		asked   []string
	}{
		{"the first answers", upstreamAnswers{one: says("198.51.100.1"), two: says("198.51.100.2")}, "Example.com.", "NOERROR 198.51.100.1", []string{"udp " + one}},
		{"NXDOMAIN is an answer", upstreamAnswers{one: fails(dns.RcodeNameError), two: says("198.51.100.2")}, "example.com.", "NXDOMAIN", []string{"udp " + one}},
		{"the first is gone", upstreamAnswers{two: says("198.51.100.2")}, "example.com.", "NOERROR 198.51.100.2", []string{"udp " + one, "udp " + two}},
		{"the first is silent", upstreamAnswers{one: silent, two: says("198.51.100.2")}, "example.com.", "NOERROR 198.51.100.2", []string{"udp " + one, "udp " + two}},
		{"the first fails", upstreamAnswers{one: fails(dns.RcodeServerFailure), two: says("198.51.100.2")}, "example.com.", "NOERROR 198.51.100.2", []string{"udp " + one, "udp " + two}},
		{"both refuse", upstreamAnswers{one: fails(dns.RcodeRefused), two: fails(dns.RcodeRefused)}, "example.com.", "REFUSED", []string{"udp " + one, "udp " + two}},
		{"both are gone", nil, "example.com.", "SERVFAIL (no upstream name server answered (192.0.2.1:53: connection refused; 192.0.2.2:53: connection refused))", []string{"udp " + one, "udp " + two}},
		{"both are silent", upstreamAnswers{one: silent, two: silent}, "example.com.", "SERVFAIL (no upstream name server answered (192.0.2.1:53: no answer in 2s; 192.0.2.2:53: no answer in 2s))", []string{"udp " + one, "udp " + two}},
		{"a bare word that nobody can answer for", upstreamAnswers{one: fails(dns.RcodeServerFailure)}, "nosuch.", "NXDOMAIN", []string{"udp " + one, "udp " + two}},
		{"a bare word that somebody has", upstreamAnswers{one: says("198.51.100.1")}, "printer.", "NOERROR 198.51.100.1", []string{"udp " + one}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &fakeUpstreams{answer: test.answers}
				m := exchange(t, forwarding(fake), question(test.ask, dns.TypeA).SetEdns0(1232, false), false)
				if got := outline(m); got != test.want {
					t.Errorf("answer %s, want %s", got, test.want)
				}
				if m.Question[0].Name != test.ask {
					t.Errorf("question %s came back as %s", test.ask, m.Question[0].Name)
				}
				if asked := fake.takeAsked(); !slices.Equal(asked, test.asked) {
					t.Errorf("asked %v, want %v", asked, test.asked)
				}
			})
		})
	}
}

// outline writes an answer as its code, its addresses and its reason.
func outline(m *dns.Msg) string {
	out := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		out += " " + rr.(*dns.A).A.String()
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			out += " (" + option.(*dns.EDNS0_EDE).ExtraText + ")"
		}
	}
	return out
}

func TestASilentUpstreamIsAskedLastForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeUpstreams{answer: upstreamAnswers{one: silent, two: says("198.51.100.2")}}
		r := forwarding(fake)
		query := question("example.com.", dns.TypeA)
		exchange(t, r, query, false)
		fake.takeAsked()
		exchange(t, r, query, false)
		if asked := fake.takeAsked(); !slices.Equal(asked, []string{"udp " + two}) {
			t.Errorf("right after: asked %v", asked)
		}
		time.Sleep(shunTime + time.Second) // of synctest's time
		fake.answer[one] = says("198.51.100.1")
		if got := outline(exchange(t, r, query, false)); got != "NOERROR 198.51.100.1" {
			t.Errorf("later: %s", got)
		}
	})
}

func TestForgedAnswersArePassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeUpstreams{answer: upstreamAnswers{one: func(_ string, query *dns.Msg) []*dns.Msg {
			wrongID, wrongName, wrongType, noAnswer := answerA(query, "203.0.113.1"), answerA(query, "203.0.113.2"), answerA(query, "203.0.113.3"), answerA(query, "203.0.113.4")
			wrongID.Id++
			wrongName.Question = []dns.Question{{Name: "evil.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
			wrongType.Question = []dns.Question{{Name: "example.com.", Qtype: dns.TypeTXT, Qclass: dns.ClassINET}}
			noAnswer.Response = false
			right := answerA(query, "198.51.100.1")
			right.Question = []dns.Question{{Name: "EXAMPLE.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET}} // some servers do that
			return []*dns.Msg{wrongID, wrongName, wrongType, noAnswer, right}
		}}}
		m := exchange(t, forwarding(fake), question("exAmple.com.", dns.TypeA), false)
		if outline(m) != "NOERROR 198.51.100.1" || m.Question[0].Name != "exAmple.com." || m.Answer[0].Header().Ttl != 86400 {
			t.Errorf("%v", m)
		}
	})
}

func TestBareRefusalsDoNotCostTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeUpstreams{answer: upstreamAnswers{one: func(_ string, query *dns.Msg) []*dns.Msg {
			m := new(dns.Msg).SetRcode(query, dns.RcodeRefused)
			m.Question = nil
			return []*dns.Msg{m}
		}, two: says("198.51.100.2")}}
		started := time.Now()
		if got := outline(exchange(t, forwarding(fake), question("example.com.", dns.TypeA), false)); got != "NOERROR 198.51.100.2" {
			t.Error(got)
		}
		if took := time.Since(started); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

func TestLargeAnswersComeByTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ips []string
		for i := range 100 {
			ips = append(ips, fmt.Sprintf("198.51.100.%d", i))
		}
		large := func(network string, query *dns.Msg) []*dns.Msg {
			if network == "udp" {
				m := answerA(query)
				m.Truncated = true
				return []*dns.Msg{m}
			}
			m := answerA(query, ips...)
			m.Compress = true
			return []*dns.Msg{m}
		}
		r := forwarding(&fakeUpstreams{answer: upstreamAnswers{one: large}})
		if m := exchange(t, r, question("example.com.", dns.TypeA), true); len(m.Answer) != 100 || m.Truncated {
			t.Errorf("by TCP: %d answers, truncated %v", len(m.Answer), m.Truncated)
		}
		// A client that cannot speak TCP has at least some of them.
		if m := exchange(t, r, question("example.com.", dns.TypeA), false); len(m.Answer) < 25 || !m.Truncated {
			t.Errorf("by UDP: %d answers, truncated %v", len(m.Answer), m.Truncated)
		}
		// Where TCP is blocked the cut answer is better than none.
		noTCP := func(network string, query *dns.Msg) []*dns.Msg {
			if network == "tcp" {
				return nil
			}
			return large(network, query)
		}
		r = forwarding(&fakeUpstreams{answer: upstreamAnswers{one: noTCP}})
		if m := exchange(t, r, question("example.com.", dns.TypeA), false); !m.Truncated || m.Rcode != dns.RcodeSuccess {
			t.Errorf("without TCP: %v", m)
		}
	})
}

func TestUpstreamsSeeNothingOfTheClientsOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen *dns.Msg
		fake := &fakeUpstreams{answer: upstreamAnswers{one: func(_ string, query *dns.Msg) []*dns.Msg {
			seen = query
			return []*dns.Msg{answerA(query, "198.51.100.1")}
		}}}
		query := question("example.com.", dns.TypeA).SetEdns0(4096, true)
		query.CheckingDisabled = true
		query.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		exchange(t, forwarding(fake), query, false)
		opt := seen.IsEdns0()
		if opt == nil || len(opt.Option) != 0 || opt.UDPSize() != 1232 || !opt.Do() || !seen.CheckingDisabled || !seen.RecursionDesired {
			t.Errorf("the upstream was asked %v", seen)
		}
	})
}

func TestQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeUpstreams{answer: upstreamAnswers{one: says("198.51.100.1")}}
		config := testConfig()
		config.Upstreams = []netip.AddrPort{netip.MustParseAddrPort(one)}
		config.Servers = []Server{{Endpoint: "in", Networks: []string{"back"}}, {Endpoint: "out", Networks: []string{"appnet"}, Forward: true}}
		r := New(Options{Dial: fake.dial})
		r.state.Store(r.compile(config))
		for _, test := range []struct{ endpoint, name, qtype, want string }{
			{"out", "db", "", "db. A NOERROR mesh 10.1.200.1"},
			{"in", "db", "a", "db. A NOERROR mesh 10.2.15.1"},
			{"out", "10.1.200.1", "", "1.200.1.10.in-addr.arpa. PTR NOERROR mesh db.appnet.mesh.internal."},
			{"out", "nosuch.appnet", "", "nosuch.appnet. A NXDOMAIN mesh"},
			{"out", "example.com", "A", "example.com. A NOERROR upstream 192.0.2.1:53 198.51.100.1"},
			{"in", "example.com", "A", "example.com. A REFUSED  (the networks back are internal: only their own names are known here)"},
			{"", "queue", "", "queue. A NOERROR mesh 10.2.15.2"},
			{"", "vault.secret", "", "vault.secret. A NOERROR mesh 10.4.0.200"},
		} {
			result, err := r.Query(t.Context(), test.endpoint, test.name, test.qtype)
			if err != nil {
				t.Errorf("%v: %v", test, err)
				continue
			}
			got := strings.Join([]string{result.Name, result.Type, result.Rcode, result.Source}, " ")
			for _, record := range result.Records {
				got += " " + record.Data
			}
			if result.Why != "" {
				got += " (" + result.Why + ")"
			}
			if got != test.want {
				t.Errorf("%s asks %s %s:\n got %s\nwant %s", test.endpoint, test.name, test.qtype, got, test.want)
			}
		}
		if _, err := r.Query(t.Context(), "nobody", "db", ""); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("an endpoint that is not there: %v", err)
		}
		for _, bad := range [][2]string{{"a..b", "A"}, {"", "A"}, {"db", "NONSENSE"}, {"db", "AXFR"}, {strings.Repeat("x", 64), "A"}} {
			if _, err := r.Query(t.Context(), "in", bad[0], bad[1]); !errors.Is(err, ErrBadQuestion) {
				t.Errorf("Query(%q, %q): %v", bad[0], bad[1], err)
			}
		}
	})
}

// FuzzUpstream is an upstream that answers whatever it likes: what the client gets is an answer to its
// own question, of a size that it can take, or an error.
func FuzzUpstream(f *testing.F) {
	query := question("example.test.", dns.TypeA).SetEdns0(1232, false)
	raw, err := query.Pack()
	if err != nil {
		f.Fatal(err)
	}
	answer := new(dns.Msg).SetReply(query)
	answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "example.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(192, 0, 2, 1)}}
	good, err := answer.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(append([]byte{}, good...), make([]byte, 3000)...))
	f.Add([]byte("\x00\x00\x80\x05\x00\x00"))
	_, req := forwarding(new(fakeUpstreams)).local("e", raw, false)
	if req == nil {
		f.Fatal("the question is not for the upstreams")
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		query, err := upstreamQuery(req)
		if err != nil {
			t.Fatal(err)
		}
		if len(answer) >= headerSize { // it has seen our id
			copy(answer, query[:2])
		}
		if _, ok := refusal(answer, query); ok || !answers(answer, query) {
			return
		}
		_ = final(answer)
		got, err := restore(answer, query, req)
		if err != nil {
			return
		}
		if len(got) > req.size || got[0] != raw[0] || got[1] != raw[1] {
			t.Fatalf("%d of at most %d bytes, id %x, want %x", len(got), req.size, got[:2], raw[:2])
		}
	})
}
