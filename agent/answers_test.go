package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/configs"
	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/peers/door"
)

// answering is a session of host a in the mesh of three hosts, which only answers.
func answering(t *testing.T, more ...catalog.Record) *session {
	t.Helper()
	w, dir := newWorld(t), t.TempDir()
	s := &session{
		cfg:   configs.Config{StateDir: dir, RuntimeDir: dir, Gateway: configs.Gateway{Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24")}}},
		store: w.store(dir, "a", w.threeHosts()...), locals: openTestLocals(t, dir), log: silent,
		loop: newTestLoop(silent, nil), parts: parts{ingress: ingress.New(ingress.Options{Logger: silent})},
	}
	s.store.Merge(more...)
	return s
}

func TestAnswersSayWhatToDoNext(t *testing.T) {
	s := answering(t)
	twice := newWorld(t).document("c", func(d *catalog.Document) { d.Sequence, d.Name = 9, "b" })
	ambiguous := answering(t, twice)
	if err := s.locals.Put(newLocal("1", "/nowhere", 8)); err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		call func() error
		code api.Code
		says []string
	}{
		"a network that is not there": {
			func() error { _, err := s.Network(t.Context(), "nope"); return err },
			api.CodeNotFound, []string{`no network "nope"`, "meshd network create nope", "appnet, backnet"},
		},
		"the ingress network": {
			func() error { _, err := s.Network(t.Context(), "ingress"); return err },
			api.CodeNotFound, []string{`no network "ingress"`},
		},
		"a service that is not there": {
			func() error { _, err := s.Service(t.Context(), "nope"); return err },
			api.CodeNotFound, []string{`no service "nope"`, "there are:", "web.appnet"},
		},
		"a service on two networks": {
			func() error { _, err := s.Service(t.Context(), "db"); return err },
			api.CodeInvalid, []string{"on 2 networks", "db.appnet"},
		},
		"a host that is not there": {
			func() error { return s.Evict(t.Context(), "nope") },
			api.CodeNotFound, []string{`no host "nope"`, "meshd members"},
		},
		"a host's name that two have": {
			func() error { return ambiguous.Evict(t.Context(), "b") },
			api.CodeInvalid, []string{"2 hosts are named b", "give the id"},
		},
		"to evict oneself": {
			func() error { return s.Evict(t.Context(), "a") },
			api.CodeInvalid, []string{"meshd leave"},
		},
		"a token that is not there": {
			func() error { return s.RevokeToken(t.Context(), "nope") },
			api.CodeNotFound, []string{`no token "nope"`, "meshd token ls"},
		},
		"an endpoint that is not there": {
			func() error { return s.Detach(t.Context(), "nope") },
			api.CodeNotFound, []string{`no endpoint "nope"`, "meshd endpoint ls"},
		},
		"no network at all": {
			func() error { return s.chooseNetworks(api.AttachRequest{}, &Local{}) },
			api.CodeInvalid, []string{"--network NAME"},
		},
		"one network twice": {
			func() error {
				return s.chooseNetworks(api.AttachRequest{Networks: []string{"appnet", "appnet"}}, &Local{})
			},
			api.CodeInvalid, []string{"appnet is given twice"},
		},
		"a name that another host's endpoint has": {
			func() error {
				return s.chooseNetworks(api.AttachRequest{Networks: []string{"appnet"}}, &Local{Endpoint: catalog.Endpoint{Name: "web2"}})
			},
			api.CodeConflict, []string{"has an endpoint named web2, on b", "--name"},
		},
		"a name that is on its way here": {
			func() error {
				return s.chooseNetworks(api.AttachRequest{Networks: []string{"appnet"}}, &Local{Endpoint: catalog.Endpoint{Name: "e1"}})
			},
			api.CodeConflict, []string{"has an endpoint named e1, on this host", "--name"},
		},
		"a port that is published": {
			func() error {
				return s.choosePublish(api.AttachRequest{Publish: []api.Publish{{Published: 8080, Target: 80, Protocol: "tcp"}}}, &Local{})
			},
			api.CodeConflict, []string{"8080/tcp is published by service web.appnet"},
		},
		"no port": {
			func() error {
				return s.choosePublish(api.AttachRequest{Publish: []api.Publish{{Target: 80, Protocol: "tcp"}}}, &Local{})
			},
			api.CodeInvalid, []string{"1 to 65535"},
		},
		"a protocol that is none": {
			func() error {
				return s.choosePublish(api.AttachRequest{Publish: []api.Publish{{Published: 1, Target: 80, Protocol: "sctp"}}}, &Local{})
			},
			api.CodeInvalid, []string{"tcp or udp"},
		},
		"no namespace": {
			func() error { _, err := s.namespaceOf(api.AttachRequest{}, &Local{}); return err },
			api.CodeInvalid, []string{"--netns PATH", "--pid PID"},
		},
		"two namespaces": {
			func() error { _, err := s.namespaceOf(api.AttachRequest{PID: 1, NetNS: "/x"}, &Local{}); return err },
			api.CodeInvalid, []string{"give one of them"},
		},
		"a process that has ended": {
			func() error { _, err := s.namespaceOf(api.AttachRequest{PID: 1 << 30}, &Local{}); return err },
			api.CodeNotFound, []string{"there is no process 1073741824"},
		},
		"a namespace that is none": {
			func() error { return s.checkNamespace("/etc/hostname") },
			api.CodeNotFound, []string{"/etc/hostname is no network namespace"},
		},
		"the host's own namespace": {
			func() error { return s.checkNamespace("/proc/self/ns/net") },
			api.CodeInvalid, []string{"the host's own", "meshd run"},
		},
		"a subnet that is none": {
			func() error { _, err := parseSubnets([]string{"10.5"}, nil, &catalog.View{}); return err },
			api.CodeInvalid, []string{`"10.5" is no CIDR`, "10.5.0.0/16"},
		},
		"a subnet that the host uses": {
			func() error {
				_, err := parseSubnets([]string{"10.5.0.0/16"}, []netip.Prefix{netip.MustParsePrefix("10.5.7.0/24")}, &catalog.View{})
				return err
			},
			api.CodeConflict, []string{"overlaps 10.5.7.0/24", "leave --subnet out"},
		},
		"a network that is in use": {
			func() error { return s.RemoveNetwork(t.Context(), "appnet") },
			api.CodeConflict, []string{"appnet"},
		},
	} {
		t.Run(what, func(t *testing.T) { wantCode(t, test.call(), test.code, test.says...) })
	}
}

func TestOnlySignersSign(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	s := &session{store: w.store(dir, "b", w.threeHosts()...)}
	wantCode(t, s.Evict(t.Context(), "c"), api.CodeDenied, "no signer and may not evict", "on one that is: a")
	wantCode(t, s.RevokeToken(t.Context(), "x"), api.CodeDenied, "take tokens back")
}

func TestListsHideTheIngressNetwork(t *testing.T) {
	s := answering(t)
	networks, _ := s.Networks(t.Context())
	services, _ := s.Services(t.Context())
	endpoints, _ := s.Endpoints(t.Context())
	var names []string
	for _, n := range networks {
		names = append(names, n.Name)
	}
	for _, svc := range services {
		names = append(names, svc.Name+"."+svc.Network)
	}
	for _, e := range endpoints {
		names = append(names, e.Name+"@"+e.Network+"/"+e.Node)
	}
	want := "appnet backnet db.appnet web.appnet db.backnet db@appnet/c db@backnet/c job@backnet/a web1@appnet/a web2@appnet/b web3@appnet/c"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDetachByNameIDOrItsStart(t *testing.T) {
	s := answering(t)
	for _, digit := range []string{"1", "2"} {
		if err := s.locals.Put(newLocal(digit, "/nowhere", 8)); err != nil {
			t.Fatal(err)
		}
	}
	infrastructure := newLocal("3", "/nowhere", 9)
	infrastructure.Infrastructure = true
	if err := s.locals.Put(infrastructure); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"e1": "111111111111", "222222222222": "222222222222", "22": "222222222222"} {
		if got, err := s.resolveLocal(name); err != nil || got != want {
			t.Errorf("%s is %q (%v)", name, got, err)
		}
	}
	for _, name := range []string{"", "e", "33", "e3"} {
		if got, err := s.resolveLocal(name); err == nil {
			t.Errorf("%q is %s", name, got)
		}
	}
}

func TestProblemsSayWhatToDo(t *testing.T) {
	w := newWorld(t)
	healthy := answering(t)
	if got := healthy.problems(healthy.store.View()); len(got) != 1 || !strings.Contains(got[0], "db.backnet does not get port 8080/tcp, which web.appnet has: publish another") {
		t.Errorf("%q", got)
	}
	s := answering(t)
	s.store.Merge(w.evict("a"))
	s.store.Merge(w.document("b", func(d *catalog.Document) { d.Sequence, d.Stamp = 7, now().Add(2*catalog.MaxSkew) }))
	s.store.file.path = "/no such directory/catalog"
	_ = s.store.save()
	got := strings.Join(s.problems(s.store.View()), "\n")
	for _, want := range []string{"28 hours", "NTP", "was evicted from the mesh: meshd leave", "kept in memory only", "make room in"} {
		if !strings.Contains(got, want) {
			t.Errorf("status does not say %q:\n%s", want, got)
		}
	}
}

func TestCopiedIdentityIsTold(t *testing.T) {
	w := newWorld(t)
	s := answering(t)
	for i := range 5 {
		s.store.Merge(w.document("a", func(d *catalog.Document) { d.Epoch, d.Sequence = 9, uint64(i+1) }))
	}
	if got := strings.Join(s.problems(s.store.View()), "\n"); !strings.Contains(got, "copy of this host's identity") {
		t.Errorf("%s", got)
	}
}

func TestWhoMustAgree(t *testing.T) {
	s := answering(t)
	got := s.mustAgree()
	slices.Sort(got)
	want := []catalog.NodeID{nodeOf("b"), nodeOf("c")}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("before anybody is known to be alive, %v must agree, want %v", got, want)
	}
}

func TestJoinAddress(t *testing.T) {
	one := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:51820")}
	for _, test := range []struct {
		candidates   []netip.AddrPort
		listen, want string
	}{
		{one, fmt.Sprintf(":%d", door.DefaultPort), "192.0.2.1"},
		{one, ":1234", "192.0.2.1:1234"},
		{[]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:51820")}, ":1234", "[2001:db8::1]:1234"},
		{nil, ":1234", "ADDRESS"},
	} {
		if got := joinAddress(test.candidates, test.listen); got != test.want {
			t.Errorf("%v, %s: %s, want %s", test.candidates, test.listen, got, test.want)
		}
	}
}
