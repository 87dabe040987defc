package portuse_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/internal/portuse"
)

// space is a network namespace in which nobody else has a port. Without root it is this process's, and another process
// may be in the way once in a very long time.
type space string

func newSpace(t *testing.T) space {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		return netns.Host
	}
	return space(linktest.Namespace(t, "ports"))
}

func (s space) do(t *testing.T, fn func() error) {
	t.Helper()
	run := func() error { return netns.Do(string(s), fn) }
	if s == netns.Host {
		run = fn
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
}

// listen opens a socket that goes with the test, and returns its address.
func (s space) listen(t *testing.T, network, address string) (local netip.AddrPort) {
	t.Helper()
	s.do(t, func() error {
		var socket io.Closer
		if network == "tcp" {
			listener, err := net.Listen(network, address)
			if err != nil {
				return err
			}
			socket, local = listener, listener.Addr().(*net.TCPAddr).AddrPort()
		} else {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			socket, local = conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()
		}
		t.Cleanup(func() { _ = socket.Close() })
		return nil
	})
	return local
}

func (s space) find(t *testing.T, network string, local netip.AddrPort) (holder portuse.Holder, found bool) {
	t.Helper()
	s.do(t, func() error {
		holder, found = portuse.Find(network, local)
		return nil
	})
	return holder, found
}

func TestFindNamesThisProcess(t *testing.T) {
	here := newSpace(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"} {
		if strings.HasPrefix(address, "[") && !link.HasIPv6() {
			continue
		}
		t.Run("tcp "+address, func(t *testing.T) {
			local := here.listen(t, "tcp", address)
			here.check(t, "tcp", local)
			here.check(t, "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port()))
			if _, found := here.find(t, "udp", local); found {
				t.Error("a TCP socket was found in the way of a UDP one")
			}
		})
		t.Run("udp "+address, func(t *testing.T) {
			here.check(t, "udp", here.listen(t, "udp", address))
		})
	}
}

func (s space) check(t *testing.T, network string, local netip.AddrPort) {
	t.Helper()
	holder, found := s.find(t, network, local)
	if !found || holder.PID != os.Getpid() || holder.Name != comm(t) || holder.Kernel {
		t.Errorf("Find(%s, %s) = %+v, %v; want this process, %d", network, local, holder, found, os.Getpid())
	}
	if holder.Local.Port() != local.Port() {
		t.Errorf("found %s, want port %d", holder.Local, local.Port())
	}
}

// comm is the name of this process: what the tests were built as.
func comm(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

func TestOtherAddressIsNotInTheWay(t *testing.T) {
	here := newSpace(t)
	port := here.listen(t, "tcp", "127.0.0.1:0").Port()
	for _, other := range []string{"127.0.0.2", "::1"} {
		if holder, found := here.find(t, "tcp", netip.AddrPortFrom(netip.MustParseAddr(other), port)); found {
			t.Errorf("%s is in the way of %s", holder.Local, other)
		}
	}
}

func TestExplain(t *testing.T) {
	here := newSpace(t)
	local := here.listen(t, "tcp", "127.0.0.1:0")
	var err error
	here.do(t, func() error {
		_, taken := net.Listen("tcp", local.String())
		err = portuse.Explain(taken, "tcp", local, "join.listen")
		return nil
	})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("error %v does not wrap EADDRINUSE", err)
	}
	for _, want := range []string{"TCP port", "join.listen", "(" + comm(t) + ")"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	other := errors.New("something else")
	if got := portuse.Explain(other, "tcp", local, "join.listen"); got != other {
		t.Errorf("Explain changed another error to %v", got)
	}
}
