package overlay_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

const greeting = "to all whom it may concern"

// listen opens a UDP socket inside the namespace.
func listen(t *testing.T, path, network, address string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := netns.Do(path, func() error {
		var err error
		conn, err = net.ListenPacket(network, address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// join opens a UDP socket inside the namespace that is a member of a group.
func join(t *testing.T, path, network, group string) net.PacketConn {
	t.Helper()
	addr, err := net.ResolveUDPAddr(network, group)
	if err != nil {
		t.Fatal(err)
	}
	conn := listen(t, path, network, group)
	err = netns.Do(path, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if network == "udp4" {
			return ipv4.NewPacketConn(conn).JoinGroup(eth0, addr)
		}
		return ipv6.NewPacketConn(conn).JoinGroup(eth0, addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// send sends the greeting; a multicast one leaves by eth0.
func send(t *testing.T, path, network, address string) {
	t.Helper()
	address = strings.ReplaceAll(address, "%eth0", "")
	to, err := net.ResolveUDPAddr(network, address)
	if err != nil {
		t.Fatal(err)
	}
	conn := listen(t, path, network, ":0")
	err = netns.Do(path, func() error {
		if !to.IP.IsMulticast() {
			return nil
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if network == "udp4" {
			return ipv4.NewPacketConn(conn).SetMulticastInterface(eth0)
		}
		return ipv6.NewPacketConn(conn).SetMulticastInterface(eth0)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo([]byte(greeting), to); err != nil {
		t.Fatal(err)
	}
}

// heard sends the greeting until conn hears it: the first may be lost before an interface is ready.
func heard(t *testing.T, conn net.PacketConn, path, network, address string) {
	t.Helper()
	linktest.Eventually(t, address+" is heard on "+conn.LocalAddr().String(), func() bool {
		send(t, path, network, address)
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		buffer := make([]byte, 100)
		n, _, err := conn.ReadFrom(buffer)
		return err == nil && string(buffer[:n]) == greeting
	})
}

// countLost pings until ctx ends and returns how many had no answer, however long that takes.
func countLost(ctx context.Context, path, addr string) int {
	lost := 0
	for ctx.Err() == nil {
		if linktest.PingOnce(path, addr, 100) != nil {
			lost++
		}
	}
	return lost
}

// settle waits for the kernel's own link-local addresses.
func settle(t *testing.T, l *lab) {
	t.Helper()
	for _, path := range l.nodes {
		linktest.Settle(t, path, 1)
	}
}

func bridgeMAC(t *testing.T, path, name string) string {
	t.Helper()
	l, err := linktest.Open(t, path).Link(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr.String()
}
