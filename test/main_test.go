// Package test runs the mesh as its users do: real agents on the hosts of a lab.
package test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// Programs that TestMain builds.
var meshdBinary, peerBinary string

// shared is a mesh of three hosts, h1 to h3, and one host outside, for the tests that leave
// it as they found it.
var shared *lab.Mesh

func TestMain(m *testing.M) {
	lab.Tests{
		Package:  "test",
		Programs: []string{"nft", "ping", "dig", "tcpdump", "iperf3", "curl"},
		Builds:   map[string]string{"meshd": "../cmd/meshd", "labpeer": "./labpeer"},
		Open:     openShared,
		Close: func() error {
			if shared == nil {
				return nil
			}
			return shared.Close()
		},
	}.Main(m)
}

func openShared(ctx context.Context, dir string) (err error) {
	meshdBinary, peerBinary = filepath.Join(dir, "meshd"), filepath.Join(dir, "labpeer")
	shared, err = lab.NewMesh(ctx, meshdBinary, lab.Options{Name: fmt.Sprintf("t%d", os.Getpid()), Hosts: 3, Outside: true})
	if err != nil {
		return err
	}
	if err := shared.Form(ctx); err != nil {
		for _, h := range shared.Members() {
			err = fmt.Errorf("%w\n--- %s\n%s", err, h.Name, shared.LogTail(h))
		}
		return err
	}
	return nil
}

// buildWith builds a meshd in which a variable has another value, beside the one under test.
func buildWith(ctx context.Context, variable, value string) (string, error) {
	path := meshdBinary + "-" + value
	return path, lab.Build(ctx, path, "../cmd/meshd", "-ldflags", "-X "+variable+"="+value)
}

// reporting holds the names of the tests that report on the shared mesh when they fail.
var reporting sync.Map

// testContext ends after a time in which nothing goes on but a test that hangs.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(cancel)
	if _, before := reporting.LoadOrStore(t.Name(), true); !before {
		t.Cleanup(func() {
			if t.Failed() {
				report(t, shared)
			}
		})
	}
	return ctx
}

// report logs what is known of the hosts when a test has failed.
func report(t *testing.T, m *lab.Mesh) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const look = `for ns in /run/meshd/netns /run/meshd/endpoints/*; do
		echo "# $ns"; nsenter --net=$ns sh -c 'ip -br addr; ip route; ip neigh; bridge fdb show | grep -v "33:33\|01:00:5e"; nft list ruleset' 2>&1
	done; ip -br addr; ip route; iptables-save`
	for _, h := range m.Members() {
		state, err := h.Run(ctx, "sh", "-c", look)
		t.Logf("--- agent's log on %s\n%s\n--- state of %s (%v)\n%s", h.Name, m.LogTail(h), h.Name, err, state)
	}
}

