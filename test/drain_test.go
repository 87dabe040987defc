package test

import (
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

// A replica that is drained gets nothing new and loses nothing that it has.
func TestDrain(t *testing.T) {
	newNetwork(t, shared, "sink")
	ctx := testContext(t)
	h1, outside := shared.Host("h1"), shared.Host("outside")
	flags := []string{"--network", "sink", "--service", "svc", "--publish", "8095:80"}
	serve(t, shared, shared.Host("h2"), "h2", flags...)
	leaving := serve(t, shared, shared.Host("h3"), "h3", flags...)
	client := start(t, shared, h1, []string{"--network", "sink"}, "sleep", "infinity")
	vip := serviceVIP(t, "svc.sink") + ":80"
	held := []*heldConnections{
		hold(t, shared, "by virtual IP", h1, "nsenter", "--net=/run/meshd/endpoints/"+client.ID, peerBinary, "hold", vip),
		hold(t, shared, "by published port", outside, peerBinary, "hold", h1.IP+":8095"),
	}
	if _, err := shared.Meshd(ctx, h1, "service", "drain", leaving.ID); err != nil { // on another host than the endpoint's
		t.Fatal(err)
	}
	within(t, 2*time.Second, "everybody knows", func() error {
		for _, h := range shared.Members() {
			if got, _, err := healthOf(t, h, leaving.ID); err != nil || got != "draining" {
				return fmt.Errorf("on %s it is %s, %w", h.Name, got, err)
			}
		}
		out, err := endpointExec(t, h1, client, peerBinary, "ask", "tcp", vip, "60")
		published, err2 := outside.Run(ctx, peerBinary, "ask", "tcp", h1.IP+":8095", "60")
		if err != nil || err2 != nil || answers(out)["h3"]+answers(published)["h3"] > 0 {
			return fmt.Errorf("new connections: %v, %v, %w", answers(out), answers(published), err)
		}
		return nil
	})
	for _, h := range held {
		h.mu.Lock()
		if h.ended["h2"]+h.ended["h3"] > 0 {
			t.Errorf("%s: connections ended: %v", h.what, h.ended)
		}
		h.mu.Unlock()
	}
}

// Also when nobody is left whom new connections could go to, those that stand go on.
func TestDrainOfTheOnlyReplica(t *testing.T) {
	newNetwork(t, shared, "sole")
	h1, h2 := shared.Host("h1"), shared.Host("h2")
	only := serve(t, shared, h2, "h2", "--network", "sole", "--service", "svc")
	client := start(t, shared, h1, []string{"--network", "sole"}, "sleep", "infinity")
	vip := serviceVIP(t, "svc.sole") + ":80"
	talk := talkTo(t, h1, client, vip)
	talk.await(t, 5)
	if _, err := shared.Meshd(testContext(t), h2, "service", "drain", only.ID); err != nil {
		t.Fatal(err)
	}
	within(t, 2*time.Second, "new connections are refused", func() error {
		if out, err := endpointExec(t, h1, client, peerBinary, "ask", "tcp", vip); err == nil {
			return fmt.Errorf("%s answered", out)
		}
		return nil
	})
	talk.await(t, 20)
	if err := talk.stop(); err != nil {
		t.Errorf("a connection to the only replica, which drains: %v", err)
	}
}

// An endpoint that was drained by mistake comes back; one that was given a time loses what it has after that, everywhere.
func TestUndrainAndLimit(t *testing.T) {
	newNetwork(t, shared, "limit")
	ctx := testContext(t)
	h1, outside := shared.Host("h1"), shared.Host("outside")
	flags := []string{"--network", "limit", "--service", "svc", "--publish", "8096:80"}
	serve(t, shared, shared.Host("h2"), "h2", flags...)
	leaving := serve(t, shared, shared.Host("h3"), "h3", flags...)
	client := start(t, shared, h1, []string{"--network", "limit"}, "sleep", "infinity")
	vip := serviceVIP(t, "svc.limit") + ":80"
	service := func(host string, args ...string) {
		t.Helper()
		if _, err := shared.Meshd(ctx, shared.Host(host), append([]string{"service"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	answering := func() map[string]int {
		t.Helper()
		out, err := endpointExec(t, h1, client, peerBinary, "ask", "tcp", vip, "40")
		if err != nil {
			t.Fatal(err)
		}
		return answers(out)
	}
	service("h3", "drain", leaving.ID)
	if got := answering(); got["h3"] > 0 { // drain has returned, so everybody acts on it
		t.Errorf("new connections after draining: %v", got)
	}
	service("h2", "undrain", leaving.ID[:10])
	if got := answering(); got["h3"] == 0 {
		t.Errorf("new connections after undraining: %v", got)
	}
	held := []*heldConnections{
		hold(t, shared, "by virtual IP", h1, "nsenter", "--net=/run/meshd/endpoints/"+client.ID, peerBinary, "hold", vip),
		hold(t, shared, "by published port", outside, peerBinary, "hold", h1.IP+":8096"),
	}
	service("h1", "drain", leaving.ID, "--limit", "2s", "--wait")
	for _, h := range held {
		within(t, 10*time.Second, "what stood after the limit has ended "+h.what, func() error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.open["h3"] > 0 {
				return fmt.Errorf("%d still stand", h.open["h3"])
			}
			return nil
		})
		h.mustStand(t)
	}
	if health, reason, err := healthOf(t, h1, leaving.ID); err != nil || reason == "" {
		t.Errorf("the endpoint is %s (%s), %v", health, reason, err)
	}
}

// Under a steady load of short requests, by virtual IP and by the published port of every host, all replicas are
// replaced one after the other, and no request is lost.
func TestRollingReplacementLosesNothing(t *testing.T) {
	newNetwork(t, shared, "roll")
	flags := []string{"--network", "roll", "--service", "svc", "--publish", "8097:80", "--health", "http:80/health", "--health-interval", "100ms", "--health-timeout", "30s"}
	replica := func(host, name string) *Running {
		t.Helper()
		return start(t, shared, shared.Host(host), flags, peerBinary, "web", name, "80")
	}
	old := map[string]*Running{}
	for _, h := range []string{"h1", "h2", "h3"} {
		old[h] = replica(h, "old-"+h)
	}
	h1 := shared.Host("h1")
	client := start(t, shared, h1, []string{"--network", "roll"}, "sleep", "infinity")
	loads := []*requestLoad{
		loadFrom(t, h1, "by virtual IP", []string{"nsenter", "--net=/run/meshd/endpoints/" + client.ID}, "http://"+serviceVIP(t, "svc.roll")+"/"),
		loadFrom(t, shared.Host("outside"), "by published ports", nil,
			"http://10.77.0.1:8097/", "http://10.77.0.2:8097/", "http://10.77.0.3:8097/", "http://[fd00:77::2]:8097/"),
	}
	for _, h := range []string{"h1", "h2", "h3"} {
		fresh := replica(h, "new-"+h)
		for _, l := range loads {
			l.awaitAnswersOf(t, "new-"+h)
		}
		if err := old[h].stop(); err != nil { // SIGTERM, and nothing before
			t.Fatal(err)
		}
		_ = fresh
	}
	for _, l := range loads {
		l.stop(t)
	}
}

// requestLoad is a labpeer that asks all the time.
type requestLoad struct {
	what, file string
	cancel     func() error
	ended      chan error
	output     *strings.Builder
}

func loadFrom(t *testing.T, from *lab.Host, what string, prefix []string, urls ...string) *requestLoad {
	t.Helper()
	l := &requestLoad{what: what, file: filepath.Join(t.TempDir(), "answers"), ended: make(chan error, 1), output: &strings.Builder{}}
	command := append(append(append([]string{}, prefix...), peerBinary, "requests", l.file), urls...)
	cmd := from.Command(testContext(t), command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = l.output, l.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.ended <- cmd.Wait() }()
	l.cancel = func() error { return signalChildren(cmd.Process.Pid, syscall.SIGTERM) }
	t.Cleanup(func() { _ = l.cancel() }) // it has ended already if all went well
	return l
}

// awaitAnswersOf waits until a replica has answered.
func (l *requestLoad) awaitAnswersOf(t *testing.T, name string) {
	t.Helper()
	within(t, 15*time.Second, name+" answers "+l.what, func() error {
		select {
		case err := <-l.ended:
			l.ended <- err
			t.Fatalf("%s: %v: %s", l.what, err, l.output)
		default:
		}
		data, err := os.ReadFile(l.file)
		if err == nil && !strings.Contains(string(data), name) {
			err = errors.New("not yet")
		}
		return err
	})
}

// stop ends the load, none of whose requests may have failed.
func (l *requestLoad) stop(t *testing.T) {
	t.Helper()
	if err := l.cancel(); err != nil {
		t.Error(err)
	}
	if err := <-l.ended; err != nil {
		t.Errorf("%s: %v: %s", l.what, err, l.output)
	}
	t.Logf("%s: %s", l.what, strings.TrimSpace(l.output.String()))
}

// A host that leaves is sent nothing any more before it goes, and finishes what it has: no request is lost.
func TestLeaveLosesNothing(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	flags := []string{"--network", "appnet", "--service", "svc", "--publish", "8080:80", "--health", "http:80/health", "--health-interval", "100ms", "--health-timeout", "30s"}
	for _, h := range []string{"h2", "h3"} {
		start(t, m, m.Host(h), flags, peerBinary, "web", h, "80")
	}
	h1 := m.Host("h1")
	client := start(t, m, h1, []string{"--network", "appnet"}, "sleep", "infinity")
	loads := []*requestLoad{
		loadFrom(t, h1, "by virtual IP", []string{"nsenter", "--net=/run/meshd/endpoints/" + client.ID}, "http://"+vipOf(t, m, "svc")+"/"),
		loadFrom(t, m.Host("outside"), "by published ports", nil, "http://10.77.0.1:8080/", "http://10.77.0.2:8080/"),
	}
	for _, l := range loads {
		l.awaitAnswersOf(t, "h2")
		l.awaitAnswersOf(t, "h3")
	}
	if _, err := m.Meshd(ctx, m.Host("h3"), "leave"); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "the others know", func() error {
		out, err := m.Meshd(ctx, h1, "service", "inspect", "svc")
		if err == nil && strings.Contains(out, "h3") {
			err = errors.New(out)
		}
		return err
	})
	for _, l := range loads {
		l.stop(t)
	}
}
