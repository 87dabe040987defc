package test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// complaint runs meshd and checks that it fails with a code, in one line on stderr that
// holds all of the words.
func complaint(t *testing.T, m *lab.Mesh, h *lab.Host, code int, words []string, args ...string) {
	t.Helper()
	_, err := m.Meshd(testContext(t), h, args...)
	checkComplaint(t, err, code, words, strings.Join(args, " "))
}

func checkComplaint(t *testing.T, err error, code int, words []string, what string) {
	t.Helper()
	if got := lab.ExitCode(err); got != code {
		t.Errorf("%s: exit code %d, want %d: %v", what, got, code, err)
		return
	}
	var failed *lab.CommandError
	if !errors.As(err, &failed) {
		t.Errorf("%s: %v", what, err)
		return
	}
	if code == 1 && strings.Count(failed.Stderr, "\n") != 0 {
		t.Errorf("%s: more than one line: %s", what, failed.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(failed.Stderr, word) {
			t.Errorf("%s: %q does not say %q", what, failed.Stderr, word)
		}
	}
}

func TestBadCommands(t *testing.T) {
	newNetwork(t, shared, "bad", "--subnet", "10.203.0.0/24")
	h := shared.Host("h1")
	serve(t, shared, h, "x", "--network", "bad", "--service", "x", "--publish", "8099:80")
	for _, try := range []struct {
		code  int
		words []string
		args  []string
	}{
		{1, []string{"nosuch", "network"}, []string{"run", "--network", "nosuch", "--", "true"}},
		{1, []string{"nosuch"}, []string{"network", "inspect", "nosuch"}},
		{1, []string{"nosuch"}, []string{"network", "rm", "nosuch"}},
		{1, []string{"nosuch"}, []string{"service", "inspect", "nosuch"}},
		{1, []string{"nosuch"}, []string{"detach", "nosuch"}},
		{1, []string{"in use"}, []string{"network", "rm", "bad"}},
		{1, []string{"bad"}, []string{"network", "create", "bad"}},
		{1, []string{"10.203.0.0/24", "overlap"}, []string{"network", "create", "half", "--subnet", "10.203.0.0/25"}},
		{1, []string{"10.77.0.0/24", "overlap"}, []string{"network", "create", "under", "--subnet", "10.77.0.0/16"}},
		{1, []string{"8099"}, []string{"run", "--network", "bad", "--publish", "8099:80", "--", "true"}},
		{1, []string{"already"}, []string{"init"}},
		{2, nil, []string{"network", "create"}},
		{2, nil, []string{"nonsense"}},
		{2, nil, []string{"members", "--nonsense"}},
		{2, nil, []string{"run", "--network", "bad", "--publish", "99999:80", "--", "true"}},
	} {
		complaint(t, shared, h, try.code, try.words, try.args...)
	}
	if _, err := shared.Meshd(testContext(t), h, "run", "--network", "bad", "--", "sh", "-c", "exit 42"); lab.ExitCode(err) != 42 {
		t.Errorf("run does not return its command's exit code: %v", err)
	}
	ctx := testContext(t)
	within(t, 2*time.Second, "nothing half-made is left", func() error {
		var rows []endpointRow
		if err := shared.MeshdJSON(ctx, h, &rows, "endpoint", "ls"); err != nil {
			return err
		}
		for _, row := range rows {
			if row.Network == "bad" && row.Service != "x" {
				return errors.New("endpoint " + row.Name)
			}
		}
		return nil
	})
}

// A port of the host that a process holds is not taken away from it.
func TestPortOfAProcessIsNotStolen(t *testing.T) {
	newNetwork(t, shared, "held")
	h := shared.Host("h2")
	server := h.Command(testContext(t), peerBinary, "serve", "hostprocess", "8123")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalChildren(server.Process.Pid, 15)
		_ = server.Wait() // ended by us
	})
	within(t, 30*time.Second, "the process answers", func() error {
		_, err := h.Run(testContext(t), peerBinary, "ask", "tcp", "127.0.0.1:8123")
		return err
	})
	complaint(t, shared, h, 1, []string{"8123"}, "run", "--network", "held", "--publish", "8123:80", "--", "true")
}

