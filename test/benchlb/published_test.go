package benchlb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/lab/engine"
)

// How each path is loaded: for a time, over so many connections at once.
var load = []string{"chrt", "--rr", "10", "wrk", "-t1", "-c16", "-d1s"}

// TestPublishedPorts measures requests per second to one replica on h2 by several ways, with a new connection for each
// request and with connections that are kept.
func TestPublishedPorts(t *testing.T) {
	requireBench(t)
	b := newBed(t)
	paths := b.paths(t)
	for _, kind := range []struct {
		name string
		args []string
	}{
		{"a connection for each request", []string{"-H", "Connection: close"}},
		{"connections that are kept", nil},
	} {
		rows := make([]row, len(paths))
		for range *rounds {
			for i, p := range paths {
				rows[i].name = p.name
				rows[i].values = append(rows[i].values, b.requests(t, p, kind.args))
			}
		}
		fmt.Printf("\n| requests a second, %s | median | of the direct path |\n|---|---|---|\n", kind.name)
		for _, r := range rows {
			fmt.Printf("| %s | %.0f | %.2f |\n", r.name, r.median(), ratio(r, rows[0]))
		}
		goalsHead()
		atLeast(t, "published, through another host, of the direct path", ratio(rows[1], rows[0]), 0.9)
		atLeast(t, "published, through its own host, of docker -p", ratio(rows[4], rows[5]), 0.9)
		atLeast(t, "published, through another host, of HAProxy", ratio(rows[1], rows[2]), 1)
		atLeast(t, "published, through another host, of nginx", ratio(rows[1], rows[3]), 1)
	}
}

// bed is a mesh with a service, and its rivals beside it.
type bed struct {
	*lab.Mesh
	peer    string // labpeer
	replica endpoint
	proxy   endpoint // on h1: a place from where HAProxy and nginx reach the replica
}

type endpoint struct{ ID, Name, Network, Health, IP string }

// A path is an address, and a host or a namespace on it to ask from.
type path struct {
	name      string
	from      *lab.Host
	namespace string
	address   string
}

func newBed(t *testing.T) *bed {
	t.Helper()
	if err := lab.Require(append([]string{"wrk", "haproxy", "nginx", "chrt"}, engine.Programs...)...); err != nil {
		t.Fatal(err)
	}
	ctx, dir := t.Context(), t.TempDir()
	for name, pkg := range map[string]string{"meshd": "../../cmd/meshd", "labpeer": "../labpeer"} {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v: %s", name, err, out)
		}
	}
	m, err := lab.NewMesh(ctx, filepath.Join(dir, "meshd"), lab.Options{Name: fmt.Sprintf("benchlb%d", os.Getpid()), Hosts: 2, Outside: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Meshd(ctx, m.Host("h1"), "network", "create", "bench"); err != nil {
		t.Fatal(err)
	}
	b := &bed{Mesh: m, peer: filepath.Join(dir, "labpeer")}
	b.within(t, "h2 knows the network", func() error {
		_, err := m.Meshd(ctx, m.Host("h2"), "network", "inspect", "bench")
		return err
	})
	b.startDocker(t, m.Host("h2"))
	b.proxy = b.run(t, m.Host("h1"), "proxy", nil, "sleep", "infinity")
	return b
}

// run starts a command as an endpoint.
func (b *bed) run(t *testing.T, h *lab.Host, name string, flags []string, command ...string) endpoint {
	t.Helper()
	args := append([]string{"run", "--network", "bench", "--name", name}, flags...)
	b.background(t, h, b.Binary, append(append(args, "--"), command...)...)
	return b.await(t, h, name)
}

// await waits until an endpoint is healthy.
func (b *bed) await(t *testing.T, h *lab.Host, name string) endpoint {
	t.Helper()
	var found endpoint
	b.within(t, name+" is healthy", func() error {
		var list []endpoint
		if err := b.MeshdJSON(t.Context(), h, &list, "endpoint", "ls"); err != nil {
			return err
		}
		for _, e := range list {
			if e.Name == name && e.Network == "bench" && e.Health == "healthy" {
				found = e
				return nil
			}
		}
		return errors.New("it is not")
	})
	return found
}

// background runs a command on a host until the lab ends.
func (b *bed) background(t *testing.T, h *lab.Host, command string, args ...string) {
	t.Helper()
	cmd := h.Command(context.Background(), command, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // with the lab
		close(ended)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			_ = b.Lab.Close() // so that nothing writes any more
			<-ended
			t.Logf("%s: %s", command, out.String())
		}
	})
}

