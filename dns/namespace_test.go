package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/netns"
	"github.com/miekg/dns"
)

// newNamespace makes a network namespace that goes with the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("kernel tests need root")
		}
		t.Skip("needs root to make network namespaces")
	}
	path := filepath.Join(t.TempDir(), "netns")
	handle, err := netns.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := handle.Close(); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// dialIn opens connections inside a namespace.
func dialIn(path string) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var conn net.Conn
		err := netns.Do(path, func() error {
			var err error
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// program is the resolver of a Go program in the namespace.
func program(path string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialIn(path)(ctx, network, "127.0.0.11:53")
	}}
}

// whole is a name as a program asks for it with the endpoint's resolv.conf: the resolver above reads the machine's own, and would
// ask for the name in that one's domains first.
func whole(name string) string { return strings.TrimSuffix(name, ".") + "." }

// startUpstream runs a real name server in a namespace of its own, that knows
// big.example (large answers) and answers all else with 198.51.100.1.
func startUpstream(t *testing.T) (namespace string, addr netip.AddrPort) {
	t.Helper()
	namespace = newNamespace(t)
	addr = netip.MustParseAddrPort("127.0.0.1:53")
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		ips := []string{"198.51.100.1"}
		if query.Question[0].Name == "big.example." {
			for i := range 200 {
				ips = append(ips, fmt.Sprintf("203.0.113.%d", i))
			}
		}
		m := answerA(query, ips...)
		if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m) // a client that went is no failure
	})
	var packets net.PacketConn
	var streams net.Listener
	err := netns.Do(namespace, func() (err error) {
		if packets, err = net.ListenPacket("udp", addr.String()); err != nil {
			return err
		}
		streams, err = net.Listen("tcp", addr.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		server.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown()
			<-ended
		})
	}
	return namespace, addr
}

func newResolver(t *testing.T, options Options) *Resolver {
	r := New(options)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func apply(t *testing.T, r *Resolver, config Config) {
	t.Helper()
	if err := r.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

func TestProgramsInAnEndpointResolve(t *testing.T) {
	upstream, addr := startUpstream(t)
	here := newNamespace(t)
	config := testConfig()
	config.Upstreams = []netip.AddrPort{addr}
	config.Servers = []Server{{Endpoint: "e1", Namespace: here, Networks: []string{"appnet"}, Forward: true}}
	r := newResolver(t, Options{Dial: dialIn(upstream)})
	apply(t, r, config)
	resolver, ctx := program(here), t.Context()

	for _, test := range []struct{ name, want string }{
		{"db", "10.1.200.1 fd00:1::c801"},
		{"db.appnet", "10.1.200.1 fd00:1::c801"},
		{"db.appnet.mesh.internal", "10.1.200.1 fd00:1::c801"},
		{"tasks.db", "10.1.0.2 10.1.1.2 fd00:1::102 fd00:1::2"},
		{"shell.endpoint", "10.1.0.7 fd00:1::7"},
		{"alpha.node", "fdaa::1"},
		{"web.example", "198.51.100.1"},
	} {
		got, err := resolver.LookupHost(ctx, whole(test.name))
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
	var missing *net.DNSError
	if _, err := resolver.LookupHost(ctx, whole("nosuch.appnet")); !errors.As(err, &missing) || !missing.IsNotFound {
		t.Errorf("nosuch.appnet: %v", err)
	}
	if names, err := resolver.LookupAddr(ctx, "10.1.200.1"); err != nil || !slices.Equal(names, []string{"db.appnet.mesh.internal."}) {
		t.Errorf("address of db: %v, %v", names, err)
	}
	if _, targets, err := resolver.LookupSRV(ctx, "pg", "tcp", whole("db")); err != nil || len(targets) != 2 || targets[0].Port != 5432 {
		t.Errorf("port of db: %v, %v", targets, err)
	}
	// Both hops are cut off by UDP and go on by TCP.
	if got, err := resolver.LookupHost(ctx, whole("big.example")); err != nil || len(got) < 201 {
		t.Errorf("a large answer: %d addresses, %v", len(got), err)
	}
}

// run runs a command in the namespace with the endpoint's resolv.conf.
func run(t *testing.T, namespace string, conf []byte, command ...string) string {
	t.Helper()
	for _, tool := range []string{"nsenter", "unshare", "mount", command[0]} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: run: make deps", tool)
			}
			t.Skipf("needs %s: run: make deps", tool)
		}
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--net=" + namespace, "unshare", "--mount", "sh", "-c", `mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`, "sh", file}, command...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s%v", out, err)
	}
	return strings.TrimSpace(string(out))
}

