package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// testConfig has what the mesh of a small shop would have.
func testConfig() Config {
	db1 := Host{"db-1", addrs("10.1.0.2", "fd00:1::2")}
	db2 := Host{"db-2", addrs("10.1.1.2", "fd00:1::102")}
	return Config{
		Domain: "mesh.internal",
		Networks: []Network{
			{
				Name:    "appnet",
				Subnets: prefixes("10.1.0.0/16", "fd00:1::/112"),
				Services: []Service{
					{
						Name: "db", VIPs: addrs("10.1.200.1", "fd00:1::c801"), Replicas: []Host{db2, db1},
						Ports: []Port{{"5432", 5432, "tcp"}, {"pg", 5432, "tcp"}},
					},
					{Name: "Web_1", VIPs: addrs("10.1.200.2")},
					{Name: "www.example.com", VIPs: addrs("10.1.200.3")},
					{Name: "anon", VIPs: addrs("10.1.200.4"), Replicas: []Host{{"", addrs("10.1.0.9")}}, Ports: []Port{{"53", 53, "udp"}}},
				},
				Endpoints: []Host{db1, db2, {"shell", addrs("10.1.0.7", "fd00:1::7")}},
			},
			{
				Name: "back", Subnets: prefixes("10.2.0.0/20"),
				Services:  []Service{{Name: "db", VIPs: addrs("10.2.15.1")}, {Name: "queue", VIPs: addrs("10.2.15.2")}},
				Endpoints: []Host{{"shell", addrs("10.2.0.7")}},
			},
			{Name: "dev", Subnets: prefixes("10.3.0.0/24"), Services: []Service{{Name: "go", VIPs: addrs("10.3.0.200")}}},
			{Name: "secret", Services: []Service{{Name: "vault", VIPs: addrs("10.4.0.200")}}},
		},
		Nodes: []Node{{"alpha", addrs("fdaa::1")}, {"beta.example.org", addrs("fdaa::2")}, {"mute", nil}},
	}
}

// say writes a reply as one line: its code, then the data of its sections.
func say(reply Reply, ours bool) string {
	if !ours {
		return "upstream"
	}
	var b strings.Builder
	b.WriteString(dns.RcodeToString[reply.Rcode])
	section := func(mark string, rrs []dns.RR) {
		for _, rr := range rrs {
			text := strings.ReplaceAll(strings.TrimPrefix(rr.String(), rr.Header().String()), "\"", "")
			if soa, ok := rr.(*dns.SOA); ok {
				text = "SOA " + soa.Hdr.Name
			}
			fmt.Fprintf(&b, "%s %s", mark, strings.TrimSpace(text))
		}
	}
	section("", reply.Answer)
	section(" |", reply.Authority)
	section(" +", reply.Extra)
	return b.String()
}

