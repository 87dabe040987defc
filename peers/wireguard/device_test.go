package wireguard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/meshd/meshd/internal/netns"
)

func TestFirstHandshakeAndFullSizePackets(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	if a.device.Mode() != ModeUserspace {
		t.Errorf("mode is %q", a.device.Mode())
	}
	ping(t, a, b, 64)
	ping(t, a, b, testMTU) // the whole packet
	ping(t, b, a, testMTU)
	st := a.status(t, b)
	if st.Endpoint.Addr() != b.underlay || st.LastHandshake.IsZero() || st.RX == 0 || st.TX == 0 {
		t.Errorf("status is %+v", st)
	}
	link := a.link(t)
	if link.Attrs().MTU != testMTU || link.Attrs().TxQLen != tunQueueLen {
		t.Errorf("link has MTU %d and a queue of %d", link.Attrs().MTU, link.Attrs().TxQLen)
	}
}

// The second Apply, and the first of a fresh Device, change nothing: same process, same session.
func TestAdoptionKeepsSession(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	ping(t, a, b, 64)
	pid, before := a.pid(t), a.status(t, b)
	a.apply(t, a.config(b))
	a.device = a.newDevice(t, nil)
	a.apply(t, a.config(b))
	ping(t, a, b, 64)
	after := a.status(t, b)
	if a.pid(t) != pid {
		t.Error("the process was replaced")
	}
	if !after.LastHandshake.Equal(before.LastHandshake) || after.RX <= before.RX {
		t.Errorf("the session was not kept: %+v, then %+v", before, after)
	}
}

// TCP makes the kernel hand over large packets, which the process cuts up and puts together.
func TestTCP(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	var server net.Listener
	must(t, netns.Do(b.mesh, func() error {
		var err error
		server, err = net.Listen("tcp", net.JoinHostPort(b.address.String(), "0"))
		return err
	}))
	defer func() { _ = server.Close() }()
	want := make([]byte, 16<<20)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		conn, err := server.Accept()
		if err != nil {
			return
		}
		body, _ := io.ReadAll(conn)
		_ = conn.Close()
		got <- body
	}()
	var conn net.Conn
	must(t, netns.Do(a.mesh, func() error {
		var err error
		conn, err = net.DialTimeout("tcp", server.Addr().String(), time.Minute)
		return err
	}))
	_, err := conn.Write(want)
	must(t, errors.Join(err, conn.Close()))
	if body := <-got; !bytes.Equal(body, want) {
		t.Errorf("%d bytes arrived, or others than the %d sent", len(body), len(want))
	}
}

// A port that is lost to somebody between the check and the bind is told from other failures.
func TestExplainPort(t *testing.T) {
	a, _ := newPair(t)
	for _, err := range []error{
		fmt.Errorf("setting up: %w", unix.EADDRINUSE), os.NewSyscallError("read", errors.New("wguser: errno=-98")),
	} {
		if got := a.device.explainPort(err, testPort); got != err {
			t.Errorf("a port that is free again: %v", got)
		}
		must(t, netns.Do(a.host, func() error {
			holder, lerr := net.ListenUDP("udp", &net.UDPAddr{Port: testPort})
			if lerr != nil {
				return lerr
			}
			var taken *PortTakenError
			if got := a.device.explainPort(err, testPort); !errors.As(got, &taken) {
				t.Errorf("got %v", got)
			}
			return holder.Close()
		}))
	}
	if got := a.device.explainPort(unix.EINVAL, testPort); got != unix.EINVAL {
		t.Errorf("got %v", got)
	}
}

func TestPeerKeyRotationAndRemoval(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	ping(t, a, b, 64)
	b.key = newKey(t)
	b.apply(t, b.config(a))
	a.apply(t, a.config(b))
	ping(t, a, b, 64)
	if st := a.statuses(t); len(st) != 1 {
		t.Errorf("the old key stayed: %+v", st)
	}
	traffic := startTraffic(t, a, b)
	traffic.await(t, 20)
	a.apply(t, a.config())
	traffic.awaitSilence(t)
	traffic.abandon()
}