func TestOtherResolversUnderstandUs(t *testing.T) {
	here := newNamespace(t)
	config := crowd(100)
	config.Networks[0].Services = append(config.Networks[0].Services, testConfig().Networks[0].Services...)
	server := Server{Endpoint: "e1", Namespace: here, Networks: []string{"appnet"}}
	config.Servers = []Server{server}
	apply(t, newResolver(t, Options{}), config)
	conf := ResolvConf(server, config)

	t.Run("dig", func(t *testing.T) {
		for _, test := range []struct{ args, want string }{
			{"+short db A", "10.1.200.1"},
			{"+short +tcp db.appnet AAAA", "fd00:1::c801"},
			{"+short +noedns -x 10.1.200.1", "db.appnet.mesh.internal."},
			{"+noall +comments nosuch", "status: NXDOMAIN"},
			{"+noall +comments +authority db MX", "status: NOERROR"},
			{"+noall +comments +ednsopt=8:00010000 +noednsneg +edns=7 db", "status: BADVERS"},
			{"+noall +comments example.com", "EDE: 18 (Prohibited)"},
			{"+noall +comments +ignore tasks.crowd", "flags: qr aa tc rd ra"},
			{"+noall +comments tasks.crowd", "ANSWER: 100,"},
			{"+noall +comments +opcode=UPDATE db", "status: NOTIMP"},
			{"+noall +comments CH TXT version.bind", "status: REFUSED"},
		} {
			got := run(t, here, conf, append([]string{"dig", "-r", "+tries=1", "+timeout=30"}, strings.Fields(test.args)...)...)
			if !strings.Contains(got, test.want) {
				t.Errorf("dig %s: want %q in\n%s", test.args, test.want, got)
			}
		}
	})
	t.Run("glibc", func(t *testing.T) {
		// By DNS alone, whatever this machine asks otherwise (nsswitch.conf).
		// getaddrinfo looks for no IPv4 addresses where there is none but 127.0.0.1.
		if out := run(t, here, conf, "ip", "address", "add", "10.1.0.7/32", "dev", "lo"); out != "" {
			t.Fatal(out)
		}
		for _, test := range []struct{ name, want string }{{"db", "10.1.200.1"}, {"db.appnet", "10.1.200.1"}, {"tasks.db", "10.1.1.2"}} {
			if got := run(t, here, conf, "getent", "-s", "hosts:dns", "ahostsv4", test.name); !strings.Contains(got, test.want) {
				t.Errorf("getent %s: want %s in\n%s", test.name, test.want, got)
			}
		}
		if got := run(t, here, conf, "getent", "-s", "hosts:dns", "hosts", "nosuch"); got != "exit status 2" {
			t.Errorf("getent nosuch: %s", got)
		}
	})
}

