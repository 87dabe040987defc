package docker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab/engine"
)

// world is what a test works with.
type world struct {
	*testing.T
	ctx context.Context
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{T: t, ctx: testContext(t)}
}

// docker runs a docker command on a host; it must succeed.
func (w *world) docker(host string, args ...string) string {
	w.Helper()
	out, err := engines[host].Docker(w.ctx, args...)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// refused runs a docker command that must fail, and returns what it says.
func (w *world) refused(host string, args ...string) string {
	w.Helper()
	out, err := engines[host].Docker(w.ctx, args...)
	if err == nil {
		w.Fatalf("%s: docker %s was not refused: %s", host, strings.Join(args, " "), out)
	}
	w.Log(err)
	return err.Error()
}

// says fails the test unless a text has all the words.
func (w *world) says(text string, words ...string) {
	w.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			w.Errorf("no %q in: %s", word, text)
		}
	}
}

// network makes a network on h1 and waits until all engines have it.
func (w *world) network(name string, args ...string) {
	w.Helper()
	w.docker("h1", append(append([]string{"network", "create", "-d", "meshd"}, args...), name)...)
	w.mirrored(name)
}

// mirrored waits until all engines have a network of meshd's, with its addresses: Docker makes one with its own at first.
func (w *world) mirrored(name string) {
	w.Helper()
	within(w.T, 3*time.Second, "all engines have network "+name, func() error {
		for host, e := range engines {
			drivers, err := e.Docker(w.ctx, "network", "inspect", "--format", "{{.Driver}}, IPAM {{.IPAM.Driver}}", name)
			if err != nil || drivers != "meshd, IPAM meshd" {
				return fmt.Errorf("%s: driver %s, %w", host, drivers, err)
			}
		}
		return nil
	})
}

// web starts a web server that says its name.
func (w *world) web(host, name string, args ...string) {
	w.Helper()
	run := append([]string{"run", "-d", "--name", name}, args...)
	w.docker(host, append(run, "peer", "/labpeer", "web", name, "80")...)
}

// background runs a command on a host until the test ends, and returns what ends it before.
func (w *world) background(host string, command ...string) (end func(syscall.Signal) string) {
	w.Helper()
	var output strings.Builder
	cmd := mesh.Host(host).Command(context.WithoutCancel(w.ctx), command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // with the status of what was signalled
		close(ended)
	}()
	end = func(sig syscall.Signal) string {
		// nsenter forks into the host's PID namespace: the command is its child.
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		var pid int
		if _, err := fmt.Sscan(string(data), &pid); err == nil {
			_ = syscall.Kill(pid, sig) // it may just have ended
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			w.Errorf("%v does not end", command)
		}
		return output.String()
	}
	w.Cleanup(func() { end(syscall.SIGKILL) })
	return end
}

// exec runs a command in a container.
func (w *world) exec(host, container string, command ...string) (string, error) {
	return engines[host].Docker(w.ctx, append([]string{"exec", container}, command...)...)
}

// lookup is what a name resolves to in a container, sorted.
func (w *world) lookup(host, container, name string) ([]string, error) {
	out, err := w.exec(host, container, "/labpeer", "lookup", name)
	if err != nil {
		return nil, err
	}
	addresses := strings.Fields(out)[1:]
	slices.Sort(addresses)
	return addresses, nil
}

// finds waits until a name resolves in a container.
func (w *world) finds(host, container, name string) []string {
	w.Helper()
	var found []string
	within(w.T, 10*time.Second, container+" finds "+name, func() (err error) {
		found, err = w.lookup(host, container, name)
		return err
	})
	return found
}

// misses waits until a name does not resolve in a container.
func (w *world) misses(host, container, name string) {
	w.Helper()
	within(w.T, 10*time.Second, container+" does not find "+name, func() error {
		if found, err := w.lookup(host, container, name); err == nil {
			return fmt.Errorf("%s is %v", name, found)
		}
		return nil
	})
}

// reaches waits until an address answers a container, with one of the names.
func (w *world) reaches(host, container, url string, names ...string) {
	w.Helper()
	within(w.T, 10*time.Second, container+" on "+host+" reaches "+url, func() error {
		out, err := w.exec(host, container, "/labpeer", "get", url)
		return answeredBy(out, err, names)
	})
}

// answers waits until a URL answers from a host, with one of the names.
func (w *world) answers(host, url string, names ...string) {
	w.Helper()
	within(w.T, 10*time.Second, url+" answers "+host, func() error {
		out, err := mesh.Host(host).Run(w.ctx, "curl", "-sS", "-m3", url)
		return answeredBy(out, err, names)
	})
}

func answeredBy(out string, err error, names []string) error {
	if err != nil {
		return err
	}
	if who, _, _ := strings.Cut(out, " "); !slices.Contains(names, who) {
		return fmt.Errorf("%q answered, and not %v", out, names)
	}
	return nil
}

// ip is a container's address on a network.
func (w *world) ip(host, container, network string) string {
	w.Helper()
	return w.docker(host, "inspect", "--format", `{{with index .NetworkSettings.Networks "`+network+`"}}{{.IPAddress}}{{end}}`, container)
}

// all does the same on each host's engine, one after the other.
func (w *world) all(do func(host string, e *engine.Engine)) {
	for _, h := range mesh.Members() {
		do(h.Name, engines[h.Name])
	}
}