func TestDeletedThingsComeBack(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	for name, spoil := range map[string]func(){
		"address": func() { a.ip(t, "-6", "addr", "flush", "dev", a.device.Name(), "scope", "global") },
		"down":    func() { a.ip(t, "link", "set", a.device.Name(), "down") },
		"mtu":     func() { a.ip(t, "link", "set", a.device.Name(), "mtu", "1300") },
		"foreign": func() { a.ip(t, "addr", "add", "fd00:bad::1/64", "dev", a.device.Name()) },
		"link":    func() { a.ip(t, "link", "del", a.device.Name()) },
		"socket":  func() { must(t, os.Remove(socketPath(a.device.Name()))) },
	} {
		t.Run(name, func(t *testing.T) {
			spoil()
			a.apply(t, a.config(b))
			ping(t, a, b, testMTU)
			if got := a.addresses(t); len(got) != 1 || got[0] != a.config().Address {
				t.Errorf("addresses are %v", got)
			}
		})
	}
}

func TestSecondCandidate(t *testing.T) {
	a, b := newPair(t)
	cfg := a.config(b)
	good := cfg.Peers[0].Endpoints[0]
	dead := netip.AddrPortFrom(netip.MustParseAddr("10.99.0.77"), 1)
	cfg.Peers[0].Endpoints = []netip.AddrPort{dead, good}
	now := time.Now()
	a.device.now = func() time.Time { return now }
	a.apply(t, cfg)
	answering := b.config(a)
	answering.Peers[0].Endpoints = nil // b waits to be called
	answering.Peers[0].Keepalive = 0
	b.apply(t, answering)
	if got := a.status(t, b).Endpoint; got != dead {
		t.Fatalf("first endpoint is %s", got)
	}
	waitFor(t, "a handshake to be tried", func() bool { return a.status(t, b).TX > 0 })
	now = now.Add(newPathPatience)
	a.apply(t, cfg)
	if got := a.status(t, b).Endpoint; got != good {
		t.Fatalf("second endpoint is %s", got)
	}
	ping(t, a, b, 64)
}

