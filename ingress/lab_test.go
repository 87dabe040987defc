package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

// A segment is a switch that stands in for an overlay network.
type segment struct {
	path   string
	prefix string // 10.90.0 and fd90:: of "90"
}

func newSegment(t *testing.T, number string) *segment {
	t.Helper()
	s := &segment{linktest.Namespace(t, "switch"), number}
	linktest.Must(t, s.path, "ip link add br0 type bridge")
	linktest.Must(t, s.path, "ip link set br0 up")
	return s
}

func (s *segment) addr4(host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("10.%s.0.%d", s.prefix, host))
}

func (s *segment) addr6(host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd%s::%d", s.prefix, host))
}

// plug gives a namespace an interface on the segment with the host's number.
func (s *segment) plug(t *testing.T, path, name string, host int) {
	t.Helper()
	outer := fmt.Sprintf("p%d", host)
	ns := linktest.Open(t, path)
	linktest.Must(t, s.path, fmt.Sprintf("ip link add %s type veth peer name %s", outer, name))
	sw := linktest.Open(t, s.path)
	l, err := sw.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := sw.Netlink().LinkSetNsFd(l, ns.Handle().FD()); err != nil {
		t.Fatal(err)
	}
	linktest.Must(t, s.path, "ip link set "+outer+" master br0 up")
	bits4, bits6 := 24, 64
	if path == netns.Host { // the host reaches the network by its marks alone
		bits4, bits6 = 32, 128
		t.Cleanup(func() { hostCommand(t, "ip link del "+name) })
	}
	linktest.Must(t, path, fmt.Sprintf("ip addr add %s/%d dev %s", s.addr4(host), bits4, name))
	linktest.Must(t, path, fmt.Sprintf("ip addr add %s/%d dev %s nodad", s.addr6(host), bits6, name))
	linktest.Must(t, path, "sysctl -qw net.ipv6.conf."+name+".accept_dad=0")
	linktest.Must(t, path, "ip link set "+name+" address "+plugMAC(host).String())
	linktest.Must(t, path, "ip link set "+name+" up")
}

// plugMAC is the Ethernet address of the interface with a number on a segment.
func plugMAC(host int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, byte(host)} }

// hostCommand runs a command line in the tests' own namespace, which plays the host.
func hostCommand(t *testing.T, line string) string {
	t.Helper()
	words := strings.Fields(line)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second) // cleanups use it too
	defer cancel()
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// serve answers on a TCP and a UDP port in the namespace ("" is the host) with name and the peer's address.
func serve(t *testing.T, path, name string, port int) {
	t.Helper()
	listenAt(t, path, fmt.Sprintf(":%d", port), tellPeer(name))
	var udp net.PacketConn
	in(t, path, func() error {
		var err error
		udp, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	t.Cleanup(func() { _ = udp.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			_, peer, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(fmt.Appendf(nil, "%s %s", name, peer), peer)
		}
	}()
}

// tellPeer tells everybody the name, and whom the listener sees.
func tellPeer(name string) func(net.Conn) {
	return func(conn net.Conn) { _, _ = fmt.Fprintf(conn, "%s %s", name, conn.RemoteAddr()) }
}

// listenAt has handle serve each connection to an address in the namespace, and closes it then, until the test ends.
func listenAt(t *testing.T, path, address string, handle func(net.Conn)) {
	t.Helper()
	var l net.Listener
	in(t, path, func() error {
		var err error
		l, err = net.Listen("tcp", address)
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				handle(conn)
				_ = conn.Close()
			}()
		}
	}()
}

// in runs fn in the namespace, or in the tests' own for "".
func in(t *testing.T, path string, fn func() error) {
	t.Helper()
	do := fn
	if path != "" {
		do = func() error { return netns.Do(path, fn) }
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
}

func dial(path, network, address string) (net.Conn, error) {
	var conn net.Conn
	connect := func() error {
		var err error
		conn, err = net.DialTimeout(network, address, 3*time.Second)
		return err
	}
	if path == "" {
		err := connect()
		return conn, err
	}
	err := netns.Do(path, connect)
	return conn, err
}

// dialFrom is dial from a local address of the namespace.
func dialFrom(path, network, local, address string) (net.Conn, error) {
	from, err := netip.ParseAddrPort(local)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 3 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(from)}
	if network == "udp" {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	var conn net.Conn
	err = netns.Do(path, func() error {
		var err error
		conn, err = dialer.Dial(network, address)
		return err
	})
	return conn, err
}

// ask connects, sends one datagram if it is UDP, and returns who answered and whom the answerer saw.
func ask(path, network, address string) (name, peer string, err error) {
	conn, err := dial(path, network, address)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	return exchange(conn)
}

func exchange(conn net.Conn) (name, peer string, err error) {
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", "", err
	}
	var answer []byte
	if conn.LocalAddr().Network() == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", "", err
		}
		answer = make([]byte, 1500)
		n, err := conn.Read(answer)
		if err != nil {
			return "", "", err
		}
		answer = answer[:n]
	} else if answer, err = io.ReadAll(conn); err != nil {
		return "", "", err
	}
	name, peer, _ = strings.Cut(string(answer), " ")
	return name, peer, nil
}

func mustAsk(t *testing.T, path, network, address string) (name, peer string) {
	t.Helper()
	name, peer, err := ask(path, network, address)
	if err != nil {
		t.Fatalf("%s %s from %q: %v", network, address, path, err)
	}
	return name, peer
}

func endpointOf(addr netip.Addr, port int) string {
	return netip.AddrPortFrom(addr, uint16(port)).String()
}