func TestZoneAnswers(t *testing.T) {
	zone := NewZone(testConfig())
	both := []string{"appnet", "back"}
	for _, test := range []struct {
		networks []string
		name     string
		qtype    uint16
		want     string
	}{
		// Virtual IPs, in three lengths.
		{both, "db.", dns.TypeA, "NOERROR 10.1.200.1"},
		{both, "DB.", dns.TypeAAAA, "NOERROR fd00:1::c801"},
		{both, "db.appnet.", dns.TypeA, "NOERROR 10.1.200.1"},
		{both, "db.appnet.mesh.internal.", dns.TypeA, "NOERROR 10.1.200.1"},
		{both, "Db.ApPnEt.MESH.internal.", dns.TypeA, "NOERROR 10.1.200.1"},
		{both, "web_1.", dns.TypeA, "NOERROR 10.1.200.2"},
		{both, "www.example.com.", dns.TypeA, "NOERROR 10.1.200.3"},
		{both, "www.example.com.appnet.", dns.TypeA, "NOERROR 10.1.200.3"},
		{both, "db.mesh.internal.", dns.TypeA, "NXDOMAIN | SOA mesh.internal."},
		// The first network wins for the bare name.
		{[]string{"back", "appnet"}, "db.", dns.TypeA, "NOERROR 10.2.15.1"},
		{[]string{"back", "appnet"}, "db.", dns.TypeAAAA, "NOERROR | SOA db."},
		{[]string{"back", "appnet"}, "tasks.db.", dns.TypeA, "NOERROR | SOA tasks.db."},
		{[]string{"back", "appnet"}, "_pg._tcp.db.", dns.TypeSRV, "NXDOMAIN | SOA db."},
		{[]string{"back", "appnet"}, "db.appnet.", dns.TypeA, "NOERROR 10.1.200.1"},
		{[]string{"BACK"}, "queue.", dns.TypeA, "NOERROR 10.2.15.2"},
		// Replicas, endpoints, nodes.
		{both, "tasks.db.", dns.TypeA, "NOERROR 10.1.0.2 10.1.1.2"},
		{both, "tasks.db.appnet.", dns.TypeAAAA, "NOERROR fd00:1::2 fd00:1::102"},
		{both, "tasks.db.appnet.mesh.internal.", dns.TypeA, "NOERROR 10.1.0.2 10.1.1.2"},
		{both, "tasks.web_1.", dns.TypeA, "NOERROR | SOA tasks.web_1."},
		{both, "tasks.nosuch.", dns.TypeA, "NXDOMAIN | SOA nosuch."},
		{both, "tasks.google.com.", dns.TypeA, "upstream"},
		{both, "tasks.com.", dns.TypeA, "upstream"},
		{both, "shell.endpoint.", dns.TypeA, "NOERROR 10.1.0.7"},
		{both, "shell.endpoint.back.", dns.TypeA, "NOERROR 10.2.0.7"},
		{both, "shell.endpoint.appnet.mesh.internal.", dns.TypeAAAA, "NOERROR fd00:1::7"},
		{both, "nosuch.endpoint.", dns.TypeA, "NXDOMAIN | SOA endpoint."},
		{both, "shell.", dns.TypeA, "upstream"},
		{both, "alpha.node.", dns.TypeAAAA, "NOERROR fdaa::1"},
		{both, "alpha.node.mesh.internal.", dns.TypeAAAA, "NOERROR fdaa::1"},
		{both, "alpha.node.", dns.TypeA, "NOERROR | SOA alpha.node."},
		{both, "mute.node.", dns.TypeAAAA, "NOERROR | SOA mute.node."},
		{nil, "beta.example.org.node.", dns.TypeAAAA, "NOERROR fdaa::2"},
		{both, "nosuch.node.", dns.TypeA, "NXDOMAIN | SOA node."},
		{both, "nosuch.node.mesh.internal.", dns.TypeA, "NXDOMAIN | SOA mesh.internal."},
		// Services' ports.
		{both, "_5432._tcp.db.", dns.TypeSRV, "NOERROR 0 0 5432 db-1.endpoint.appnet.mesh.internal. 0 0 5432 db-2.endpoint.appnet.mesh.internal. + 10.1.0.2 + fd00:1::2 + 10.1.1.2 + fd00:1::102"},
		{both, "_PG._TCP.db.appnet.mesh.internal.", dns.TypeSRV, "NOERROR 0 0 5432 db-1.endpoint.appnet.mesh.internal. 0 0 5432 db-2.endpoint.appnet.mesh.internal. + 10.1.0.2 + fd00:1::2 + 10.1.1.2 + fd00:1::102"},
		{both, "_53._udp.anon.", dns.TypeSRV, "NOERROR 0 0 53 tasks.anon.appnet.mesh.internal. + 10.1.0.9"},
		{both, "_5432._udp.db.", dns.TypeSRV, "NXDOMAIN | SOA db."},
		{both, "_5432._tcp.db.", dns.TypeA, "NOERROR | SOA db."},
		{both, "_tcp.db.", dns.TypeA, "NOERROR | SOA db."},
		{both, "_5432._tcp.nosuch.", dns.TypeSRV, "upstream"},
		{both, "_5432._tcp.nosuch.appnet.", dns.TypeSRV, "NXDOMAIN | SOA appnet."},
		// What is there with other types, and what is not there.
		{both, "db.", dns.TypeMX, "NOERROR | SOA db."},
		{both, "db.appnet.", dns.TypeHTTPS, "NOERROR | SOA appnet."},
		{both, "db.appnet.mesh.internal.", dns.TypeTXT, "NOERROR | SOA mesh.internal."},
		{both, "db.", dns.TypeANY, "NOERROR RFC8482"},
		{both, "appnet.mesh.internal.", dns.TypeA, "NOERROR | SOA mesh.internal."},
		{both, "node.mesh.internal.", dns.TypeA, "NOERROR | SOA mesh.internal."},
		{both, "mesh.internal.", dns.TypeSOA, "NOERROR SOA mesh.internal."},
		{both, "mesh.internal.", dns.TypeA, "NOERROR | SOA mesh.internal."},
		{both, "appnet.", dns.TypeA, "NOERROR | SOA appnet."},
		{both, "endpoint.", dns.TypeA, "NOERROR | SOA endpoint."},
		{both, "nosuch.", dns.TypeA, "upstream"},
		{both, "nosuch.appnet.", dns.TypeA, "NXDOMAIN | SOA appnet."},
		{both, "nosuch.appnet.mesh.internal.", dns.TypeA, "NXDOMAIN | SOA mesh.internal."},
		{both, "www.example.net.", dns.TypeA, "upstream"},
		{both, "example.com.", dns.TypeA, "upstream"},
		{both, "xappnet.", dns.TypeA, "upstream"},
		{both, ".", dns.TypeNS, "upstream"},
		// A network with a public suffix's name hides nothing of the public's.
		{[]string{"dev"}, "go.dev.", dns.TypeA, "NOERROR 10.3.0.200"},
		{[]string{"dev"}, "web.dev.", dns.TypeA, "upstream"},
		{[]string{"dev"}, "dev.", dns.TypeNS, "upstream"},
		{[]string{"dev"}, "web.dev.mesh.internal.", dns.TypeA, "NXDOMAIN | SOA mesh.internal."},
		// Other networks' names do not exist.
		{both, "vault.", dns.TypeA, "upstream"},
		{both, "vault.secret.", dns.TypeA, "upstream"},
		{both, "vault.secret.mesh.internal.", dns.TypeA, "NXDOMAIN | SOA mesh.internal."},
		{both, "secret.mesh.internal.", dns.TypeA, "NXDOMAIN | SOA mesh.internal."},
		{both, "200.0.4.10.in-addr.arpa.", dns.TypePTR, "upstream"},
		{[]string{"back"}, "1.200.1.10.in-addr.arpa.", dns.TypePTR, "upstream"},
		// Addresses.
		{both, "1.200.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR db.appnet.mesh.internal."},
		{both, "2.0.1.10.IN-ADDR.arpa.", dns.TypePTR, "NOERROR db-1.endpoint.appnet.mesh.internal."},
		{both, reverseNameOf("fd00:1::c801"), dns.TypePTR, "NOERROR db.appnet.mesh.internal."},
		{both, reverseNameOf("fdaa::1"), dns.TypePTR, "NOERROR alpha.node.mesh.internal."},
		{both, reverseNameOf("fdaa::9"), dns.TypePTR, "upstream"},
		{both, "7.0.2.10.in-addr.arpa.", dns.TypePTR, "NOERROR shell.endpoint.back.mesh.internal."},
		{both, "7.0.2.10.in-addr.arpa.", dns.TypeA, "NOERROR | SOA 0.2.10.in-addr.arpa."},
		{both, "8.0.2.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN | SOA 0.2.10.in-addr.arpa."},
		{both, "8.0.1.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN | SOA 1.10.in-addr.arpa."},
		{both, "0.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR | SOA 1.10.in-addr.arpa."},
		{both, "10.in-addr.arpa.", dns.TypePTR, "upstream"},
		{both, "8.8.8.8.in-addr.arpa.", dns.TypePTR, "upstream"},
		{both, "1.2.3.4.5.in-addr.arpa.", dns.TypePTR, "upstream"},
		{both, "x.0.2.10.in-addr.arpa.", dns.TypePTR, "upstream"},
		// Escapes.
		{both, `\100b.`, dns.TypeA, "upstream"},
		{both, `db\.appnet.`, dns.TypeA, "upstream"},
		{both, `x\.db.appnet.`, dns.TypeA, "NXDOMAIN | SOA appnet."},
		{both, `tasks.a\.b.`, dns.TypeA, "upstream"},
	} {
		got := say(zone.Answer(test.networks, dns.Question{Name: test.name, Qtype: test.qtype, Qclass: dns.ClassINET}))
		if got != test.want {
			t.Errorf("%s %s on %v:\n got %s\nwant %s", test.name, dns.Type(test.qtype), test.networks, got, test.want)
		}
	}
}

