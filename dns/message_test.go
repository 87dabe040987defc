package dns

import (
	"context"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// localResolver answers without sockets, for the endpoint "e".
func localResolver(config Config, server Server) *Resolver {
	server.Endpoint = "e"
	config.Servers = []Server{server}
	r := New(Options{})
	r.state.Store(r.compile(config))
	return r
}

// exchange asks the Resolver as the endpoint e and decodes what it says.
func exchange(t *testing.T, r *Resolver, query *dns.Msg, stream bool) *dns.Msg {
	t.Helper()
	raw, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer, req := r.local("e", raw, stream)
	if req != nil {
		answer = r.forward(context.Background(), nil, req)
	}
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("answer to %v: %v", query.Question, err)
	}
	if m.Id != query.Id || !m.Response {
		t.Fatalf("answer %v does not belong to %v", m, query)
	}
	return m
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func TestMessagesAreRefusedByTheBook(t *testing.T) {
	r := localResolver(testConfig(), Server{Networks: []string{"appnet"}})
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := new(dns.Msg).SetUpdate("mesh.internal.")
	two := question("db.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	none := question("db.", dns.TypeA)
	none.Question = nil
	version := question("db.", dns.TypeA).SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	twice := question("db.", dns.TypeA).SetEdns0(1232, false).SetEdns0(1232, false)
	for _, test := range []struct {
		name  string
		query *dns.Msg
		rcode int
	}{
		{"class CH", chaos, dns.RcodeRefused},
		{"update", update, dns.RcodeNotImplemented},
		{"two questions", two, dns.RcodeFormatError},
		{"no question", none, dns.RcodeFormatError},
		{"EDNS version 1", version, dns.RcodeBadVers},
		{"two OPT records", twice, dns.RcodeFormatError},
		{"zone transfer", question("mesh.internal.", dns.TypeAXFR), dns.RcodeRefused},
		{"bare word", question("nosuch.", dns.TypeA), dns.RcodeNameError},
		{"outside name on internal networks", question("example.com.", dns.TypeA), dns.RcodeRefused},
	} {
		if got := exchange(t, r, test.query, false); got.Rcode != test.rcode {
			t.Errorf("%s: %s, want %s", test.name, dns.RcodeToString[got.Rcode], dns.RcodeToString[test.rcode])
		}
	}
	for _, raw := range [][]byte{nil, {1, 2, 3}, append([]byte{0, 1, 0x80}, make([]byte, 20)...)} {
		if answer, req := r.local("e", raw, false); answer != nil || req != nil {
			t.Errorf("an answer to % x", raw)
		}
	}
}

func TestAnswersCarryWhatClientsLookAt(t *testing.T) {
	r := localResolver(testConfig(), Server{Networks: []string{"appnet"}})
	query := question("dB.AppNet.", dns.TypeA).SetEdns0(4096, true)
	m := exchange(t, r, query, false)
	opt := m.IsEdns0()
	if m.Question[0].Name != "dB.AppNet." || !m.Authoritative || !m.RecursionAvailable || !m.RecursionDesired ||
		opt == nil || opt.UDPSize() != 1232 || !opt.Do() || opt.Version() != 0 {
		t.Errorf("%v", m)
	}
	if m := exchange(t, r, question("db.", dns.TypeA), false); m.IsEdns0() != nil {
		t.Error("EDNS0 for a client that does not speak it")
	}
	m = exchange(t, r, question("example.com.", dns.TypeA).SetEdns0(1232, false), false)
	if ede, ok := m.IsEdns0().Option[0].(*dns.EDNS0_EDE); !ok || ede.InfoCode != dns.ExtendedErrorCodeProhibited {
		t.Errorf("no reason for the refusal: %v", m)
	}
	m = exchange(t, r, question("nosuch.db.appnet.", dns.TypeA), false)
	soa, ok := m.Ns[0].(*dns.SOA)
	if m.Rcode != dns.RcodeNameError || !ok || soa.Minttl > 5 || soa.Hdr.Ttl > 5 {
		t.Errorf("a negative answer that may be kept for too long: %v", m)
	}
}

func TestNobodyToAsk(t *testing.T) {
	// The only upstream is where we answer ourselves.
	config := testConfig()
	config.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.11:53")}
	r := localResolver(config, Server{Networks: []string{"appnet"}, Forward: true})
	if m := exchange(t, r, question("nosuch.", dns.TypeA), false); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
		t.Errorf("bare word: %v", m)
	}
	m := exchange(t, r, question("example.com.", dns.TypeA).SetEdns0(1232, false), false)
	if m.Rcode != dns.RcodeServerFailure || len(m.IsEdns0().Option) != 1 {
		t.Errorf("name with dots: %v", m)
	}
}

// crowd is a service with many replicas.
func crowd(replicas int) Config {
	service := Service{Name: "crowd"}
	for i := range replicas {
		service.Replicas = append(service.Replicas, Host{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}})
	}
	return Config{Domain: "mesh.internal", Networks: []Network{{Name: "appnet", Services: []Service{service}}}}
}

