package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// TestContainersComeAndGo: what Docker does with a container's networks while it runs, and while nobody looks.
func TestContainersComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "client", "--network", "appnet")
	w.web("h2", "db", "--network", "appnet")
	w.reaches("h1", "client", "http://db", "db")
	address := w.ip("h2", "db", "appnet")
	w.docker("h2", "restart", "-t", "2", "db")
	w.reaches("h1", "client", "http://db", "db")
	w.docker("h2", "kill", "db")
	w.misses("h1", "client", "db")
	w.docker("h2", "start", "db")
	w.reaches("h1", "client", "http://db", "db")
	t.Logf("db had %s and has %s", address, w.ip("h2", "db", "appnet"))

	// Removed while the agent is down, in both ways that it may end.
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		name := fmt.Sprintf("gone-%d", sig)
		w.web("h2", name, "--network", "appnet")
		w.reaches("h1", "client", "http://"+name, name)
		if err := mesh.SignalAgent(w.ctx, mesh.Host("h2"), sig); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ensureAgent(t, mesh.Host("h2")) })
		// Docker tries again and again to tell the agent, and goes on when it is back.
		removed := make(chan error, 1)
		go func() {
			_, err := engines["h2"].Docker(w.ctx, "rm", "-f", name)
			removed <- err
		}()
		within(t, 10*time.Second, name+" has ended", func() error {
			if _, err := mesh.Host("h2").Run(w.ctx, "pgrep", "-f", "labpeer web "+name); err == nil {
				return errors.New("it runs")
			}
			return nil
		})
		if err := mesh.StartAgent(w.ctx, mesh.Host("h2")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		t.Logf("it is removed %s after the agent is back", time.Since(began).Round(time.Millisecond))
		// If it was half removed when the agent looked, the agent finds out when it looks again.
		within(t, 30*time.Second, "client does not find "+name, func() error {
			if found, err := w.lookup("h1", "client", name); err == nil {
				return fmt.Errorf("%s is %v", name, found)
			}
			return nil
		})
		w.reaches("h1", "client", "http://db", "db")
	}
}

// promised is how long dockerd waits for meshd at most.
const promised = 2 * time.Second

// took is how long something takes.
func took(do func()) time.Duration {
	began := time.Now()
	do()
	return time.Since(began)
}

// counts is how long something takes by the lab's clock.
func counts(do func()) time.Duration {
	clock := lab.NewClock()
	do()
	return clock.Elapsed()
}

// waitsNoLonger fails the test if something with meshd counts for more than it took without, and what was promised. On a machine
// that runs other tests the same takes now longer, now shorter.
func (w *world) waitsNoLonger(what string, with, without time.Duration) {
	w.Helper()
	w.Logf("%s: %s, and %s without meshd", what, with.Round(time.Millisecond), without.Round(time.Millisecond))
	if with > 2*without+promised {
		w.Errorf("%s takes %s, and %s where meshd has no part in it", what, with, without)
	}
}

