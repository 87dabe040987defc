package benchlb

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

const (
	services  = 5000
	endpoints = 50
	connects  = 3000 // in a round
)

// segment is a switch with a server that has three addresses on it.
type segment struct {
	path     string
	replicas []netip.Addr
	ports    int
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	s := &segment{path: linktest.Namespace(t, "switch")}
	linktest.Must(t, s.path, "ip link add br0 type bridge")
	linktest.Must(t, s.path, "ip link set br0 up")
	server := s.client(t)
	for i := range 3 {
		addr := netip.AddrFrom4([4]byte{10, 90, 0, byte(200 + i)})
		s.replicas = append(s.replicas, addr)
		linktest.Must(t, server, fmt.Sprintf("ip addr add %s/16 dev eth0", addr))
	}
	var listener net.Listener
	if err := netns.Do(server, func() (err error) {
		listener, err = net.Listen("tcp", ":80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return s
}

// client makes a namespace on the segment.
func (s *segment) client(t *testing.T) string {
	t.Helper()
	s.ports++
	path := linktest.Namespace(t, fmt.Sprintf("ns%d", s.ports))
	outer := fmt.Sprintf("p%d", s.ports)
	linktest.Must(t, s.path, "ip link add "+outer+" type veth peer name eth0")
	sw, ns := linktest.Open(t, s.path), linktest.Open(t, path)
	l, err := sw.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := sw.Netlink().LinkSetNsFd(l, ns.Handle().FD()); err != nil {
		t.Fatal(err)
	}
	linktest.Must(t, s.path, "ip link set "+outer+" master br0 up")
	linktest.Must(t, path, fmt.Sprintf("ip addr add 10.90.1.%d/16 dev eth0", s.ports))
	linktest.Must(t, path, "ip link set eth0 up")
	linktest.Must(t, path, "ip link set lo up")
	linktest.Must(t, path, "ip route add default dev eth0")
	return path
}

// virtualIPs are n services with three replicas each.
func (s *segment) virtualIPs(n int) []ingress.VirtualIP {
	list := make([]ingress.VirtualIP, n)
	for i := range list {
		list[i] = ingress.VirtualIP{Address: vip(i), Replicas: s.replicas}
	}
	return list
}

func vip(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 91, byte(i >> 8), byte(i)}) }

// connectTimes is how long each of many connections takes from inside a namespace.
func connectTimes(t *testing.T, path string, to netip.Addr) []time.Duration {
	t.Helper()
	times := make([]time.Duration, 0, connects)
	address := &unix.SockaddrInet4{Addr: to.As4(), Port: 80}
	err := netns.Do(path, func() error {
		for range connects {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return err
			}
			began := time.Now()
			err = unix.Connect(fd, address)
			times = append(times, time.Since(began))
			_ = unix.Close(fd) // with a reset: nothing is left that waits
			if err != nil {
				return fmt.Errorf("connecting to %s: %w", to, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return times
}

// TestVirtualIPs measures connecting, with interleaved rounds, and what changes cost.
func TestVirtualIPs(t *testing.T) {
	requireBench(t)
	s := newSegment(t)
	one, many := s.client(t), s.client(t)
	applier := ingress.New(ingress.Options{})
	t.Cleanup(applier.Close)
	config := func(list []ingress.VirtualIP) ingress.Config {
		return ingress.Config{Clients: []ingress.Client{
			{Endpoint: "one", Namespace: one, Services: s.virtualIPs(1)},
			{Endpoint: "many", Namespace: many, Services: list},
		}}
	}
	apply := func(c ingress.Config) time.Duration {
		began := time.Now()
		if err := applier.Apply(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	all := s.virtualIPs(services)
	program, change := row{name: "program 5,000 × 3"}, row{name: "one change of 5,000"}
	for range *rounds {
		apply(config(nil))
		program.values = append(program.values, milliseconds(apply(config(all))))
		changed := slices.Clone(all)
		changed[services/2].Replicas = s.replicas[:2]
		change.values = append(change.values, milliseconds(apply(config(changed))))
		apply(config(all))
	}
	plain := s.client(t) // without any table, and so without connection tracking
	paths := []struct {
		name, from string
		to         netip.Addr
	}{
		{"no translation, no connection tracking", plain, s.replicas[0]},
		{"direct, from the endpoint with one service", one, s.replicas[0]},
		{"virtual IP, the only service", one, vip(0)},
		{"direct, from the endpoint with 5,000 services", many, s.replicas[0]},
		{"virtual IP, the last of 5,000 services", many, vip(services - 1)},
	}
	rows := make([]row, len(paths))
	for range *rounds {
		for i, p := range paths {
			times := connectTimes(t, p.from, p.to)
			rows[i].name = p.name
			rows[i].values = append(rows[i].values, float64(median(times))/float64(time.Microsecond))
		}
	}
	fmt.Print("\n| connecting | median, µs |\n|---|---|\n")
	for _, r := range rows {
		fmt.Printf("| %s | %.1f |\n", r.name, r.median())
	}
	goalsHead()
	atMost(t, "connecting by virtual IP, of going there directly", ratio(rows[2], rows[1]), 1.25)
	atMost(t, "the same with 5,000 services", ratio(rows[4], rows[3]), 1.25)
	atMost(t, "the last of 5,000 services, of the only one", ratio(rows[4], rows[2]), 1.05)
	atMost(t, "programming 5,000 services of 3 replicas, ms", program.median(), 1000)
	atMost(t, "one change among 5,000 services, ms", change.median(), 10)
	atMost(t, fmt.Sprintf("%d endpoints updated by one change, ms", endpoints), s.manyEndpoints(t).median(), 200)
}

// manyEndpoints is how long one change takes to reach all endpoints of a host, in milliseconds.
func (s *segment) manyEndpoints(t *testing.T) row {
	t.Helper()
	applier := ingress.New(ingress.Options{})
	t.Cleanup(applier.Close)
	before, after := s.virtualIPs(services), s.virtualIPs(services)
	after[services/2].Replicas = s.replicas[:2]
	var was, is ingress.Config
	for i := range endpoints {
		client := ingress.Client{Endpoint: fmt.Sprintf("e%d", i), Namespace: linktest.Namespace(t, fmt.Sprintf("e%d", i))}
		client.Services = before
		was.Clients = append(was.Clients, client)
		client.Services = after
		is.Clients = append(is.Clients, client)
	}
	r := row{name: "50 endpoints"}
	for i := range 2**rounds + 1 {
		config := was
		if i%2 == 1 {
			config = is
		}
		began := time.Now()
		if err := applier.Apply(context.Background(), config); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // the first programs everything
			r.values = append(r.values, milliseconds(time.Since(began)))
		}
	}
	return r
}
