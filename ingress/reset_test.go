package ingress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"golang.org/x/sys/unix"
)

const echoPort = 9000

// echo answers connections in the namespace with what they send, until the test ends.
func echo(t *testing.T, path string) {
	t.Helper()
	listenAt(t, path, fmt.Sprintf(":%d", echoPort), func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
}

// open connects, and makes sure that somebody answers.
func open(t *testing.T, path string, address netip.Addr) net.Conn {
	t.Helper()
	conn, err := dial(path, "tcp", endpointOf(address, echoPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := answers(conn); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	return conn
}

func answers(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// mustBeReset waits for the end of a connection on which its client sends nothing.
func mustBeReset(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	began := time.Now()
	if err := conn.SetReadDeadline(began.Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("%s: %v after %s, want a reset", what, err, time.Since(began))
	}
	t.Logf("%s: %v after %s", what, err, time.Since(began).Round(time.Microsecond))
}

func TestConnectionsToGoneReplicaAreReset(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	in2 := linktest.Namespace(t, "d")
	lab.plug(t, in2, "eth0", 4)
	echo(t, in2)
	for _, addr := range []netip.Addr{lab.addr4(vip), lab.addr6(vip)} {
		mustApply(t, a, lab.config(4))
		conn := open(t, lab.client, addr)
		drained := lab.config(2)
		services := drained.Clients[0].Services
		services[0].Draining, services[1].Draining = []netip.Addr{lab.addr4(4)}, []netip.Addr{lab.addr6(4)}
		mustApply(t, a, drained)
		if err := answers(conn); err != nil {
			t.Errorf("%s: a connection to a draining replica: %v", addr, err)
		}
		if name, _ := mustAsk(t, lab.client, "tcp", endpointOf(addr, port)); name != "b" {
			t.Errorf("%s: a new connection went to %s, not to the replica that stays", addr, name)
		}
		mustApply(t, a, lab.config(2))
		mustBeReset(t, addr.String(), conn)
	}
}

func TestPublishedConnectionsToGoneReplicaAreReset(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	echo(t, lab.other)
	a := newApplier(t)
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	backends := []netip.AddrPort{netip.AddrPortFrom(lab.addr4(2), echoPort), netip.AddrPortFrom(lab.addr6(2), echoPort)}
	config := lab.config()
	// Clients answer only what belongs to their connection, so a firewall that drops all else is no hindrance.
	for _, family := range []string{"iptables", "ip6tables"} {
		hostCommand(t, family+" -A INPUT -i out0 -p tcp -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP")
		t.Cleanup(func() {
			hostCommand(t, family+" -D INPUT -i out0 -p tcp -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP")
		})
	}
	for _, way := range []struct{ from, to string }{
		{lab.outside, hostAddress4}, {lab.outside, hostAddress6}, {"", hostAddress4}, {"", hostAddress6},
		{"", "127.0.0.1"}, {"", "::1"}, {lab.replica, hostAddress4}, {lab.replica, hostAddress6},
	} {
		config.Publish.Ports = []Port{{Protocol: "tcp", Published: echoPort, Backends: backends}}
		mustApply(t, a, config)
		conn := open(t, way.from, netip.MustParseAddr(way.to))
		config.Publish.Ports = []Port{{Protocol: "tcp", Published: echoPort, Draining: backends}}
		mustApply(t, a, config)
		if err := answers(conn); err != nil {
			t.Errorf("%s: a connection to a draining replica: %v", way.to, err)
		}
		config.Publish.Ports = []Port{{Protocol: "tcp", Published: echoPort}}
		mustApply(t, a, config)
		mustBeReset(t, fmt.Sprintf("%s from %q", way.to, way.from), conn)
	}
}