// newNetwork makes a network that goes with the test.
func newNetwork(t *testing.T, m *lab.Mesh, name string, args ...string) {
	t.Helper()
	ctx := testContext(t)
	if _, err := m.Meshd(ctx, m.Host("h1"), append([]string{"network", "create", name}, args...)...); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Second, "network "+name+" is known everywhere", func() error {
		for _, h := range m.Members() {
			if _, err := m.Meshd(ctx, h, "network", "inspect", name); err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(func() {
		err := lab.Within(context.Background(), 20*time.Second, func() error {
			_, err := m.Meshd(context.Background(), m.Host("h1"), "network", "rm", name)
			return err
		})
		if err != nil {
			t.Errorf("removing network %s: %v", name, err)
			return
		}
		within(t, 20*time.Second, "network "+name+" is gone everywhere", func() error { // the next may have its name
			for _, h := range m.Members() {
				if _, err := m.Meshd(context.Background(), h, "network", "inspect", name); err == nil {
					return fmt.Errorf("%s still has it", h.Name)
				}
			}
			return nil
		})
	})
}

// within waits for a condition, and fails the test if it does not come in time, by the lab's clock.
func within(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	began := time.Now()
	if err := lab.Within(context.Background(), limit, try); err != nil {
		t.Fatalf("not within %s: %s: %v after %s", limit, what, err, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
}

// Running is an endpoint whose command runs in the background.
type Running struct {
	ID     string
	IP     string
	IP6    string
	VIP    string
	cmd    *exec.Cmd
	stop   func() error
	output *strings.Builder
}

type endpointRow struct {
	ID, Name, Service, Network, Node, IP, IP6, MAC, Health string
}

// start runs a command as an endpoint on a host until the test ends, and returns when all members know of it.
func start(t *testing.T, m *lab.Mesh, h *lab.Host, flags []string, command ...string) *Running {
	t.Helper()
	r := startApart(t, m, h, flags, command...)
	within(t, 10*time.Second, "everybody knows of it", func() error { return known(testContext(t), m, r.ID) })
	return r
}

// known fails while a member does not list an endpoint, which has this ID or name, as healthy.
func known(ctx context.Context, m *lab.Mesh, endpoint string) error {
	for _, h := range m.Members() {
		var rows []endpointRow
		if err := m.MeshdJSON(ctx, h, &rows, "endpoint", "ls"); err != nil {
			return err
		}
		if !slices.ContainsFunc(rows, func(r endpointRow) bool {
			return (r.ID == endpoint || r.Name == endpoint) && r.Health == "healthy"
		}) {
			return fmt.Errorf("%s lists no healthy endpoint %s: %v", h.Name, endpoint, rows)
		}
	}
	return nil
}

// endpointName is a new one.
func endpointName(h *lab.Host) string { return fmt.Sprintf("%s-%d", h.Name, time.Now().UnixNano()) }

// startApart is start for a host that the others need not hear of.
func startApart(t *testing.T, m *lab.Mesh, h *lab.Host, flags []string, command ...string) *Running {
	t.Helper()
	ctx := testContext(t)
	name := endpointName(h)
	args := append([]string{"run", "--name", name}, flags...)
	args = append(append(args, "--"), command...)
	r := &Running{cmd: h.Command(context.Background(), m.Binary, args...), output: &strings.Builder{}}
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.cmd.Wait() }()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		_ = signalChildren(r.cmd.Process.Pid, syscall.SIGTERM) // it may have ended by itself
		select {
		case <-ended:
			return nil
		case <-time.After(time.Minute):
			_ = signalChildren(r.cmd.Process.Pid, syscall.SIGKILL)
			return fmt.Errorf("%s did not end within a minute of SIGTERM", name)
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	within(t, 30*time.Second, "endpoint on "+h.Name+" is there", func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s: meshd run ended: %v: %s", h.Name, err, r.output)
		default:
		}
		var rows []endpointRow
		if err := m.MeshdJSON(ctx, h, &rows, "endpoint", "ls"); err != nil {
			return err
		}
		for _, row := range rows {
			if row.Name == name && row.Health == "healthy" {
				r.ID, r.IP, r.IP6 = row.ID, row.IP, row.IP6
				return nil
			}
		}
		return fmt.Errorf("no endpoint %s", name)
	})
	return r
}

// serve starts a labpeer server called name on port 80, and returns when it listens and all members know of it.
func serve(t *testing.T, m *lab.Mesh, h *lab.Host, name string, flags ...string) *Running {
	t.Helper()
	r := start(t, m, h, flags, peerBinary, "serve", name, "80")
	listens(t, h, r, name)
	return r
}

// serveApart is serve for a host that the others need not hear of.
func serveApart(t *testing.T, m *lab.Mesh, h *lab.Host, name string, flags ...string) *Running {
	t.Helper()
	r := startApart(t, m, h, flags, peerBinary, "serve", name, "80")
	listens(t, h, r, name)
	return r
}

func listens(t *testing.T, h *lab.Host, r *Running, name string) {
	t.Helper()
	within(t, 30*time.Second, name+" listens", func() error {
		_, err := endpointExec(t, h, r, peerBinary, "ask", "tcp", "127.0.0.1:80")
		return err
	})
}

// signalChildren signals the processes that a nsenter has forked.
func signalChildren(pid int, sig syscall.Signal) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(data)) {
		var child int
		if _, err := fmt.Sscan(field, &child); err == nil {
			_ = syscall.Kill(child, sig) // it may just have ended
		}
	}
	return nil
}

// atOnce runs a command as an endpoint and returns what it printed. Others may not have heard of the endpoint yet.
func atOnce(t *testing.T, m *lab.Mesh, h *lab.Host, network string, command ...string) (string, error) {
	t.Helper()
	out, err := m.Meshd(testContext(t), h, append([]string{"run", "--network", network, "--"}, command...)...)
	return strings.TrimSpace(out), err
}

// inside runs a command as an endpoint that all members know, so that their answers find it, and returns what it printed.
func inside(t *testing.T, m *lab.Mesh, h *lab.Host, network string, command ...string) (string, error) {
	t.Helper()
	ctx, name := testContext(t), endpointName(h)
	const waiting = `read -r go && exec "$@"`
	cmd := h.Command(ctx, m.Binary, append([]string{"run", "--name", name, "--network", network, "--", "sh", "-c", waiting, "sh"}, command...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err = lab.Within(ctx, 10*time.Second, func() error {
		if len(ended) > 0 {
			return nil // without having begun, which it says
		}
		return known(ctx, m, name)
	})
	if err == nil {
		_, _ = io.WriteString(stdin, "go\n") // one that has ended does not read it
	}
	_ = stdin.Close()
	if failed := <-ended; err == nil && failed != nil {
		err = &lab.CommandError{Host: h.Name, Args: cmd.Args, Err: failed, Stderr: strings.TrimSpace(stderr.String())}
	}
	return strings.TrimSpace(stdout.String()), err
}
