package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
	"golang.org/x/sys/unix"
)

const vip, port = 200, 8000

// A vipLab is a client, which is also replica a, and two more replicas b and c on one network.
type vipLab struct {
	*segment
	client string
}

func newVIPLab(t *testing.T) vipLab {
	t.Helper()
	lab := vipLab{newSegment(t, "90"), ""}
	for i, name := range []string{"a", "b", "c"} {
		path := linktest.Namespace(t, name)
		lab.plug(t, path, "eth0", i+1)
		serve(t, path, name, port)
		if name == "a" {
			lab.client = path
		}
	}
	return lab
}

// config has one service with the replicas whose numbers are given.
func (l vipLab) config(replicas ...int) Config {
	v4, v6 := VirtualIP{Address: l.addr4(vip)}, VirtualIP{Address: l.addr6(vip)}
	for _, i := range replicas {
		v4.Replicas = append(v4.Replicas, l.addr4(i))
		v6.Replicas = append(v6.Replicas, l.addr6(i))
	}
	return Config{Clients: []Client{{Endpoint: "c1", Namespace: l.client, Services: []VirtualIP{v4, v6}}}}
}

func newApplier(t *testing.T) *Applier {
	t.Helper()
	a := New(Options{Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	t.Cleanup(a.Close)
	return a
}

func mustApply(t *testing.T, a *Applier, config Config) {
	t.Helper()
	if err := a.Apply(context.Background(), config); err != nil {
		t.Fatal(err)
	}
}

func TestVirtualIPSpreads(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	mustApply(t, a, lab.config(1, 2, 3))
	for _, addr := range []netip.Addr{lab.addr4(vip), lab.addr6(vip)} {
		for _, network := range []string{"tcp", "udp"} {
			count := map[string]int{}
			for range 300 {
				name, _ := mustAsk(t, lab.client, network, endpointOf(addr, port))
				count[name]++
			}
			for _, name := range []string{"a", "b", "c"} { // a is the client itself
				// 100 are expected with a deviation of 8: five times that fails once in two million runs.
				if count[name] < 59 || count[name] > 141 {
					t.Errorf("%s to %s: %v, want about 100 each", network, addr, count)
				}
			}
		}
		linktest.Ping(t, lab.client, addr.String(), 100)
	}
}

func TestVirtualIPIsEven(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	mustApply(t, a, lab.config(2, 3))
	const connections = 10_000
	count := map[string]int{}
	for range connections {
		name, _ := mustAsk(t, lab.client, "tcp", endpointOf(lab.addr4(vip), port))
		count[name]++
	}
	// The promise is five per cent; with two replicas that is five deviations.
	if off := count["b"] - connections/2; off < -connections/40 || off > connections/40 {
		t.Errorf("%v of %d connections", count, connections)
	}
	t.Logf("%v", count)
}

func TestVirtualIPReplicaLeaves(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	mustApply(t, a, lab.config(3))
	for _, addr := range []netip.Addr{lab.addr4(vip), lab.addr6(vip)} {
		// A datagram flow that goes on must move with its next datagram.
		conn, err := dial(lab.client, "udp", endpointOf(addr, port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if name, _, err := exchange(conn); err != nil || name != "c" {
			t.Fatalf("got %s (%v), want c", name, err)
		}
		mustApply(t, a, lab.config(2))
		if name, _, err := exchange(conn); err != nil || name != "b" {
			t.Errorf("after the replica left: got %s (%v), want b", name, err)
		}
		for range 20 {
			if name, _ := mustAsk(t, lab.client, "tcp", endpointOf(addr, port)); name != "b" {
				t.Errorf("after the replica left: got %s, want b", name)
			}
		}
		mustApply(t, a, lab.config(3))
	}
}

func TestVirtualIPWithoutReplicasRefuses(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	mustApply(t, a, lab.config())
	for _, addr := range []netip.Addr{lab.addr4(vip), lab.addr6(vip)} {
		for _, network := range []string{"tcp", "udp"} {
			start := time.Now()
			_, _, err := ask(lab.client, network, endpointOf(addr, port))
			// The kernel tells a sender of datagrams on the same host EPERM, everybody else that the port is unreachable.
			refused := errors.Is(err, unix.ECONNREFUSED) || network == "udp" && errors.Is(err, unix.EPERM)
			if !refused || time.Since(start) > time.Second {
				t.Errorf("%s %s: %v after %s, want connection refused at once", network, addr, err, time.Since(start))
			}
		}
	}
	mustApply(t, a, lab.config(2))
	if name, _ := mustAsk(t, lab.client, "udp", endpointOf(lab.addr4(vip), port)); name != "b" {
		t.Errorf("got %s, want b", name)
	}
}

// kernelText is our table as the kernel has it, "" if there is none.
func kernelText(t *testing.T, path string) string {
	t.Helper()
	out, err := linktest.Run(t, path, "nft", "-a", "list", "ruleset")
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return out
}

func generationOf(t *testing.T, path string) uint32 {
	t.Helper()
	h, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	k, err := dialKernel(h.FD(), translateTable)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	generation, err := k.generation()
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

func TestVirtualIPsIdempotentAdoptedRestoredRemoved(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	config := lab.config(1, 2, 3)
	mustApply(t, a, config)
	before := generationOf(t, lab.client)
	mustApply(t, a, config)
	mustApply(t, newApplier(t), config) // a restarted process
	if after := generationOf(t, lab.client); after != before {
		t.Errorf("applying the same again made %d transactions", after-before)
	}
	mustApply(t, a, lab.config(1, 2))
	if after := generationOf(t, lab.client); after != before+1 {
		t.Errorf("one change made %d transactions, want 1", after-before)
	}
	linktest.Must(t, lab.client, "nft flush ruleset")
	mustApply(t, a, lab.config(2))
	if name, _ := mustAsk(t, lab.client, "tcp", endpointOf(lab.addr4(vip), port)); name != "b" {
		t.Errorf("after somebody's flush: got %s, want b", name)
	}
	linktest.Must(t, lab.client, "nft flush chain inet meshd output")
	linktest.Must(t, lab.client, "nft flush map inet meshd replicas4")
	mustApply(t, a, lab.config(2))
	if name, _ := mustAsk(t, lab.client, "tcp", endpointOf(lab.addr4(vip), port)); name != "b" {
		t.Errorf("after somebody's flush of a chain and a map: got %s, want b", name)
	}
	mustApply(t, a, Config{})
	if text := kernelText(t, lab.client); text != "" {
		t.Errorf("left over:\n%s", text)
	}
}

func TestVanishedClientDoesNotStopOthers(t *testing.T) {
	linktest.RequireRoot(t)
	lab, a := newVIPLab(t), newApplier(t)
	config := lab.config(2)
	config.Clients = append([]Client{{Endpoint: "gone", Namespace: "/nowhere/gone"}}, config.Clients...)
	err := a.Apply(t.Context(), config)
	if !errors.Is(err, netns.ErrNotExist) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v, want that endpoint gone's namespace does not exist", err)
	}
	if name, _ := mustAsk(t, lab.client, "tcp", endpointOf(lab.addr4(vip), port)); name != "b" {
		t.Errorf("got %s, want b", name)
	}
}

func TestManyServices(t *testing.T) {
	linktest.RequireRoot(t)
	path := linktest.Namespace(t, "client")
	services := make([]VirtualIP, 5000)
	for i := range services {
		n := byte(i >> 8)
		services[i].Address = netip.AddrFrom4([4]byte{10, 1, n, byte(i)})
		for r := range 3 {
			services[i].Replicas = append(services[i].Replicas, netip.AddrFrom4([4]byte{10, byte(2 + r), n, byte(i)}))
		}
	}
	a := newApplier(t)
	step := func(what string) {
		start := time.Now()
		mustApply(t, a, Config{Clients: []Client{{Endpoint: "c1", Namespace: path, Services: services}}})
		t.Logf("5,000 services of 3 replicas, %s: %s", what, time.Since(start).Round(time.Microsecond))
	}
	step("programmed")
	step("nothing changed")
	services = append([]VirtualIP(nil), services...)
	services[2500].Replicas = services[2500].Replicas[:2]
	before := generationOf(t, path)
	step("one changed")
	if after := generationOf(t, path); after != before+1 {
		t.Errorf("one change made %d transactions", after-before)
	}
	a = newApplier(t)
	step("adopted by a new process")
	if after := generationOf(t, path); after != before+1 {
		t.Errorf("adopting made %d transactions", after-before-1)
	}
	text := fmt.Sprint(kernelText(t, path))
	if got := strings.Count(text, "goto n3-ip"); got != 4999 {
		t.Errorf("%d services with three replicas in the kernel, want 4999", got)
	}
}
