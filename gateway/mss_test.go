package gateway_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

// An endpoint that believes in 1,500 bytes must not be sent segments that the way
// to it cannot carry, also where ICMP is lost.
func TestSegmentSizeFollowsTheNarrowestLink(t *testing.T) {
	l := newLab(t)
	linktest.Must(t, l.host, "ip link set up0 mtu 1300")
	l.apply(t)
	for network, address := range map[string]string{"tcp4": "192.0.2.2:7000", "tcp6": "[2001:db8::2]:7000"} {
		header := map[string]int{"tcp4": 40, "tcp6": 60}[network]
		if size := segmentSize(t, l, network, address); size > 1300-header || size < 1000 {
			t.Errorf("%s: segments of %d bytes", network, size)
		}
	}
}

// segmentSize connects an endpoint to the outside and returns the largest segment
// that the outside would send it.
func segmentSize(t *testing.T, l *lab, network, address string) int {
	t.Helper()
	var listener net.Listener
	if err := netns.Do(l.outside, func() (err error) {
		listener, err = net.Listen(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	linktest.Ping(t, l.endpoints[0], "192.0.2.2", 100)
	if err := netns.Do(l.endpoints[0], func() error {
		conn, err := net.Dial(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = conn.Close() })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	if controlErr := raw.Control(func(fd uintptr) {
		size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return size
}
