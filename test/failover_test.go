package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// A host that vanishes without a word leaves every virtual IP and published port within three seconds, and what
// was connected to it is reset; when it is back, it is in rotation within two.
func TestHostDiesWithoutGoodbye(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	for _, host := range []string{"h2", "h3"} {
		serve(t, m, m.Host(host), host, "--network", "appnet", "--service", "web", "--publish", "8080:80", "--publish", "8080:80/udp")
	}
	h1, outside := m.Host("h1"), m.Host("outside")
	client := start(t, m, h1, []string{"--network", "appnet"}, "sleep", "infinity")
	var service struct{ VIP string }
	within(t, 5*time.Second, "h1 knows the service", func() error { return m.MeshdJSON(ctx, h1, &service, "service", "inspect", "web") })
	// Ways to reach the service: in each, an asker that returns who answered.
	ask := map[string]func(network string, count int) (map[string]int, error){
		"by virtual IP": func(network string, count int) (map[string]int, error) {
			out, err := endpointExec(t, h1, client, peerBinary, "ask", network, service.VIP+":80", fmt.Sprint(count))
			return answers(out), err
		},
		"by published port": func(network string, count int) (map[string]int, error) {
			out, err := outside.Run(ctx, peerBinary, "ask", network, h1.IP+":8080", fmt.Sprint(count))
			return answers(out), err
		},
	}
	both := func() error {
		for way, ask := range ask {
			for _, network := range []string{"tcp", "udp"} {
				if got, err := ask(network, 40); err != nil || got["h2"] == 0 || got["h3"] == 0 {
					return fmt.Errorf("%s, %s: %v, %w", way, network, got, err)
				}
			}
		}
		return nil
	}
	within(t, 10*time.Second, "both replicas answer", both)

	held := []*heldConnections{
		hold(t, m, "by virtual IP", h1, "nsenter", "--net=/run/meshd/endpoints/"+client.ID, peerBinary, "hold", service.VIP+":80"),
		hold(t, m, "by published port", outside, peerBinary, "hold", h1.IP+":8080"),
	}
	cut := func(state string) lab.Clock {
		if _, err := m.Wire.Run(ctx, "ip", "link", "set", "p-h3", state); err != nil {
			t.Fatal(err)
		}
		return lab.NewClock()
	}
	since := cut("down")
	for _, h := range held {
		h.awaitReset(t, since)
	}
	passed(t, since, 3*time.Second)
	for way, ask := range ask {
		for _, network := range []string{"tcp", "udp"} {
			if got, err := ask(network, 40); err != nil || got["h3"] != 0 {
				t.Errorf("three seconds after h3 went, %s, %s: %v, %v", way, network, got, err)
			}
		}
	}
	for _, h := range held {
		h.mustStand(t)
	}
	cut("up")
	within(t, 2*time.Second, "h3 is back in rotation", both)
}

// passed waits until a clock has gone on so far: not for something, but for the promise of what holds from then on.
func passed(t *testing.T, since lab.Clock, limit time.Duration) {
	t.Helper()
	within(t, limit+time.Minute, limit.String()+" have passed", func() error {
		if at := since.Elapsed(); at < limit {
			return fmt.Errorf("it is %s", at)
		}
		return nil
	})
}

// heldConnections are connections to a service, by the replica that they reached.
type heldConnections struct {
	what string

	mu    sync.Mutex // guards all below
	ended map[string]int
	open  map[string]int
}

// lineWriter calls fn with the first line.
type lineWriter struct {
	text string
	fn   func(line string)
}

func (w *lineWriter) Write(b []byte) (int, error) {
	before := strings.Contains(w.text, "\n")
	w.text += string(b)
	if line, _, ok := strings.Cut(w.text, "\n"); ok && !before {
		w.fn(line)
	}
	return len(b), nil
}

// standing is how many connections stand: so many that among two replicas one without any is once in ten million times.
const standing = 24

// hold opens connections, of which each replica has some.
func hold(t *testing.T, m *lab.Mesh, what string, from *lab.Host, command ...string) *heldConnections {
	t.Helper()
	h := &heldConnections{what: what, ended: map[string]int{}, open: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for range standing {
		var replica string
		cmd := from.Command(ctx, command[0], command[1:]...)
		cmd.Stdout = &lineWriter{fn: func(line string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			replica, _, _ = strings.Cut(line, " ")
			h.open[replica]++
		}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = cmd.Wait() // that it ends is the news
			h.mu.Lock()
			defer h.mu.Unlock()
			h.open[replica]--
			h.ended[replica]++
		}()
	}
	within(t, 30*time.Second, "connections stand "+what, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.open["h2"]+h.open["h3"] != standing || h.open["h3"] == 0 {
			return fmt.Errorf("%v open, %v ended", h.open, h.ended)
		}
		return nil
	})
	return h
}

// awaitReset waits until all connections to h3 have ended, at most three seconds after it went.
func (h *heldConnections) awaitReset(t *testing.T, since lab.Clock) {
	t.Helper()
	within(t, 3*time.Second-min(since.Elapsed(), 3*time.Second), "connections to h3 have ended "+h.what, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.open["h3"] > 0 {
			return errors.New("they have not")
		}
		return nil
	})
}

// mustStand fails if a connection to h2 has ended.
func (h *heldConnections) mustStand(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended["h2"] > 0 {
		t.Errorf("%s: %d connections to a healthy replica ended", h.what, h.ended["h2"])
	}
}