// TestAgentAway: while there is no agent, Docker does not wait for it. What removes something works, what needs the mesh is
// refused at once, and a restart of dockerd takes no longer than usual.
func TestAgentAway(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	h, e := mesh.Host("h2"), engines["h2"]
	w.web("h2", "stays", "--network", "appnet", "--restart", "always")
	w.web("h2", "gone", "--network", "appnet")
	w.web("h2", "plain")
	restart := func() {
		if err := e.Restart(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	usual := took(restart)
	w.docker("h2", "start", "gone", "plain")
	if err := mesh.SignalAgent(w.ctx, h, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ensureAgent(t, h) })
	plain := took(func() { w.docker("h2", "rm", "-f", "plain") })
	w.waitsNoLonger("removing a container", counts(func() { w.docker("h2", "rm", "-f", "gone") }), plain)
	plain = took(func() { w.docker("h2", "run", "--rm", "peer", "sh", "-c", ":") })
	refused := counts(func() { w.says(w.refused("h2", "run", "--rm", "--network", "appnet", "peer", "true"), "agent") })
	w.waitsNoLonger("refusing a container", refused, plain)
	w.waitsNoLonger("a restart of dockerd", counts(restart), usual)
	if err := mesh.StartAgent(w.ctx, h); err != nil {
		t.Fatal(err)
	}
	w.web("h1", "client", "--network", "appnet")
	w.misses("h1", "client", "gone")
	within(t, 8*time.Second, "what could not start without the agent is there", func() error {
		out, err := w.exec("h1", "client", "/labpeer", "get", "http://stays")
		return answeredBy(out, err, []string{"stays"})
	})
}

// TestEngineRestarts: an engine is restarted, or killed; its containers keep their names, and with live-restore
// their connections.
func TestEngineRestarts(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "client", "--network", "appnet")
	w.web("h2", "db", "--network", "appnet", "--restart", "always", "--network-alias", "base")
	w.reaches("h1", "client", "http://db", "db")
	e := engines["h2"]
	began := time.Now()
	if err := e.Restart(w.ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("a restart of dockerd took %s", time.Since(began).Round(time.Millisecond))
	w.reaches("h1", "client", "http://db", "db")
	w.reaches("h1", "client", "http://base", "db")
	w.reaches("h2", "db", "http://client", "client")

	// With live-restore containers go on without dockerd.
	if err := e.Stop(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(w.ctx, "--live-restore"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.StartWithout(w.ctx, "--live-restore"); err != nil {
			t.Error(err)
		}
	})
	w.reaches("h1", "client", "http://db", "db")
	address := w.ip("h2", "db", "appnet")
	for _, stop := range []struct {
		how string
		do  func() error
	}{
		{"stopped", func() error { return e.Stop(w.ctx) }},
		{"killed", func() error { return e.Kill(w.ctx) }},
	} {
		if err := stop.do(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if out, err := w.exec("h1", "client", "/labpeer", "patient", "get", "http://db"); err != nil || !strings.HasPrefix(out, "db ") {
				t.Errorf("with dockerd %s: %q, %v", stop.how, out, err)
			}
		}
		// The agent restarts while dockerd is away: nothing is forgotten.
		if err := mesh.SignalAgent(w.ctx, mesh.Host("h2"), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := mesh.StartAgent(w.ctx, mesh.Host("h2")); err != nil {
			t.Fatal(err)
		}
		w.reaches("h1", "client", "http://db", "db")
		if err := e.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.reaches("h1", "client", "http://db", "db")
		if now := w.ip("h2", "db", "appnet"); now != address {
			t.Errorf("with dockerd %s: db had %s and has %s", stop.how, address, now)
		}
	}
	w.web("h2", "later", "--network", "appnet")
	w.reaches("h1", "client", "http://later", "later")
}

// TestHostReboots: a host loses its power. Whichever comes up first, its containers are found again.
func TestHostReboots(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "client", "--network", "appnet")
	w.web("h2", "db", "--network", "appnet", "--restart", "always", "-p", "8080:80")
	w.reaches("h1", "client", "http://db", "db")
	h, e := mesh.Host("h2"), engines["h2"]
	reboot := func(parts ...func() error) {
		t.Helper()
		if err := mesh.Crash(w.ctx, h); err != nil {
			t.Fatal(err)
		}
		e.Crashed()
		within(t, 30*time.Second, "nobody is sent to the host that has crashed", func() error {
			out, err := w.exec("h1", "client", "/labpeer", "get", "http://db")
			if err == nil || !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "no such host") {
				return fmt.Errorf("db answers %q, or nobody: %w", out, err)
			}
			return nil
		})
		if err := mesh.Boot(w.ctx, h); err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			if err := part(); err != nil {
				t.Fatal(err)
			}
		}
		within(t, 30*time.Second, "db is found again", func() error {
			out, err := w.exec("h1", "client", "/labpeer", "get", "http://db")
			return answeredBy(out, err, []string{"db"})
		})
		w.reaches("h2", "db", "http://client", "client")
		w.answers("outside", "http://10.77.0.3:8080", "db")
	}
	agent := func() error { return mesh.StartAgent(w.ctx, h) }
	var last, counted time.Duration // that dockerd took to start, by both clocks
	dockerd := func() (err error) {
		last = took(func() { counted = counts(func() { err = e.Start(w.ctx) }) })
		t.Logf("dockerd started after %s", last.Round(time.Millisecond))
		return err
	}
	reboot(agent, dockerd)
	// As systemd does it, with an agent that comes late: Docker is answered from boot on, and does not wait.
	usual := last
	reboot(
		func() error {
			w.background("h2", w.unit("meshd-docker.service")...)
			within(t, 10*time.Second, "Docker's plugin is there", func() error {
				_, err := h.Run(w.ctx, "test", "-S", "/run/docker/plugins/meshd.sock")
				return err
			})
			return nil
		},
		dockerd,
		func() error {
			w.waitsNoLonger("dockerd's start before the agent's", counted, usual)
			return nil
		},
		agent,
	)
	// Docker first, and nothing that answers it: it waits for its plugin, but the agent that comes a moment later ends that.
	var started chan error
	reboot(
		func() error {
			started = make(chan error, 1)
			go func() { started <- dockerd() }()
			within(t, 10*time.Second, "dockerd runs, and the agent does not", func() error {
				_, err := h.Run(w.ctx, "pgrep", "dockerd")
				return err
			})
			return nil
		},
		agent,
		func() error { return <-started },
	)
}