func (b *bed) within(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := lab.WaitFor(ctx, try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// paths starts the rivals, and returns all ways in the order that TestPublishedPorts knows.
func (b *bed) paths(t *testing.T) []path {
	t.Helper()
	h1, h2, outside := b.Host("h1"), b.Host("h2"), b.Host("outside")
	b.secondAddress(t, outside, h2)
	b.startProxy(t, "haproxy", ":8082", fmt.Sprintf(`global
	maxconn 4000
	nbthread 2
defaults
	mode tcp
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen web
	bind fd@3
	server web %s:80
`, b.replica.IP), "haproxy", "-db", "-f")
	b.startProxy(t, "nginx", "0.0.0.0:8083", fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid /run/nginx-bench.pid;
error_log /dev/stderr;
worker_processes 2;
events { worker_connections 4000; }
stream { server { listen 0.0.0.0:8083; proxy_pass %s:80; } }
`, b.replica.IP), "nginx", "-c")
	paths := []path{
		{"direct, over the overlay network, from an endpoint on the other host", h1, "/run/meshd/endpoints/" + b.proxy.ID, b.replica.IP + ":80"},
		{"published, through the other host", outside, "", h1.IP + ":8080"},
		{"HAProxy on the other host, TCP mode", outside, "", h1.IP + ":8082"},
		{"nginx on the other host, stream", outside, "", h1.IP + ":8083"},
		{"published, through its own host", outside, "", h2.IP + ":8080"},
		{"docker -p, through its own host", outside, "", h2.IP + ":8085"},
	}
	for _, p := range paths {
		b.within(t, p.name+" works", func() error {
			_, err := p.run(t.Context(), b.peer, "check", "http://"+p.address+"/")
			return err
		})
	}
	b.hurry(t)
	return paths
}

// secondAddress has a client ask one of the hosts from an address of its own. A client that has used all of its ports through one
// host needs other ones through another, and the search for them would be measured.
func (b *bed) secondAddress(t *testing.T, client, to *lab.Host) {
	t.Helper()
	const address = "10.77.0.200"
	for _, line := range []string{"ip addr add " + address + "/32 dev eth0", "ip route add " + to.IP + "/32 dev eth0 src " + address} {
		if _, err := client.Run(t.Context(), "sh", "-c", line); err != nil {
			t.Fatal(err)
		}
	}
}

// hurry lets everything that takes part go before all else that this machine does: without it, a way with more steps
// would mostly show how often it has to wait for a processor.
func (b *bed) hurry(t *testing.T) {
	t.Helper()
	const script = `for p in /proc/[0-9]*; do
		case "$(cat $p/comm 2>/dev/null)" in meshd-wireguard|haproxy|nginx|labpeer) ;; *) continue;; esac
		for group in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cpu*/cgroup.procs; do
			[ ! -e $group ] || echo ${p#/proc/} >$group
		done # a container's group has no right to it
		chrt -a --rr -p 10 ${p#/proc/} || exit 1
	done`
	for _, h := range b.Members() {
		if _, err := h.Run(t.Context(), "sh", "-c", script); err != nil {
			t.Fatal(err)
		}
	}
}

// startProxy runs a proxy that listens on h1 and goes on from the endpoint there.
func (b *bed) startProxy(t *testing.T, name, listen, config string, command ...string) {
	t.Helper()
	h := b.Host("h1")
	file := filepath.Join(h.Dir, "run", name+".conf") // the host's /run
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	command = append(command, "/run/"+name+".conf")
	b.background(t, h, b.peer, append([]string{"within", listen, "/run/meshd/endpoints/" + b.proxy.ID}, command...)...)
}

// startDocker runs two containers with the same server: one whose port Docker itself publishes, and one without a
// network, which is attached to the mesh. So both have the same share of the processors.
func (b *bed) startDocker(t *testing.T, h *lab.Host) {
	t.Helper()
	e, err := engine.New(t.Context(), h, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	image, err := engine.Peer(b.peer)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Load(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := e.Docker(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	serve := []string{"peer", "/labpeer", "web", "peer", "80", "keep"}
	docker(append([]string{"run", "-d", "--network", "bridge", "-p", "8085:80"}, serve...)...)
	id := docker(append([]string{"run", "-d", "--network", "none"}, serve...)...)
	pid := docker("inspect", "--format", "{{.State.Pid}}", id)
	if _, err := b.Meshd(t.Context(), h, "attach", "--pid", pid, "--network", "bench", "--name", "web", "--service", "web", "--publish", "8080:80"); err != nil {
		t.Fatal(err)
	}
	b.replica = b.await(t, h, "web")
}

func (p path) run(ctx context.Context, command string, args ...string) (string, error) {
	if p.namespace != "" {
		return p.from.Run(ctx, "nsenter", append([]string{"--net=" + p.namespace, command}, args...)...)
	}
	return p.from.Run(ctx, command, args...)
}

var perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// requests is how many requests a second the path takes.
func (b *bed) requests(t *testing.T, p path, args []string) float64 {
	t.Helper()
	command := append(append(append([]string{}, load...), args...), "http://"+p.address+"/")
	out, err := p.run(t.Context(), command[0], command[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	found := perSecond.FindStringSubmatch(out)
	if found == nil || strings.Contains(out, "Non-2xx") || strings.Contains(out, "Socket errors") {
		t.Fatalf("%s: %s", p.name, out)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
