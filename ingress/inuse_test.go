package ingress

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
	"golang.org/x/sys/unix"
)

// listen has a process (this one) take a port of the host.
func listen(t *testing.T, network, address string) (close func(), err error) {
	t.Helper()
	if network == "udp" {
		conn, err := net.ListenPacket("udp", address)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = conn.Close() })
		return func() { _ = conn.Close() }, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = l.Close() })
	return func() {
		// It ends a connection by itself, which the kernel remembers for a minute with its port.
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := l.Accept(); err != nil || conn.Close() != nil {
			t.Fatal("a connection cannot be accepted", err)
		}
		_ = client.Close()
		_ = l.Close()
	}, nil
}

func TestPortInUse(t *testing.T) {
	linktest.RequireRoot(t)
	a := newApplier(t)
	serve(t, "", "host", 7000)
	for network, address := range map[string]string{"tcp": "127.0.0.1:7001", "udp": "[::1]:7003"} {
		if _, err := listen(t, network, address); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		protocol string
		port     uint16
		want     bool
	}{
		{"tcp", 7000, true}, {"udp", 7000, true}, {"tcp", 7001, true}, {"udp", 7001, false},
		{"tcp", 7002, false}, {"tcp", 7002, false}, {"udp", 7003, true},
	} {
		got, err := a.PortInUse(c.protocol, c.port)
		if err != nil || got != c.want {
			t.Errorf("%d/%s: %t, %v, want %t", c.port, c.protocol, got, err, c.want)
		}
	}
	if _, err := a.PortInUse("sctp", 7000); err == nil {
		t.Error("no error for sctp")
	}
}

// What a process has is not published, and is told; when it ends, the port is. From then on no process gets it.
func TestPublishedPortIsNotStolen(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			told := 0
			a := New(Options{Occupied: func() { told++ }})
			t.Cleanup(func() { mustApply(t, a, Config{}) })
			address := net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort))
			end, err := listen(t, network, ":"+fmt.Sprint(publishedPort))
			if err != nil {
				t.Fatal(err)
			}
			mustApply(t, a, lab.config())
			mustApply(t, a, lab.config())
			if got := a.Occupied(); !slices.Equal(got, []PortID{{network, publishedPort}}) || told != 1 {
				t.Errorf("occupied are %v, told %d times", got, told)
			}
			if rules := hostCommand(t, "nft list map inet meshd ports4"); strings.Contains(rules, fmt.Sprintf("%s . %d ", network, publishedPort)) {
				t.Errorf("the process's port is taken away from it:\n%s", rules)
			}
			// The other protocol is nobody's.
			other := map[string]string{"tcp": "udp", "udp": "tcp"}[network]
			mustAsk(t, lab.outside, other, address)

			end()
			mustApply(t, a, lab.config())
			if got := a.Occupied(); len(got) > 0 || told != 2 {
				t.Errorf("the process has ended: occupied are %v, told %d times", got, told)
			}
			mustAsk(t, lab.outside, network, address)
			for _, on := range []string{":", "127.0.0.1:", "[::1]:"} {
				if _, err := listen(t, network, on+fmt.Sprint(publishedPort)); !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("a process on %s gets %v, want that the address is in use", on, err)
				}
			}
			if held, err := a.PortInUse(network, publishedPort); held || err != nil {
				t.Errorf("the port counts as another's: %t, %v", held, err)
			}
			config := lab.config()
			config.Publish.Ports = nil
			mustApply(t, a, config)
			if _, err := listen(t, network, ":"+fmt.Sprint(publishedPort)); err != nil {
				t.Errorf("the port is not published any more, and still not free: %v", err)
			}
		})
	}
}

// A port that an engine of this host has too is published all the same, and the engine gets it.
func TestSharedPort(t *testing.T) {
	linktest.RequireRoot(t)
	lab := newPublishLab(t)
	a := New(Options{})
	t.Cleanup(func() { mustApply(t, a, Config{}) })
	config := lab.config()
	for i := range config.Publish.Ports {
		config.Publish.Ports[i].Shared = true
	}
	for _, when := range []string{"before", "after"} {
		mustApply(t, a, config)
		if when == "before" { // the engine binds it after meshd was told
			if _, err := listen(t, "tcp", ":"+fmt.Sprint(publishedPort)); err != nil {
				t.Fatalf("the engine does not get its port: %v", err)
			}
		}
		if got := a.Occupied(); len(got) > 0 {
			t.Errorf("%s: occupied are %v", when, got)
		}
		mustAsk(t, lab.outside, "tcp", net.JoinHostPort(hostAddress4, fmt.Sprint(publishedPort)))
	}
}
