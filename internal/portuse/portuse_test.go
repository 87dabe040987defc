package portuse_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/meshd/meshd/internal/portuse"
)

func TestFindNamesThisProcess(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"} {
		t.Run("tcp "+address, func(t *testing.T) {
			listener, err := net.Listen("tcp", address)
			if err != nil {
				t.Skipf("cannot listen: %v", err)
			}
			defer func() { _ = listener.Close() }()
			local := listener.Addr().(*net.TCPAddr).AddrPort()
			checkHolder(t, "tcp", local)
			checkHolder(t, "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port()))
			if _, found := portuse.Find("udp", local); found {
				t.Error("a TCP socket was found in the way of a UDP one")
			}
		})
		t.Run("udp "+address, func(t *testing.T) {
			conn, err := net.ListenPacket("udp", address)
			if err != nil {
				t.Skipf("cannot listen: %v", err)
			}
			defer func() { _ = conn.Close() }()
			checkHolder(t, "udp", conn.LocalAddr().(*net.UDPAddr).AddrPort())
		})
	}
}

func checkHolder(t *testing.T, network string, local netip.AddrPort) {
	t.Helper()
	holder, found := portuse.Find(network, local)
	if !found || holder.PID != os.Getpid() || holder.Name == "" || holder.Kernel {
		t.Errorf("Find(%s, %s) = %+v, %v; want this process, %d", network, local, holder, found, os.Getpid())
	}
	if holder.Local.Port() != local.Port() {
		t.Errorf("found %s, want port %d", holder.Local, local.Port())
	}
}

func TestOtherAddressIsNotInTheWay(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, other := range []string{"127.0.0.2", "::1"} {
		if holder, found := portuse.Find("tcp", netip.AddrPortFrom(netip.MustParseAddr(other), port)); found {
			t.Errorf("%s is in the way of %s", holder.Local, other)
		}
	}
}

func TestExplain(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	local := listener.Addr().(*net.TCPAddr).AddrPort()
	_, err = new(net.ListenConfig).Listen(context.Background(), "tcp", local.String())
	err = portuse.Explain(err, "tcp", local, "join.listen")
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("error %v does not wrap EADDRINUSE", err)
	}
	for _, want := range []string{"TCP port", "join.listen", "(portuse.test)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	other := errors.New("something else")
	if got := portuse.Explain(other, "tcp", local, "join.listen"); got != other {
		t.Errorf("Explain changed another error to %v", got)
	}
}
