package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// patience is how long anything may take: the machines are slow, and others use this one's processors.
const patience = 100 * time.Second

// buildPrograms builds what the machines run.
func buildPrograms(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	programs := make(map[string]string)
	for name, pkg := range map[string]string{"meshd": "../../cmd/meshd", "labpeer": "../labpeer", "guest": "./guest"} {
		programs[name] = filepath.Join(dir, name)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", programs[name], pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v: %s", name, err, out)
		}
	}
	return programs
}

func newFleet(t *testing.T, machines int) *Fleet {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root")
		}
		t.Skip("it makes network namespaces, which needs root")
	}
	if err := lab.Require("qemu-system-x86_64", "busybox", "nft", "modprobe", "ping"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	programs := buildPrograms(t)
	began := time.Now()
	f, err := NewFleet(ctx, fmt.Sprintf("vm%d", os.Getpid()), machines, programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines are up after %s", machines, time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			report(t, f)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// report logs what is known of the machines when a test has failed.
func report(t *testing.T, f *Fleet) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const look = `grep -v serf /var/log/agent.log | tail -n 150; top -b -n1 | head -20; timeout 10 meshd status; tail -n 3 /proc/pressure/*; date; for ns in /run/meshd/netns /run/meshd/endpoints/*; do
		echo "# $ns"; nsenter --net=$ns /bin/sh -c 'ip -br addr; ip neigh; bridge fdb show | grep -v "33:33\|01:00:5e"; nft list ruleset' 2>&1
	done; ip -br addr; ip route; iptables-save`
	for _, m := range f.Machines {
		out, err := m.Run(ctx, "sh", "-c", look)
		t.Logf("--- %s (%v)\n%s\n--- its console\n%s", m.Name, err, out, m.Console())
	}
}

// within waits for a condition, and fails the test if it does not come in time.
func within(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	if err := lab.WaitFor(ctx, func() error { return try(ctx) }); err != nil {
		t.Fatalf("not within %s: %s: %v", patience, what, err)
	}
	t.Logf("%s after %s", what, time.Since(began).Round(10*time.Millisecond))
}

// must runs a command in a machine.
func must(t *testing.T, m *Machine, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := m.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// everywhere does the same on all machines at once.
func everywhere(t *testing.T, f *Fleet, what string, do func(context.Context, *Machine) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	errs := make([]error, len(f.Machines))
	var wg sync.WaitGroup
	for i, m := range f.Machines {
		wg.Go(func() { errs[i] = do(ctx, m) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Logf("%s after %s", what, time.Since(began).Round(10*time.Millisecond))
}

type peer struct {
	Name      string
	Path      string
	Handshake float64 `json:"handshake_age_s"`
	RX, TX    uint64
}

type status struct {
	Healthy   bool
	Health    []string
	WireGuard string
	Peers     []peer
}

func (s status) peer(name string) peer {
	for _, p := range s.Peers {
		if p.Name == name {
			return p
		}
	}
	return peer{Handshake: -1}
}

// hostState is everything on a machine that meshd could leave behind.
const hostState = `
ip -br link | awk '{print $1}' | sort
ip route; ip -6 route | grep -v '^fe80\|^multicast'
iptables-save | grep '^-\|MESHD'; ip6tables-save | grep '^-\|MESHD'
nft list tables | grep -v 'table ip6\? \(nat\|filter\|mangle\|raw\)$'
find /run/meshd -mindepth 1 -not -name meshd.sock -not -name meshd.sock.lock 2>/dev/null
find /var/lib/meshd -mindepth 1 -not -name lock 2>/dev/null
sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding
grep meshd /proc/self/mounts
pgrep meshd-wireguard; ls /run/wireguard 2>/dev/null
true`

// Three hosts of a stock kernel. Two use its WireGuard, for they are told nothing; one is told to do
// without. All that a mesh is for works between them, and the kernel's device outlives the agent.
func TestKernelWireGuard(t *testing.T) {
	f := newFleet(t, 3)
	h1, h2, h3 := f.Machine("h1"), f.Machine("h2"), f.Machine("h3")
	clean := must(t, h1, "sh", "-c", hostState)

	agents := make(map[string]*Process)
	var mu sync.Mutex // guards agents
	everywhere(t, f, "agents answer", func(ctx context.Context, m *Machine) error {
		var flags []string
		if m == h3 {
			flags = []string{"--wireguard-mode", "userspace"}
		}
		agent, err := m.StartAgent(ctx, flags...)
		mu.Lock()
		defer mu.Unlock()
		agents[m.Name] = agent
		return err
	})
	var founded struct{ Token string }
	within(t, "h1 founds a mesh", func(ctx context.Context) error { return h1.MeshdJSON(ctx, &founded, "init") })
	must(t, h2, "meshd", "join", h1.IP, "--token", founded.Token)
	must(t, h3, "meshd", "join", h1.IP, "--token", founded.Token)
	for _, m := range f.Machines {
		within(t, m.Name+" is well and sees the others", func(ctx context.Context) error { return sees(ctx, m, 2) })
	}
	for name, want := range map[string]string{"h1": "kernel", "h2": "kernel", "h3": "userspace"} {
		var s status
		if err := f.Machine(name).MeshdJSON(t.Context(), &s, "status"); err != nil || s.WireGuard != want {
			t.Errorf("%s uses the WireGuard of %q, want %s: %v", name, s.WireGuard, want, err)
		}
	}

	must(t, h1, "meshd", "network", "create", "appnet")
	for _, m := range []*Machine{h2, h3} {
		within(t, m.Name+" knows the network", func(ctx context.Context) error {
			_, err := m.Meshd(ctx, "network", "inspect", "appnet")
			return err
		})
	}
	server := serve(t, h1, "one", "--service", "web", "--publish", "8080:80")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"reach", func(t *testing.T) { testReach(t, f, server) }},
		{"published port", func(t *testing.T) { testPublished(t, f) }},
		{"restart", func(t *testing.T) { testRestart(t, f, server, agents) }},
		{"leave", func(t *testing.T) { testLeave(t, f, clean) }},
	} {
		if !t.Run(step.name, step.run) {
			return // what follows would say the same, slowly
		}
	}
}

// sees checks that a host is healthy and has shaken hands with n others.
func sees(ctx context.Context, m *Machine, n int) error {
	var s status
	if err := m.MeshdJSON(ctx, &s, "status"); err != nil {
		return err
	}
	there := 0
	for _, p := range s.Peers {
		if p.Path != "none" && p.Handshake >= 0 {
			there++
		}
	}
	if !s.Healthy || there != n {
		return fmt.Errorf("%s: %+v", m.Name, s)
	}
	return nil
}

type endpoint struct {
	process               *Process
	ID, Name, IP, IP6     string
	Node, Health, Network string
}

// serve starts a labpeer server on port 80 as an endpoint, until the test's machines end.
func serve(t *testing.T, m *Machine, name string, flags ...string) endpoint {
	t.Helper()
	args := append([]string{"meshd", "run", "--network", "appnet", "--name", name}, flags...)
	args = append(args, "--", "labpeer", "serve", name, "80")
	process, err := m.Start(args...)
	if err != nil {
		t.Fatal(err)
	}
	var found endpoint
	within(t, "endpoint "+name+" serves", func(ctx context.Context) error {
		select {
		case answer := <-process.answer:
			// Hosts that are as slow as these may be too late to agree to an address; the message says to try again.
			if !strings.Contains(string(answer.Stderr), "try again") {
				t.Fatalf("%s: meshd run ended: %s", m.Name, answer.Stderr)
			}
			t.Logf("%s: %s", m.Name, answer.Stderr)
			if process, err = m.Start(args...); err != nil {
				return err
			}
		default:
		}
		var rows []endpoint
		if err := m.MeshdJSON(ctx, &rows, "endpoint", "ls"); err != nil {
			return err
		}
		for _, row := range rows {
			if row.Name == name && row.Health == "healthy" {
				found = row
				_, err := m.Run(ctx, "nsenter", "--net=/run/meshd/endpoints/"+row.ID, "labpeer", "ask", "tcp", "127.0.0.1:80")
				return err
			}
		}
		return fmt.Errorf("no endpoint %s in %+v", name, rows)
	})
	found.process = process
	return found
}

// asks is what a host's endpoint does: ask a server by name and address, over both families, by TCP and UDP, and send it
// packets of the full size, which is all that the MTU allows. Each is tried until it works, as long as there is time.
const asks = `
try() { until out=$("$@" 2>&1); do :; done; echo "$* = $out"; }
try labpeer ask tcp web:80
try labpeer ask udp web.appnet:80
try labpeer ask tcp "$1:80"
try labpeer ask udp "[$2]:80"
try ping -q -M do -c2 -W10 -s "$(($3 - 28))" "$1"
try ping -q -M do -c2 -W10 -s "$(($3 - 48))" "$2"
if ping -q -M do -c1 -W1 -s "$(($3 - 27))" "$1"; then echo "a packet of more than $3 bytes passed" >&2; exit 1; fi
`

// testReach asks from all hosts at once.
func testReach(t *testing.T, f *Fleet, server endpoint) {
	var network struct{ MTU int }
	if err := f.Machine("h1").MeshdJSON(t.Context(), &network, "network", "inspect", "appnet"); err != nil {
		t.Fatal(err)
	}
	everywhere(t, f, "by name, address, IPv4, IPv6, TCP, UDP and in full size", func(ctx context.Context, m *Machine) error {
		out, err := m.Meshd(ctx, "run", "--network", "appnet", "--", "sh", "-c", asks, "sh", server.IP, server.IP6, fmt.Sprint(network.MTU))
		if err != nil {
			return fmt.Errorf("%w, after %s", err, out)
		}
		if n := strings.Count(out, " = one "); n != 4 {
			err = fmt.Errorf("%s: %d of 4 answers are the server's: %s", m.Name, n, out)
		}
		return err
	})
}

// testPublished asks every host's port from outside the mesh.
func testPublished(t *testing.T, f *Fleet) {
	outside, peer := f.Host("outside"), f.Programs["labpeer"]
	for _, m := range f.Machines {
		for _, try := range [][2]string{{"tcp", m.IP + ":8080"}, {"tcp", "[" + m.IP6 + "]:8080"}} {
			within(t, fmt.Sprintf("%s %s answers", try[0], try[1]), func(ctx context.Context) error {
				out, err := outside.Run(ctx, peer, "ask", try[0], try[1])
				if err == nil && !strings.HasPrefix(out, "one ") {
					err = fmt.Errorf("answered %q", out)
				}
				return err
			})
		}
	}
}

// device is what shows that a WireGuard device is the same one.
func device(t *testing.T, m *Machine) string {
	t.Helper()
	return must(t, m, "nsenter", "--net=/run/meshd/netns", "/bin/sh", "-c",
		`ip -o link show type wireguard | awk -F: '{print $1 $2}'; ip -6 -br addr show type wireguard`)
}

// testRestart kills the agents of both ends of a stream, and starts them again. The stream goes on,
// over the same device with the same session.
func testRestart(t *testing.T, f *Fleet, server endpoint, agents map[string]*Process) {
	h1, h2 := f.Machine("h1"), f.Machine("h2")
	stream, err := h2.Start("meshd", "run", "--network", "appnet", "--name", "stream", "--", "labpeer", "talk", server.IP+":80", "/tmp/talked")
	if err != nil {
		t.Fatal(err)
	}
	talked := func(ctx context.Context) (n int, err error) {
		out, err := h2.Run(ctx, "cat", "/tmp/talked")
		if err == nil {
			_, err = fmt.Sscan(out, &n)
		}
		return n, err
	}
	goesOn := func(what string) {
		t.Helper()
		first := -1
		within(t, what, func(ctx context.Context) error {
			n, err := talked(ctx)
			if first < 0 && err == nil {
				first = n
			}
			if err == nil && n < first+5 {
				err = fmt.Errorf("%d answers, after %d", n, first)
			}
			return err
		})
	}
	goesOn("the stream runs")
	for _, m := range []*Machine{h1, h2} {
		other := map[string]string{"h1": "h2", "h2": "h1"}[m.Name]
		var before, after status
		if err := m.MeshdJSON(t.Context(), &before, "status"); err != nil {
			t.Fatal(err)
		}
		began, link := time.Now(), device(t, m)
		if err := agents[m.Name].Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := agents[m.Name].Wait(ctx); err == nil {
			t.Errorf("%s: the agent ended well, though it was killed", m.Name)
		}
		goesOn("the stream goes on without " + m.Name + "'s agent")
		if agents[m.Name], err = m.StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
		within(t, m.Name+" is well again", func(ctx context.Context) error { return sees(ctx, m, 2) })
		goesOn("the stream goes on")
		if now := device(t, m); now != link || link == "" {
			t.Errorf("%s: the device is\n%s\nand was\n%s", m.Name, now, link)
		}
		if err := m.MeshdJSON(t.Context(), &after, "status"); err != nil {
			t.Fatal(err)
		}
		was, is := before.peer(other), after.peer(other)
		if is.RX <= was.RX || is.TX <= was.TX {
			t.Errorf("%s: the counters began anew: %+v, then %+v", m.Name, was, is)
		}
		// WireGuard itself makes a new session every two minutes; before that there is no reason for one.
		passed := time.Since(began).Seconds()
		if was.Handshake+passed < 110 && is.Handshake < passed {
			t.Errorf("%s: a handshake of %.0f s ago, though the agent was killed %.0f s ago: %+v", m.Name, is.Handshake, passed, was)
		}
		if after.WireGuard != "kernel" {
			t.Errorf("%s uses the WireGuard of %q", m.Name, after.WireGuard)
		}
	}
	if err := stream.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := stream.Wait(ctx)
	if err != nil {
		t.Fatalf("the stream broke: %v", err)
	}
	t.Logf("the stream: %s", strings.TrimSpace(out))
}

// testLeave takes the kernel's device, and all else, off the host.
func testLeave(t *testing.T, f *Fleet, clean string) {
	h1 := f.Machine("h1")
	must(t, h1, "meshd", "leave")
	within(t, "nothing is left", func(ctx context.Context) error {
		now, err := h1.Run(ctx, "sh", "-c", hostState)
		if err == nil && strings.TrimSpace(now) != clean {
			err = fmt.Errorf("there is\n%s\nand was\n%s", now, clean)
		}
		return err
	})
}