func TestBadTokens(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	for _, h := range m.Members() {
		if err := m.StartAgent(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	one, two := m.Host("h1"), m.Host("h2")
	before := hostState(t, two)
	complaint(t, m, two, 1, []string{"no mesh"}, "members")
	if _, err := m.Meshd(ctx, one, "init"); err != nil {
		t.Fatal(err)
	}
	token := func(args ...string) (string, string) {
		var made struct{ ID, Token string }
		if err := m.MeshdJSON(ctx, one, &made, append([]string{"token", "create"}, args...)...); err != nil {
			t.Fatal(err)
		}
		return made.ID, made.Token
	}
	id, revoked := token()
	if _, err := m.Meshd(ctx, one, "token", "revoke", id); err != nil {
		t.Fatal(err)
	}
	_, expired := token("--ttl", "1s")
	within(t, 30*time.Second, "the token has expired", func() error {
		var tokens []struct{ ID, State string }
		if err := m.MeshdJSON(ctx, one, &tokens, "token", "ls"); err != nil {
			return err
		}
		for _, t := range tokens {
			if t.State == "expired" {
				return nil
			}
		}
		return errors.New("not yet")
	})
	_, good := token("--uses", "1")
	for words, text := range map[string]string{
		"not a usable token": "nonsense",
		"cut off":            good[:len(good)-4],
		"expired":            expired,
		"taken back":         revoked,
	} {
		complaint(t, m, two, 1, []string{words}, "join", one.IP, "--token", text)
	}
	complaint(t, m, two, 1, []string{"10.77.0.99"}, "join", "10.77.0.99", "--token", good)
	complaint(t, m, two, 1, []string{"7946"}, "join", m.Host("outside").IP, "--token", good)
	sameState(t, before, hostState(t, two))
	if _, err := m.Meshd(ctx, two, "join", one.IP, "--token", good); err != nil {
		t.Fatal(err)
	}
}

// An agent that cannot start says why, in one line, and leaves nothing.
func TestAgentRefusesToStart(t *testing.T) {
	m := newMesh(t, 1)
	ctx := testContext(t)
	h := m.Host("h1")
	config := func(text string) string {
		path := filepath.Join(h.Dir, "etc", "meshd.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	agent := func(code int, words []string, args ...string) {
		t.Helper()
		refusal(t, m, h, code, words, args...)
	}
	agent(1, []string{"meshd.yaml", "wireguard.mood"}, "--config", config("wireguard:\n  mood: good\n"))
	agent(1, []string{"meshd.yaml", "wireguard.mode", "kernel", "userspace"}, "--config", config("wireguard:\n  mode: best\n"))
	agent(1, []string{"nosuch.yaml"}, "--config", "/etc/meshd/nosuch.yaml")

	holder := h.Command(ctx, peerBinary, "serve", "holder", "7946")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "the port is taken", func() error {
		_, err := h.Run(ctx, peerBinary, "ask", "tcp", "127.0.0.1:7946")
		return err
	})
	agent(1, []string{"7946", "labpeer", "join.listen"})
	_ = signalChildren(holder.Process.Pid, 15)
	_ = holder.Wait() // ended by us

	if _, err := h.Run(ctx, "setpriv", "--reuid=65534", "--clear-groups", m.Binary, "agent"); err == nil {
		t.Error("the agent runs without root")
	} else {
		checkComplaint(t, err, 1, []string{"root"}, "agent without root")
	}
}

func TestOccupiedWireGuardPort(t *testing.T) {
	m := newMesh(t, 1)
	ctx := testContext(t)
	h := m.Host("h1")
	if err := m.StartAgent(ctx, h); err != nil {
		t.Fatal(err)
	}
	before := hostState(t, h)
	holder := h.Command(ctx, peerBinary, "serve", "holder", "51820")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "the port is taken", func() error {
		_, err := h.Run(ctx, peerBinary, "ask", "udp", "127.0.0.1:51820")
		return err
	})
	refusal(t, m, h, 1, []string{"/var/lib/meshd", "in use", "two agents"})
	refusal(t, m, h, 1, []string{"another meshd agent runs there"}, "--state-dir", "/var/lib/second")
	refusal(t, m, h, 1, []string{"7946", "join.listen"}, "--state-dir", "/var/lib/second", "--runtime-dir", "/run/second")
	complaint(t, m, h, 1, []string{"51820", "labpeer", "wireguard.listen_port"}, "init")
	_ = signalChildren(holder.Process.Pid, 15)
	_ = holder.Wait() // ended by us
	sameState(t, before, hostState(t, h))
	if _, err := m.Meshd(ctx, h, "init"); err != nil {
		t.Errorf("with the port free again: %v", err)
	}
}

func TestNoTUN(t *testing.T) {
	m := newMesh(t, 1)
	ctx := testContext(t)
	h := m.Host("h1")
	// The host's /dev/net is its own: an empty one.
	if _, err := h.Run(ctx, "mount", "-t", "tmpfs", "none", "/dev/net"); err != nil {
		t.Fatal(err)
	}
	if err := m.StartAgent(ctx, h, "--wireguard-mode", "userspace"); err != nil {
		t.Fatal(err)
	}
	complaint(t, m, h, 1, []string{"/dev/net/tun", "modprobe tun"}, "init")
}
