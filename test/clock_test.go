package test

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// A host whose clock is wrong by an hour works like any other, and is told. One whose clock is wrong by more than a day is
// not let in, and is told why.
func TestHostsWithAWrongClock(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	h1, h2 := m.Host("h1"), m.Host("h2")
	token := foundOn(t, m, h1)
	join := func(clock string) (string, error) {
		t.Helper()
		var err error
		if m.Binary, err = buildWith(ctx, "github.com/meshd/meshd/agent.clockError", clock); err != nil {
			t.Fatal(err)
		}
		if err := m.StartAgent(ctx, h2); err != nil {
			t.Fatal(err)
		}
		return m.Meshd(ctx, h2, "join", h1.IP, "--token", token)
	}

	const why = "the clocks differ: here it is "
	if said, err := join("-720h"); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("a month behind: %s, %v, want %s…", said, err, why)
	}
	if err := m.SignalAgent(ctx, h2, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	const note = "this host's clock is 1h0m0s ahead of that of h1"
	if said, err := join("1h"); err != nil || !strings.Contains(said, "Only: "+note) {
		t.Fatalf("an hour ahead: %s, %v", said, err)
	}
	within(t, 10*time.Second, "both are alive", func() error { return m.AllAlive(ctx, 2) })
	status, err := m.Meshd(ctx, h2, "status") // it fails, as something is wrong
	if err == nil || !strings.Contains(status, note) {
		t.Errorf("status of h2: %s, %v", status, err)
	}
	newNetworkIn(t, m, "appnet")
	serve(t, m, h2, "ahead", "--network", "appnet", "--service", "web")
	within(t, 10*time.Second, "h1 reaches what runs on h2", func() error {
		_, err := inside(t, m, h1, "appnet", peerBinary, "ask", "tcp", "web:80")
		return err
	})
}
