package test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// TestHalfway is what happens when something ends while something else is under way.
func TestHalfway(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	h1, h2 := m.Host("h1"), m.Host("h2")
	server := serve(t, m, h1, "one", "--network", "appnet")
	stays := start(t, m, h2, []string{"--network", "appnet"}, "sleep", "infinity")

	t.Run("a process ends while the agent is away", func(t *testing.T) {
		r := start(t, m, h2, []string{"--network", "appnet", "--service", "short"}, "sleep", "infinity")
		if err := m.SignalAgent(ctx, h2, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := m.StartAgent(ctx, h2); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "the endpoint is gone everywhere", func() error {
			for _, h := range m.Members() {
				var rows []endpointRow
				if err := m.MeshdJSON(ctx, h, &rows, "endpoint", "ls"); err != nil {
					return err
				}
				for _, row := range rows {
					if row.ID == r.ID {
						return fmt.Errorf("%s still lists it", h.Name)
					}
				}
			}
			return sameNamespaces(t, h2, stays.ID)
		})
	})

	t.Run("the host gets another address", func(t *testing.T) {
		const other = "10.77.0.142"
		device, err := h2.Run(ctx, "sh", "-c", "ip -o addr show to "+h2.IP+" | cut -d' ' -f2")
		if err != nil {
			t.Fatal(err)
		}
		change := fmt.Sprintf("ip addr del %s/24 dev %[2]s && ip addr add %[3]s/24 dev %[2]s", h2.IP, strings.TrimSpace(device), other)
		if out, err := h2.Run(ctx, "sh", "-c", change); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		within(t, 20*time.Second, "the others are told the new address", func() error {
			var answer string
			answer, err := h1.Run(ctx, "nsenter", "--net=/run/meshd/endpoints/"+server.ID, "dig", "+short", "@127.0.0.11", "h2.node.mesh.internal")
			if err != nil || !strings.Contains(answer, other) || strings.Contains(answer, h2.IP+"\n") {
				return fmt.Errorf("h2.node is %q, %v", answer, err)
			}
			return nil
		})
		within(t, 30*time.Second, "endpoints reach each other again", func() error {
			_, err := endpointExec(t, h2, stays, peerBinary, "ask", "tcp", server.IP+":80")
			return err
		})
	})

	// A new network's first address needs the other host's agreement, which does not come.
	if _, err := h1.Run(ctx, "ip", "netns", "add", "mine"); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"cancelled", "left"} {
		newNetworkIn(t, m, network)
	}
	// The other host is alive all the same, or it would not be asked.
	inMesh := func(t *testing.T, script string) {
		t.Helper()
		if out, err := h2.Run(ctx, "nsenter", "--net=/run/meshd/netns", "sh", "-ec", script); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const catalogs = "7947"
	deafen := func(t *testing.T) {
		t.Helper()
		inMesh(t, "nft add table inet deaf; nft add chain inet deaf in '{ type filter hook input priority 0; }';"+
			"nft add rule inet deaf in tcp dport "+catalogs+" drop; nft add rule inet deaf in tcp sport "+catalogs+" drop")
		t.Cleanup(func() { inMesh(t, "nft delete table inet deaf") })
	}

	t.Run("who attaches goes away", func(t *testing.T) {
		deafen(t)
		attach, _ := attachSlowly(t, m, h1, "cancelled", server.ID)
		if err := signalChildren(attach.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		within(t, 3*time.Second, "nothing is left of it", func() error {
			links, err := h1.Run(ctx, "ip", "-n", "mine", "-br", "link")
			if err != nil || strings.Contains(links, "eth0") || strings.Contains(links, "gw0") {
				return fmt.Errorf("in the namespace: %s, %v", links, err)
			}
			return sameNamespaces(t, h1, server.ID)
		})
	})
	within(t, 20*time.Second, "both are alive", func() error { return m.AllAlive(ctx, 2) })

	t.Run("the host leaves during an attach", func(t *testing.T) {
		deafen(t)
		_, ended := attachSlowly(t, m, h1, "left", server.ID)
		if _, err := m.Meshd(ctx, h1, "leave"); err != nil {
			t.Fatal(err)
		}
		select {
		case out := <-ended:
			if !strings.Contains(out, "leaves the mesh") {
				t.Errorf("attach says: %s", out)
			}
		case <-time.After(time.Minute):
			t.Error("attach still waits after the host left")
		}
		within(t, time.Second, "nothing is left of it", func() error { return sameNamespaces(t, h1) })
	})
}

// attachSlowly begins to attach the namespace "mine", and returns when the agent has begun.
func attachSlowly(t *testing.T, m *lab.Mesh, h *lab.Host, network string, others ...string) (*exec.Cmd, <-chan string) {
	t.Helper()
	var out strings.Builder
	cmd := h.Command(testContext(t), m.Binary, "attach", "--netns", "/run/netns/mine", "--network", network)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	go func() {
		err := cmd.Wait()
		ended <- fmt.Sprintf("%v: %s", err, out.String())
	}()
	within(t, 10*time.Second, "attaching has begun", func() error {
		select {
		case out := <-ended:
			t.Fatalf("it did not wait for the other host: %s", out)
		default:
		}
		if sameNamespaces(t, h, others...) == nil {
			return errors.New("no namespace is bound yet")
		}
		return nil
	})
	return cmd, ended
}

// sameNamespaces checks that a host holds the namespaces of these endpoints and of no others.
func sameNamespaces(t *testing.T, h *lab.Host, ids ...string) error {
	t.Helper()
	out, err := h.Run(testContext(t), "sh", "-c", "ls /run/meshd/endpoints 2>/dev/null; true")
	if err != nil {
		return err
	}
	if got := strings.Fields(out); strings.Join(got, " ") != strings.Join(ids, " ") {
		return fmt.Errorf("%s holds the namespaces of %v, want %v", h.Name, got, ids)
	}
	return nil
}
