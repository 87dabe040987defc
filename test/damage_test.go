package test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// refusal runs an agent that must not start, and checks the last line that it says.
func refusal(t *testing.T, m *lab.Mesh, h *lab.Host, code int, words []string, args ...string) {
	t.Helper()
	_, err := h.Run(testContext(t), "timeout", append([]string{"60", m.Binary, "agent"}, args...)...)
	var failed *lab.CommandError
	if errors.As(err, &failed) {
		lines := strings.Split(failed.Stderr, "\n")
		failed.Stderr = lines[len(lines)-1] // the log comes before
	}
	checkComplaint(t, err, code, words, "agent "+strings.Join(args, " "))
}

// A damaged file of the state directory is named, with advice; and the advice helps.
func TestDamagedState(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	h := m.Host("h2")
	if err := m.StartAgent(ctx, h); err != nil {
		t.Fatal(err)
	}
	before := hostState(t, h)
	if err := m.SignalAgent(ctx, h, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(h.Dir, "var-lib", "meshd")
	stop := func() {
		t.Helper()
		if err := m.SignalAgent(ctx, h, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	comesBack := func(what string) {
		t.Helper()
		if err := m.StartAgent(ctx, h); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		within(t, 10*time.Second, "with "+what+" both are alive", func() error { return m.AllAlive(ctx, 2) })
		stop()
	}
	damages := map[string]func(path string, whole []byte) error{
		"empty":       func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"cut off":     func(path string, whole []byte) error { return os.WriteFile(path, whole[:len(whole)/2], 0o600) },
		"garbage":     func(path string, _ []byte) error { return os.WriteFile(path, []byte("\xff\x00 garbage"), 0o600) },
		"a directory": func(path string, _ []byte) error { return os.Mkdir(path, 0o700) },
	}
	stop()
	for _, name := range []string{"catalog", "endpoints", "epoch", "membership.json", "identity.json"} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, damage := range damages {
			if err := errors.Join(os.RemoveAll(path), damage(path, whole)); err != nil {
				t.Fatal(err)
			}
			refusal(t, m, h, 1, []string{"/var/lib/meshd/" + name, "move"})
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if name != "identity.json" {
			comesBack("no " + name)
			continue
		}
		refusal(t, m, h, 1, []string{"identity.json", "missing", "move /var/lib/meshd away"})
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Run(ctx, "sh", "-c", "rm /var/lib/meshd/catalog*"); err != nil {
			t.Fatal(err)
		}
		refusal(t, m, h, 1, []string{"/var/lib/meshd/catalog", "move /var/lib/meshd away"})
	}

	// Without its identity the host is nobody; what it was can be removed all the same.
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := m.StartAgent(ctx, h); err != nil {
		t.Fatal(err)
	}
	complaint(t, m, h, 1, []string{"meshd leave"}, "status")
	if _, err := m.Meshd(ctx, h, "leave"); err != nil {
		t.Fatal(err)
	}
	sameState(t, before, hostState(t, h))
	if err := m.Join(ctx, h); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "it is alive as a new node", func() error { return m.AllAlive(ctx, 2) })
}

// A state directory that cannot be used is named, with the setting to change.
func TestUselessStateDirectory(t *testing.T) {
	m := newMesh(t, 1)
	ctx := testContext(t)
	h := m.Host("h1")
	const setup = `set -e
		mkdir /var/lib/open /var/lib/other /var/lib/full /var/lib/read-only; touch /var/lib/open/x /var/lib/other/x /var/lib/file
		chmod 755 /var/lib/open; chmod 700 /var/lib/other; chown 65534 /var/lib/other
		mount -t tmpfs -o ro,mode=700 none /var/lib/read-only
		mount -t tmpfs -o size=16k,mode=700 none /var/lib/full`
	if out, err := h.Run(ctx, "sh", "-c", setup); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for path, words := range map[string][]string{
		"open":      {"others may open it", "chmod 700"},
		"other":     {"belongs to user 65534", "chown 0"},
		"file":      {"not a directory", "state_dir"},
		"read-only": {"read-only", "state_dir"},
	} {
		refusal(t, m, h, 1, append(words, "/var/lib/"+path), "--state-dir", "/var/lib/"+path)
	}
	refusal(t, m, h, 1, []string{"/var/lib/file", "runtime_dir"}, "--runtime-dir", "/var/lib/file")

	// On a full disk nothing begins, and nothing is half begun.
	if err := m.StartAgent(ctx, h, "--state-dir", "/var/lib/full"); err != nil {
		t.Fatal(err)
	}
	before := hostState(t, h)
	if out, err := h.Run(ctx, "sh", "-c", "head -c 16384 /dev/zero > /var/lib/full/fill 2>/dev/null; true"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	complaint(t, m, h, 1, []string{"no space left", "room"}, "init")
	sameState(t, before, hostState(t, h))
	// With room for the keys only, it ends half-way, and is undone.
	if out, err := h.Run(ctx, "sh", "-c", "head -c 8192 /dev/zero > /var/lib/full/fill"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	complaint(t, m, h, 1, []string{"no space left", "room"}, "init")
	sameState(t, before, hostState(t, h))
	if out, err := h.Run(ctx, "sh", "-c", "rm /var/lib/full/fill; mount -o remount,size=1m /var/lib/full; ls -A /var/lib/full"); err != nil || strings.TrimSpace(out) != "lock" {
		t.Errorf("in the state directory: %s, %v", out, err)
	}
	if _, err := m.Meshd(ctx, h, "init"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// sameState fails for each thing on a host that is not as it was.
func sameState(t *testing.T, before, after map[string]string) {
	t.Helper()
	for what := range before {
		if before[what] != after[what] {
			t.Errorf("%s: left behind:\n%s\nwant:\n%s", what, after[what], before[what])
		}
	}
}