func TestApplyFollowsTheConfig(t *testing.T) {
	first, second, gone := newNamespace(t), newNamespace(t), filepath.Join(t.TempDir(), "gone")
	r := newResolver(t, Options{})
	config := testConfig()
	config.Servers = []Server{{Endpoint: "e1", Namespace: first, Networks: []string{"appnet"}}}
	apply(t, r, config)
	socket := r.listeners["e1"].udp

	// The answers change and the socket stays; one endpoint's trouble is its own.
	config.Servers[0].Networks = []string{"back"}
	config.Servers = append([]Server{{Endpoint: "e0", Namespace: gone}}, config.Servers...)
	config.Servers = append(config.Servers, Server{Endpoint: "e2", Namespace: second, Networks: []string{"appnet"}})
	err := r.Apply(t.Context(), config)
	if !errors.Is(err, netns.ErrNotExist) || !strings.Contains(err.Error(), "endpoint e0") {
		t.Errorf("a namespace that is not there: %v", err)
	}
	if r.listeners["e1"].udp != socket {
		t.Error("a socket that was right was opened again")
	}
	expectHost(t, first, "db", "10.2.15.1")
	expectHost(t, second, "db", "10.1.200.1 fd00:1::c801")

	// An endpoint that goes leaves its port to others; a new one gets it at once.
	config.Servers = []Server{{Endpoint: "e3", Namespace: first, Networks: []string{"appnet"}}}
	apply(t, r, config)
	expectHost(t, first, "db", "10.1.200.1 fd00:1::c801")
	if _, err := program(second).LookupHost(t.Context(), whole("db")); err == nil {
		t.Error("e2's names are answered after it went")
	}

	// The path names another namespace now.
	if err := netns.Bind(second, first); err != nil {
		t.Fatal(err)
	}
	apply(t, r, config)
	expectHost(t, second, "db", "10.1.200.1 fd00:1::c801")

	apply(t, r, Config{})
	if len(r.listeners) != 0 {
		t.Errorf("the zero Config leaves %d listeners", len(r.listeners))
	}
}

func expectHost(t *testing.T, namespace, name, want string) {
	t.Helper()
	got, err := program(namespace).LookupHost(t.Context(), whole(name))
	if slices.Sort(got); err != nil || strings.Join(got, " ") != want {
		t.Errorf("%s: %v, %v; want %s", name, got, err, want)
	}
}