func TestAnswersAreCutToTheClientsSize(t *testing.T) {
	r := localResolver(crowd(2000), Server{Networks: []string{"appnet"}})
	for _, test := range []struct {
		edns   uint16 // 0: none
		stream bool
		limit  int
		least  int // answers
		cut    bool
	}{
		{0, false, 512, 25, true},
		{100, false, 512, 25, true}, // RFC 6891, 6.2.3: less than 512 is 512
		{1232, false, 1232, 70, true},
		{65535, false, 65535, 2000, false},
		{0, true, 65535, 2000, false},
	} {
		query := question("tasks.crowd.appnet.", dns.TypeA)
		if test.edns > 0 {
			query.SetEdns0(test.edns, false)
		}
		raw, err := query.Pack()
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := r.local("e", raw, test.stream)
		m := new(dns.Msg)
		if err := m.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		if len(answer) > test.limit || len(m.Answer) < test.least || m.Truncated != test.cut {
			t.Errorf("EDNS size %d, TCP %v: %d bytes, %d answers, cut %v", test.edns, test.stream, len(answer), len(m.Answer), m.Truncated)
		}
		if (m.IsEdns0() != nil) != (test.edns > 0) {
			t.Errorf("EDNS size %d: OPT record %v", test.edns, m.IsEdns0())
		}
	}
}

func TestReplicasComeInChangingOrder(t *testing.T) {
	r := localResolver(crowd(3), Server{Networks: []string{"appnet"}})
	first := map[string]int{}
	for range 300 {
		m := exchange(t, r, question("tasks.crowd.", dns.TypeA), false)
		if len(m.Answer) != 3 {
			t.Fatalf("%v", m)
		}
		first[m.Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 3 { // fails once in 10^52 runs
		t.Errorf("first replicas: %v", first)
	}
}

func FuzzLocal(f *testing.F) {
	r := localResolver(testConfig(), Server{Networks: []string{"appnet", "back"}, Forward: true})
	for _, query := range []*dns.Msg{
		question("db.", dns.TypeA), question("_pg._tcp.db.", dns.TypeSRV).SetEdns0(1232, true),
		question("2.0.1.10.in-addr.arpa.", dns.TypePTR), question("mesh.internal.", dns.TypeSOA),
		question(reverseNameOf("fd00:1::2"), dns.TypePTR), question(`a\.b\000.tasks.appnet.`, dns.TypeANY),
	} {
		raw, err := query.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, stream := range []bool{false, true} {
			answer, req := r.local("e", raw, stream)
			if req != nil { // what goes to upstreams can be encoded again
				if _, err := upstreamQuery(req); err != nil {
					t.Fatalf("question %v: %v", req.msg.Question, err)
				}
				continue
			}
			if answer == nil {
				if len(raw) >= headerSize && raw[2]&0x80 == 0 {
					t.Fatal("no answer to a query")
				}
				continue
			}
			if err := new(dns.Msg).Unpack(answer); err != nil {
				t.Fatalf("our answer is malformed: %v", err)
			}
		}
	})
}
