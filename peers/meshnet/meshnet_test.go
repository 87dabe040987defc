package meshnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

var loopback = netip.MustParseAddr("::1")

// netnsOf asks the kernel which namespace a socket belongs to.
func netnsOf(t *testing.T, conn any) uint64 {
	t.Helper()
	raw, err := conn.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	cookie, err := unix.GetsockoptUint64(int(raw.Fd()), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

func TestSocketsAreInTheNamespace(t *testing.T) {
	path := linktest.Namespace(t, "mesh")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	cookies := map[string]uint64{}
	for name, network := range map[string]Network{"inside": InNamespace(path), "here": InNamespace("")} {
		loopback := loopback
		if name == "here" {
			loopback = netip.MustParseAddr("127.0.0.1") // this machine may have no IPv6; a namespace of ours has
		}
		l, err := network.Listen(ctx, netip.AddrPortFrom(loopback, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		packets, err := network.ListenPacket(ctx, netip.AddrPortFrom(loopback, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = packets.Close() }()
		accepted := make(chan net.Conn, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				accepted <- conn
			}
		}()
		dialled, err := network.Dial(ctx, loopback, l.Addr().(*net.TCPAddr).AddrPort())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = dialled.Close() }()
		server := <-accepted
		defer func() { _ = server.Close() }()
		cookies[name] = netnsOf(t, l)
		for what, conn := range map[string]any{"packets": packets, "dialled": dialled, "accepted": server} {
			if got := netnsOf(t, conn); got != cookies[name] {
				t.Errorf("%s: the %s socket is in namespace %d, the listener in %d", name, what, got, cookies[name])
			}
		}
	}
	if cookies["inside"] == cookies["here"] {
		t.Errorf("both networks opened their sockets in one namespace, %d", cookies["here"])
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := InNamespace(linktest.Namespace(t, "mesh")).Dial(ctx, loopback, netip.AddrPortFrom(loopback, 9))
	if !errors.Is(err, context.Canceled) && !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

func TestNoSuchNamespace(t *testing.T) {
	_, err := InNamespace("/nonexistent/netns").Listen(context.Background(), netip.AddrPortFrom(loopback, 0))
	if !errors.Is(err, netns.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}
