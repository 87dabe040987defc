package docker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestStandIn: the Engine is answered at once, whether or not there is an agent.
func TestStandIn(t *testing.T) {
	t.Cleanup(func() { signal.Reset(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE) }) // a stand-in ignores them
	dir := t.TempDir()
	path, agent := filepath.Join(dir, "p.sock"), filepath.Join(dir, "a.sock")
	run := func() <-chan error {
		ended := make(chan error, 1)
		go func() {
			ended <- RunStandIn(context.Background(), "1", []string{"--listen", path, "--agent", agent}, func() error { return nil })
		}()
		return ended
	}
	first := run()
	until(t, func() string {
		if have, err := askWho(t.Context(), path); err != nil || have != (who{agent, "1"}) {
			return "the stand-in does not answer"
		}
		return ""
	})
	ask := func(method string) string {
		t.Helper()
		resp, err := dialing(path).Post("http://docker"+method, contentType, strings.NewReader(`{"NetworkID":"n"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		return strings.TrimSpace(string(data))
	}
	for method, want := range map[string]string{
		"/Plugin.Activate":              `{"Implements":["NetworkDriver","IpamDriver"]}`,
		"/NetworkDriver.Leave":          `{}`,
		"/NetworkDriver.DeleteEndpoint": `{}`,
		"/NetworkDriver.DeleteNetwork":  `{}`,
		"/IpamDriver.ReleaseAddress":    `{}`,
		"/NetworkDriver.CreateEndpoint": `"Err":"the agent of meshd does not run on this host: start it`,
		"/NetworkDriver.Join":           `"Err":"the agent of meshd does not run`,
		"/IpamDriver.RequestAddress":    `"Error":"the agent of meshd does not run`,
	} {
		if got := ask(method); !strings.Contains(got, want) {
			t.Errorf("without an agent %s is answered %s, want %s", method, got, want)
		}
	}
	listener, err := net.Listen("unix", agent)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.URL.Path+" "+string(body))
	})}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	if got, want := ask("/NetworkDriver.Join"), `/NetworkDriver.Join {"NetworkID":"n"}`; got != want {
		t.Errorf("with an agent: %s, want %s", got, want)
	}

	if err := EnsureStandIn(t.Context(), path, "/another/agent", "1", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), agent) {
		t.Errorf("a second agent took the first one's socket: %v", err)
	}
	second := run() // as after an upgrade
	if err := <-first; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the first took its successor's socket away: %v", err)
	}
	EndStandIn(t.Context(), path, "/somebody/else's")
	if _, err := askWho(t.Context(), path); err != nil {
		t.Errorf("somebody else ended it: %v", err)
	}
	EndStandIn(t.Context(), path, agent)
	if err := <-second; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("left: %s (%v)", path, err)
	}
}
