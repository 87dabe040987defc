package test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// lines is what a command has printed so far.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// joining is a `meshd join` without a token that waits.
type joining struct {
	code   string
	output *lines
	pid    int // of nsenter
	ended  chan error
}

func joinWithoutToken(t *testing.T, m *lab.Mesh, h *lab.Host, address string) *joining {
	t.Helper()
	j := &joining{output: &lines{}, ended: make(chan error, 1)}
	cmd := h.Command(testContext(t), m.Binary, "join", address)
	cmd.Stdout, cmd.Stderr = j.output, j.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	j.pid = cmd.Process.Pid
	go func() { j.ended <- cmd.Wait() }()
	within(t, 30*time.Second, h.Name+" shows a pairing code", func() error {
		_, after, found := strings.Cut(j.output.String(), "Pairing code: ")
		if j.code, _, _ = strings.Cut(after, "\n"); !found || j.code == "" {
			return errors.New(j.output.String())
		}
		return nil
	})
	return j
}

type waitingRow struct{ Name, Code, Address string }

func waitingAt(t *testing.T, m *lab.Mesh, h *lab.Host) (rows []waitingRow, err error) {
	t.Helper()
	err = m.MeshdJSON(testContext(t), h, &rows, "admit")
	return rows, err
}

// A host joins without a token: who compares the codes lets it in.
func TestPairing(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	for _, h := range m.Members() {
		if err := m.StartAgent(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	one, two, three := m.Host("h1"), m.Host("h2"), m.Host("h3")
	complaint(t, m, two, 1, []string{"belongs to no mesh yet"}, "join", one.IP)
	if _, err := m.Meshd(ctx, one, "init"); err != nil {
		t.Fatal(err)
	}
	before := hostState(t, two)

	// One that gives up leaves nothing on either side.
	j := joinWithoutToken(t, m, two, one.IP)
	if rows, err := waitingAt(t, m, one); err != nil || len(rows) != 1 || rows[0] != (waitingRow{"h2", j.code, two.IP}) {
		t.Fatalf("h1 shows %+v, h2 shows %s, %v", rows, j.code, err)
	}
	if err := signalChildren(j.pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-j.ended
	within(t, 3*time.Second, "nobody waits", func() error {
		if rows, err := waitingAt(t, m, one); err != nil || len(rows) != 0 {
			return fmt.Errorf("%+v, %w", rows, err)
		}
		return nil
	})
	sameState(t, before, hostState(t, two))

	j = joinWithoutToken(t, m, two, one.IP)
	complaint(t, m, one, 1, []string{"0000-0000", "somebody sits between"}, "admit", "h2", "--code", "0000-0000")
	complaint(t, m, one, 1, []string{"h9", "meshd join"}, "admit", "h9", "--code", j.code)
	complaint(t, m, one, 2, []string{"--code is missing"}, "admit", "h2")
	if _, err := m.Meshd(ctx, one, "admit", "h2", "--code", j.code); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-j.ended:
		if err != nil || !strings.Contains(j.output.String(), "h2 has joined the mesh") {
			t.Fatalf("%v: %s", err, j.output)
		}
	case <-ctx.Done():
		t.Fatalf("h2 was let in and does not join: %s", j.output)
	}
	complaint(t, m, two, 1, []string{"no signer", "h1"}, "admit")
	j = joinWithoutToken(t, m, three, "["+two.IP6+"]") // which is none, and leads to the one that is
	if _, err := m.Meshd(ctx, one, "admit", "h3", "--code", j.code); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "all are alive", func() error { return m.AllAlive(ctx, 3) })
	// What let them in lets nobody else in.
	var tokens []struct{ State string }
	if err := m.MeshdJSON(ctx, one, &tokens, "token", "ls"); err != nil {
		t.Fatal(err)
	}
	valid := 0
	for _, token := range tokens {
		if token.State == "valid" {
			valid++
		}
	}
	if valid != 1 { // init's
		t.Errorf("%d tokens are valid: %+v", valid, tokens)
	}
}