func reverseNameOf(addr string) string {
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return name
}

func TestZoneRecordsAreShortLivedAndKeepTheQuestionsCase(t *testing.T) {
	reply, ok := NewZone(testConfig()).Answer([]string{"appnet"}, dns.Question{Name: "dB.aPPnet.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
	if !ok || len(reply.Answer) != 1 {
		t.Fatalf("Answer = %s", say(reply, ok))
	}
	want := dns.RR_Header{Name: "dB.aPPnet.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}
	if diff := cmp.Diff(want, *reply.Answer[0].Header()); diff != "" {
		t.Error(diff)
	}
}

func TestZoneLeavesOutWhatCannotBeAsked(t *testing.T) {
	for _, name := range []string{"", ".", "a..b", "_x", "a b", "ä", strings.Repeat("x", 64), strings.Repeat("x.", 100) + "x"} {
		if validName(name) {
			t.Errorf("validName(%q) = true", name)
		}
		NewZone(Config{
			Nodes:    []Node{{Name: name}},
			Networks: []Network{{Name: name}, {Name: "n", Services: []Service{{Name: name}, {Name: "s", Ports: []Port{{Name: name}}}}, Endpoints: []Host{{Name: name}}}},
		})
	}
	// The empty domain is not what all names end in.
	reply, ok := NewZone(Config{}).Answer(nil, dns.Question{Name: "db.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
	if ok {
		t.Errorf("an empty zone answers %s", say(reply, ok))
	}
}

func BenchmarkZone(b *testing.B) {
	config := Config{Domain: "mesh.internal", Networks: []Network{{Name: "net"}}}
	for i := range 5000 {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		host := Host{fmt.Sprintf("e%d", i), []netip.Addr{addr}}
		config.Networks[0].Endpoints = append(config.Networks[0].Endpoints, host)
		config.Networks[0].Services = append(config.Networks[0].Services, Service{Name: fmt.Sprintf("s%d", i), VIPs: host.Addrs, Replicas: []Host{host}})
	}
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			NewZone(config)
		}
	})
	zone := NewZone(config)
	question := dns.Question{Name: "s4999.net.mesh.internal.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	b.Run("answer", func(b *testing.B) {
		for b.Loop() {
			if _, ok := zone.Answer([]string{"net"}, question); !ok {
				b.Fatal("not found")
			}
		}
	})
}
