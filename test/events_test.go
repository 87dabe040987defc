package test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Every host tells what happened on any, in order; who follows hears it as it happens, also after the agent was away; and what was
// mended on the host is told there.
func TestEvents(t *testing.T) {
	m := newMesh(t, 2)
	if err := m.Form(testContext(t)); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "story")
	h1, h2 := m.Host("h1"), m.Host("h2")
	follow := h1.Command(context.Background(), m.Binary, "events", "--follow")
	var heard lines
	follow.Stdout, follow.Stderr = &heard, &heard
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- follow.Wait() }()
	t.Cleanup(func() {
		_ = follow.Process.Kill() // it may have ended
		<-ended
	})
	hears := func(what string) {
		t.Helper()
		within(t, 20*time.Second, what, func() error {
			if text := heard.String(); !strings.Contains(text, what) {
				return fmt.Errorf("heard %q", text)
			}
			return nil
		})
	}
	web := serve(t, m, h2, "web", "--network", "story", "--service", "web", "--publish", "8098:80")
	hears("(service web) is on network story, on host h2, as " + web.IP)
	hears("port 8098/tcp of every host leads to service web.story")
	if _, err := h1.Run(testContext(t), "nft", "delete", "table", "inet", "meshd"); err != nil {
		t.Fatal(err)
	}
	hears("(ingress): made again")
	if err := m.SignalAgent(testContext(t), h1, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.StartAgent(testContext(t), h1); err != nil {
		t.Fatal(err)
	}
	hears("runs on this host; it sees 2 hosts alive")
	if err := web.stop(); err != nil {
		t.Fatal(err)
	}
	hears("(service web) has gone from network story, on host h2")
	all, err := m.Meshd(testContext(t), h2, "events")
	if err != nil {
		t.Fatal(err)
	}
	came, went := strings.Index(all, "as "+web.IP), strings.LastIndex(all, "has gone from network story")
	if came < 0 || went < came {
		t.Errorf("on h2: %s", all)
	}
}