// TestHostLeaves: a host with containers leaves the mesh, which says whom it takes the networks from. Nothing is left in what goes on, and in
// Docker only what is in use; the host may come back.
func TestHostLeaves(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.network("idle")
	w.web("h1", "client", "--network", "appnet")
	w.web("h3", "stays", "--network", "appnet")
	w.reaches("h1", "client", "http://stays", "stays")
	h := mesh.Host("h3")
	t.Cleanup(func() { w.comesBack(h) })
	out, err := mesh.Meshd(w.ctx, h, "leave")
	if err != nil {
		t.Fatal(err)
	}
	w.says(out, "has left", "stays")
	w.misses("h1", "client", "stays")
	networks := func(want string) {
		t.Helper()
		within(t, 5*time.Second, "Docker's networks of the mesh are: "+want, func() error {
			got, err := engines["h3"].Docker(w.ctx, "network", "ls", "--filter", "driver=meshd", "--format", "{{.Name}}")
			if err == nil && got != want {
				err = fmt.Errorf("they are: %s", got)
			}
			return err
		})
	}
	networks("appnet")
	inside, err := w.exec("h3", "stays", "ip", "-o", "link")
	if err != nil || strings.Contains(inside, "mesh0") || strings.Contains(inside, "gw0") {
		t.Errorf("the container that goes on has %s (%v)", inside, err)
	}
	w.says(w.refused("h3", "run", "--rm", "--network", "appnet", "peer", "true"), "no mesh")
	w.docker("h3", "rm", "-f", "stays")
	networks("")
	w.comesBack(h)
	w.mirrored("appnet")
	w.web("h3", "again", "--network", "appnet")
	w.reaches("h1", "client", "http://again", "again")
}

// comesBack has a host join the mesh of the first, unless it is in it.
func (w *world) comesBack(h *lab.Host) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := mesh.Meshd(ctx, h, "members"); err == nil {
		return
	}
	err := mesh.Join(ctx, h)
	if err == nil {
		err = lab.Within(ctx, 20*time.Second, func() error { return mesh.AllAlive(ctx, len(mesh.Members())) })
	}
	if err != nil {
		w.Error(err)
	}
}

// unit is the command that a unit of ours runs, with the tests' binary.
func (w *world) unit(name string) []string {
	w.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "configs", name))
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=/usr/bin/meshd "); ok {
			return append([]string{meshdBinary}, strings.Fields(command)...)
		}
	}
	w.Fatalf("%s starts no meshd", name)
	return nil
}