func TestPortTaken(t *testing.T) {
	a, b := newPair(t)
	var holder *net.UDPConn
	must(t, netns.Do(a.host, func() error {
		var err error
		holder, err = net.ListenUDP("udp", &net.UDPAddr{Port: testPort})
		return err
	}))
	t.Cleanup(func() { _ = holder.Close() })
	err := a.device.Apply(t.Context(), a.config(b))
	var taken *PortTakenError
	if !errors.As(err, &taken) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{fmt.Sprint(testPort), fmt.Sprintf("process %d (", os.Getpid()), "wireguard.listen_port"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	a.assertNothingLeft(t)

	// A port that turns out to be taken does not take the old one away.
	cfg := a.config(b)
	cfg.ListenPort = testPort + 1
	a.apply(t, cfg)
	b.apply(t, b.configOn(testPort+1, a))
	ping(t, a, b, 64)
	if err := a.device.Apply(t.Context(), a.config(b)); !errors.As(err, &taken) {
		t.Fatalf("got %v", err)
	}
	ping(t, a, b, 64)
	_ = holder.Close()
	a.apply(t, a.config(b))
	ping(t, a, b, 64)
}

func TestModes(t *testing.T) {
	a, b := newPair(t)
	var asked int
	noKernel := func(string, string, string) error { asked++; return ErrNoKernelWireGuard }

	a.device = a.newDevice(t, func(o *Options) { o.Mode = ModeKernel })
	a.device.addKernel = noKernel
	if err := a.device.Apply(t.Context(), a.config(b)); !errors.Is(err, ErrNoKernelWireGuard) {
		t.Fatalf("got %v", err)
	}
	a.assertNothingLeft(t)

	a.device = a.newDevice(t, func(o *Options) { o.Mode = ModeAuto })
	a.device.addKernel = noKernel
	a.apply(t, a.config(b))
	if a.device.Mode() != ModeUserspace || asked != 2 {
		t.Errorf("mode is %q, the kernel was asked %d times", a.device.Mode(), asked)
	}
	a.apply(t, a.config(b))
	if asked != 2 {
		t.Error("what is there was not adopted")
	}
	if _, err := New(Options{Mode: "quantum"}); err == nil || !strings.Contains(err.Error(), "auto, kernel or userspace") {
		t.Errorf("got %v", err)
	}
}

// On this kernel either a link is made, in the right place, or the reason is said.
func TestKernelLink(t *testing.T) {
	a, _ := newPair(t)
	err := createKernelLink(a.host, a.mesh, a.device.Name())
	if errors.Is(err, ErrNoKernelWireGuard) {
		if kind, err := linkType(a.host, a.device.Name()); kind != "" || err != nil {
			t.Errorf("left %q, %v", kind, err)
		}
		t.Skip("this kernel has no WireGuard: the refusal was tested, the link was not")
	}
	must(t, err)
	if kind, err := linkType(a.mesh, a.device.Name()); kind != kernelType || err != nil {
		t.Errorf("got %q, %v", kind, err)
	}
}

// The steps are those of a WireGuard link, with a kind of link that every kernel has.
func TestCreateAndMove(t *testing.T) {
	a, _ := newPair(t)
	stand := func(name string) netlink.Link {
		return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
	}
	assertMoved := func(name string) {
		t.Helper()
		for path, want := range map[string]string{a.host: "", a.mesh: "veth"} {
			if kind, err := linkType(path, name); kind != want || err != nil {
				t.Errorf("%s holds %q (%v), want %q", path, kind, err, want)
			}
		}
	}
	must(t, createAndMove(a.host, a.mesh, stand("fresh")))
	assertMoved("fresh")

	must(t, withNetlink(a.host, func(nl *netlink.Handle) error { return nl.LinkAdd(stand("left")) }))
	must(t, createAndMove(a.host, a.mesh, stand("left")))
	assertMoved("left")

	must(t, withNetlink(a.host, func(nl *netlink.Handle) error {
		return nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}})
	}))
	if err := createAndMove(a.host, a.mesh, stand("other")); err == nil || !strings.Contains(err.Error(), "type bridge") {
		t.Errorf("somebody else's link: %v", err)
	}
	twin := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "fresh"}, PeerName: "twin-peer"}
	if err := createAndMove(a.host, a.mesh, twin); err == nil {
		t.Error("two links of one name")
	}
	if kind, err := linkType(a.host, "fresh"); kind != "" || err != nil {
		t.Errorf("what could not be moved stayed: %q, %v", kind, err)
	}
}

// With the MTU that DeviceMTU says, a full-size packet is not cut on the underlay.
func TestFullSizeIsNotFragmented(t *testing.T) {
	for _, underlay := range []string{"10.99.0", "fd00:99:"} {
		t.Run(underlay, func(t *testing.T) {
			a, b := newPair(t)
			if strings.Contains(underlay, ":") {
				a.useIPv6(t, "fd00:99::1")
				b.useIPv6(t, "fd00:99::2")
			}
			ca, cb := a.config(b), b.config(a)
			ca.MTU, _ = DeviceMTU(1500, ca.Peers[0].Endpoints)
			cb.MTU = ca.MTU
			a.apply(t, ca)
			b.apply(t, cb)
			ping(t, a, b, ca.MTU)
			if n := a.fragments(t); n != "0 0" {
				t.Errorf("fragments made, IPv4 and IPv6: %s", n)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	pid := a.pid(t)
	must(t, a.device.Remove())
	a.assertNothingLeft(t)
	waitFor(t, "the process to end", func() bool { return unix.Kill(pid, 0) != nil })
	must(t, a.device.Remove())
	if _, err := a.device.Status(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("status of nothing: %v", err)
	}
	a.apply(t, a.config(b)) // and it can be made again
}

func newKey(t *testing.T) wgtypes.Key {
	t.Helper()
	key, err := wgtypes.GeneratePrivateKey()
	must(t, err)
	return key
}

// testLogger logs with the test. What a device has to say after that, as when a process that it has ended is gone, is nobody's.
func testLogger(t *testing.T) *slog.Logger {
	w := &testWriter{out: t.Output()}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, nil))
}

type testWriter struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

func (w *testWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = io.Discard
}
