package sockets

import (
	"net"
	"slices"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

// TestListening: each listening socket with its address, and no connections.
func TestListening(t *testing.T) {
	path := linktest.Namespace(t, "server")
	linktest.Must(t, path, "ip link set lo up")
	want := []string{"0.0.0.0:80", "127.0.0.1:81", "[::]:82", "[::1]:83", "127.0.0.1:84"}
	err := netns.Do(path, func() error {
		for i, network := range []string{"tcp4", "tcp4", "tcp6", "tcp6", "tcp"} {
			l, err := net.Listen(network, want[i])
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
		}
		c, err := net.Dial("tcp", want[1])
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	found, err := Listening(h)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range found {
		got = append(got, a.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Only what others have opened counts, also when nobody listens any more.
func TestServed(t *testing.T) {
	server, client := linktest.Namespace(t, "server"), linktest.Namespace(t, "client")
	linktest.Must(t, server, "ip link add eth0 type veth peer name far")
	linktest.Must(t, server, "ip link set lo up")
	a, b := linktest.Open(t, server), linktest.Open(t, client)
	far, err := a.Link("far")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().LinkSetNsFd(far, b.Handle().FD()); err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string][2]string{server: {"10.5.0.1/24", "eth0"}, client: {"10.5.0.2/24", "far"}} {
		linktest.Must(t, path, "ip addr add "+words[0]+" dev "+words[1])
		linktest.Must(t, path, "ip link set "+words[1]+" up")
	}
	listen := func(path, address string) net.Listener {
		t.Helper()
		var l net.Listener
		if err := netns.Do(path, func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	dial := func(path, address string) net.Conn {
		t.Helper()
		var c net.Conn
		if err := netns.Do(path, func() (err error) { c, err = net.Dial("tcp", address); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var ports map[uint16]bool
	want := func(what string, n int) {
		t.Helper()
		linktest.Eventually(t, what, func() bool {
			count, now, err := Served(server, ports)
			if err != nil {
				t.Fatal(err)
			}
			ports = now
			return count == n
		})
	}
	serving, elsewhere := listen(server, ":80"), listen(client, ":81")
	want("nobody has come", 0)
	from := dial(client, "10.5.0.1:80")
	dial(server, "10.5.0.2:81") // its own
	dial(server, "127.0.0.1:80")
	accepted, err := serving.Accept()
	if err != nil {
		t.Fatal(err)
	}
	want("one has come", 1)
	_ = serving.Close()
	want("one has come, and nobody else may", 1)
	_, _ = from.Close(), accepted.Close()
	want("it has gone", 0)
	_ = elsewhere
}