func TestAPortThatAnotherHasIsSaid(t *testing.T) {
	here, other := newNamespace(t), newNamespace(t)
	var taker net.Listener
	if err := netns.Do(here, func() (err error) {
		taker, err = net.Listen("tcp", "127.0.0.11:53")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r := newResolver(t, Options{})
	config := testConfig()
	config.Servers = []Server{
		{Endpoint: "e1", Namespace: here, Networks: []string{"appnet"}},
		{Endpoint: "e2", Namespace: other, Networks: []string{"appnet"}},
	}
	if err := r.Apply(t.Context(), config); !errors.Is(err, ErrTaken) {
		t.Errorf("Apply: %v", err)
	}
	expectHost(t, other, "db", "10.1.200.1 fd00:1::c801")
	if err := taker.Close(); err != nil {
		t.Fatal(err)
	}
	apply(t, r, config)
	expectHost(t, here, "db", "10.1.200.1 fd00:1::c801")
}

func TestSwapsUnderLoadAndNothingLeft(t *testing.T) {
	upstream, addr := startUpstream(t)
	const endpoints = 20
	config := testConfig()
	config.Upstreams = []netip.AddrPort{addr}
	for i := range endpoints {
		config.Servers = append(config.Servers, Server{Endpoint: fmt.Sprint("e", i), Namespace: newNamespace(t), Networks: []string{"appnet"}, Forward: true})
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	r := newResolver(t, Options{Dial: dialIn(upstream)})
	apply(t, r, config)
	// Those that looked into the namespaces may not have ended yet.
	eventually(t, fmt.Sprintf("no more than two goroutines for each of %d endpoints", endpoints), func() bool {
		return runtime.NumGoroutine()-goroutines <= 2*endpoints+2
	})

	// A swap for each answer or two: whoever does nothing but swap leaves a small machine no time to answer.
	answered := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for i := range 4 {
		server := config.Servers[i]
		asking.Go(func() {
			for _, name := range slices.Repeat([]string{"db.", "tasks.db.", "web.example."}, 30) {
				if _, err := program(server.Namespace).LookupHost(t.Context(), name); err != nil {
					t.Errorf("%s while the zone was swapped: %v", name, err)
				}
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		})
	}
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for n := 4; ; n = 4 + (n-3)%(endpoints-4) {
			select {
			case <-answered:
			case <-ctx.Done():
				return
			}
			part := config
			part.Servers = config.Servers[:n]
			if err := r.Apply(t.Context(), part); err != nil {
				t.Error(err)
			}
		}
	})
	asking.Wait()
	cancel()
	swapping.Wait()

	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Apply(t.Context(), config); err == nil {
		t.Error("Apply after Close")
	}
	eventually(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	eventually(t, "files to be closed", func() bool { return openFiles(t) <= files+2 })
}

func TestTheLoopbackMayComeUpLater(t *testing.T) {
	here := newNamespace(t)
	config := testConfig()
	server := Server{Endpoint: "e1", Namespace: here, Networks: []string{"appnet"}}
	config.Servers = []Server{server}
	conf := ResolvConf(server, config)
	if out := run(t, here, conf, "ip", "link", "set", "lo", "down"); out != "" {
		t.Fatal(out)
	}
	apply(t, newResolver(t, Options{}), config)
	if out := run(t, here, conf, "ip", "link", "set", "lo", "up"); out != "" {
		t.Fatal(out)
	}
	expectHost(t, here, "db", "10.1.200.1 fd00:1::c801")
}

func TestAFloodForTheUpstreamsHurtsOnlyItself(t *testing.T) {
	var cutShort atomic.Int32 // of the look-ups, by something else than their time
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		if errors.Is(ctx.Err(), context.Canceled) {
			cutShort.Add(1)
		}
		return nil, ctx.Err()
	}
	here := newNamespace(t)
	config := testConfig()
	config.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")}
	config.Servers = []Server{{Endpoint: "e1", Namespace: here, Networks: []string{"appnet"}, Forward: true}}
	r := newResolver(t, Options{Dial: hang})
	apply(t, r, config)
	socket, err := dialIn(here)(t.Context(), "udp", "127.0.0.11:53")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	conn := &dns.Conn{Conn: socket}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	ask := func() {
		if err := conn.WriteMsg(question("web.example.", dns.TypeA).SetEdns0(1232, false)); err != nil {
			t.Fatal(err)
		}
	}
	fill := func() {
		t.Helper()
		eventually(t, "all places to be taken", func() bool {
			if len(r.listeners["e1"].forwarded) == maxForwarded {
				return true
			}
			ask() // one of many: the socket's buffer may be full
			return false
		})
	}
	for range maxForwarded {
		ask()
	}
	fill()
	ask()
	for refused := false; !refused; {
		m, err := conn.ReadMsg()
		if err != nil {
			t.Fatalf("one more: %v", err)
		}
		refused = strings.Contains(outline(m), fmt.Sprintf("SERVFAIL (%d questions of this endpoint are", maxForwarded))
	}
	expectHost(t, here, "db", "10.1.200.1 fd00:1::c801")
	// On a slow machine all places may be free again when the end comes.
	eventually(t, "the endpoint's end to cut look-ups short", func() bool {
		fill()
		apply(t, r, Config{})
		if cutShort.Load() > 0 {
			return true
		}
		apply(t, r, config)
		return false
	})
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// eventually waits for what others bring about.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Answers leave from the address that was asked, also where the loopback was never up when the sockets were opened.
func TestAnswersLeaveFromTheirAddress(t *testing.T) {
	here := newNamespace(t) // also says what it needs
	if err := netns.Delete(here); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(here, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--net="+here, "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := newResolver(t, Options{})
	config := testConfig()
	config.Servers = []Server{{Endpoint: "e", Namespace: here, Networks: []string{"appnet"}}}
	apply(t, r, config)
	if err := netns.Do(here, netns.LoopbackUp); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if got, err := program(here).LookupHost(ctx, whole("db.appnet.mesh.internal")); err != nil || len(got) == 0 {
		t.Errorf("%v, %v", got, err)
	}
}
