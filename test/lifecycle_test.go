package test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// hostState is everything on a host that meshd could leave behind.
func hostState(t *testing.T, h *lab.Host) map[string]string {
	t.Helper()
	state := make(map[string]string)
	for name, command := range map[string]string{
		"links":    "ip -br link | awk '{print $1}' | sort",
		"routes":   "ip route; ip -6 route | grep -v '^fe80\\|^multicast'",
		"iptables": "iptables-save | grep '^-'; ip6tables-save | grep '^-'; true",
		"chains":   "iptables-save | grep -o '^:MESHD[A-Z-]*'; ip6tables-save | grep -o '^:MESHD[A-Z-]*'; true",
		"nft":      "nft list tables | grep -v 'table ip6\\? \\(nat\\|filter\\|mangle\\|raw\\)$'; true",
		// The daemon goes on, and so do its sockets: for clients, and for Docker.
		"run":      "find /run/meshd -mindepth 1 -not -name meshd.sock -not -name meshd.sock.lock -not -name docker.sock -not -name docker.sock.lock 2>/dev/null; true",
		"state":    "find /var/lib/meshd -mindepth 1 -not -name lock 2>/dev/null; true",
		"forward":  "sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
		"mounts":   "grep meshd /proc/self/mounts; true",
		"programs": "pgrep -x meshd-wireguard; true",
		"sockets":  "ls /run/wireguard 2>/dev/null; true",
	} {
		out, err := h.Run(testContext(t), "sh", "-c", command)
		if err != nil {
			t.Fatal(err)
		}
		state[name] = strings.TrimSpace(out)
	}
	return state
}

func TestLeaveRemovesEverything(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	h := m.Host("h3")
	before := hostState(t, h)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	serve(t, m, m.Host("h1"), "one", "--network", "appnet", "--service", "web", "--publish", "8080:80")
	gone := serve(t, m, h, "three", "--network", "appnet", "--service", "web", "--publish", "8080:80")
	client := start(t, m, m.Host("h2"), []string{"--network", "appnet"}, "sleep", "infinity")

	said, err := m.Meshd(ctx, h, "leave")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, "These go on without their networks: h3-") {
		t.Errorf("leave says nothing of what runs here still: %s", said)
	}
	// Leave returns when the others know.
	out, err := endpointExec(t, m.Host("h2"), client, peerBinary, "ask", "tcp", m.Host("h2").IP+":8080", "40")
	if got := answers(out); err != nil || got["three"] != 0 {
		t.Errorf("after leave: %v, %v", got, err)
	}
	within(t, 2*time.Second, "the others see the host as left", func() error {
		var members []struct{ Name, Status string }
		if err := m.MeshdJSON(ctx, m.Host("h1"), &members, "members"); err != nil {
			return err
		}
		for _, member := range members {
			if member.Name == "h3" && member.Status != "left" {
				return fmt.Errorf("%v", members)
			}
		}
		return nil
	})
	if err := gone.stop(); err != nil {
		t.Error(err)
	}
	sameState(t, before, hostState(t, h))
	// It may come back, as a new node.
	if err := m.Join(ctx, h); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "it is alive again", func() error { return m.AllAlive(ctx, 3) })
}

// newNetworkIn makes a network in a mesh that the test throws away.
func newNetworkIn(t *testing.T, m *lab.Mesh, name string) {
	t.Helper()
	ctx := testContext(t)
	if _, err := m.Meshd(ctx, m.Host("h1"), "network", "create", name); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Second, "network "+name+" is known everywhere", func() error {
		for _, h := range m.Members() {
			if _, err := m.Meshd(ctx, h, "network", "inspect", name); err != nil {
				return err
			}
		}
		return nil
	})
}

// A stream between two endpoints runs through the restart of both their agents, one of them with another
// version of meshd.
func TestStreamSurvivesRestart(t *testing.T) {
	next, err := buildWith(testContext(t), "main.version", "next")
	if err != nil {
		t.Fatal(err)
	}
	for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "kill -9": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, 2)
			ctx := testContext(t)
			if err := m.Form(ctx); err != nil {
				t.Fatal(err)
			}
			newNetworkIn(t, m, "appnet")
			server := start(t, m, m.Host("h1"), []string{"--network", "appnet", "--service", "perf"}, "iperf3", "-s")
			client := m.Host("h2").Command(ctx, m.Binary, "run", "--network", "appnet", "--",
				"iperf3", "-c", server.IP, "-t", "14", "-b", "20M", "-i", "1", "--forceflush")
			stream := &streamed{clock: lab.NewClock()}
			client.Stdout, client.Stderr = stream, stream
			if err := client.Start(); err != nil {
				t.Fatal(err)
			}
			within(t, 10*time.Second, "the stream runs", func() error {
				var rows []endpointRow
				if err := m.MeshdJSON(ctx, m.Host("h1"), &rows, "endpoint", "ls"); err != nil {
					return err
				}
				if len(rows) != 2 {
					return fmt.Errorf("%d endpoints", len(rows))
				}
				return nil
			})
			for _, host := range []string{"h1", "h2"} {
				if err := m.SignalAgent(ctx, m.Host(host), sig); err != nil {
					t.Fatal(err)
				}
				if host == "h2" {
					m.Binary = next
				}
				if err := m.StartAgent(ctx, m.Host(host)); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.Wait(); err != nil {
				t.Fatalf("the stream broke: %v: %s", err, stream.text.String())
			}
			stream.check(t)
			within(t, 5*time.Second, "both are alive", func() error { return m.AllAlive(ctx, 2) })
			within(t, 5*time.Second, "h1 knows their versions", func() error {
				var members []struct{ Name, Version string }
				if err := m.MeshdJSON(ctx, m.Host("h1"), &members, "members"); err != nil {
					return err
				}
				for _, member := range members {
					if (member.Version == "next") != (member.Name == "h2") {
						return fmt.Errorf("%s has version %s", member.Name, member.Version)
					}
				}
				return nil
			})
			// Names and new connections work as before.
			serve(t, m, m.Host("h2"), "after", "--network", "appnet", "--service", "after")
			if out, err := inside(t, m, m.Host("h1"), "appnet", peerBinary, "patient", "ask", "tcp", "after:80"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// streamed is what iperf3 prints of a stream of 20 Mbit/s, a line a second, and when it did.
type streamed struct {
	clock lab.Clock
	text  strings.Builder
	at    []time.Duration // of each line's end
}

func (s *streamed) Write(b []byte) (int, error) {
	for range strings.Count(string(b), "\n") {
		s.at = append(s.at, s.clock.Elapsed())
	}
	return s.text.Write(b)
}

// streamSecond is such a line: when, and how many bytes.
var streamSecond = regexp.MustCompile(`^\[ *\d+\] +([\d.]+-[\d.]+) +sec +([\d.]+) ([KMG]?)Bytes`)

// check fails if there was a second with less than a quarter of the data. One that was shorter by the lab's clock has as
// much less to show.
func (s *streamed) check(t *testing.T) {
	t.Helper()
	unit := map[string]float64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
	seconds := 0
	for i, line := range strings.Split(s.text.String(), "\n") {
		found := streamSecond.FindStringSubmatch(line)
		if found == nil || strings.HasSuffix(line, "sender") || strings.HasSuffix(line, "receiver") {
			continue
		}
		bytes, err := strconv.ParseFloat(found[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		bytes *= unit[found[3]]
		length := time.Second
		if i > 0 {
			length = min(length, s.at[i]-s.at[i-1])
		}
		if seconds++; bytes < 20e6/8/4*length.Seconds() {
			t.Errorf("second %s, which lasted %s: %.0f bytes of 2.5 million: the stream stopped", found[1], length, bytes)
		}
	}
	if seconds < 14 {
		t.Errorf("%d of 14 seconds: %s", seconds, s.text.String())
	}
}

func TestEndpointsGoWithTheirProcess(t *testing.T) {
	newNetwork(t, shared, "gone")
	ctx := testContext(t)
	r := serve(t, shared, shared.Host("h1"), "x", "--network", "gone", "--service", "x")
	serviceVIP(t, "x.gone")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	within(t, time.Second, "the endpoint is gone everywhere", func() error {
		for _, h := range shared.Members() {
			var rows []endpointRow
			if err := shared.MeshdJSON(ctx, h, &rows, "endpoint", "ls"); err != nil {
				return err
			}
			for _, row := range rows {
				if row.ID == r.ID {
					return fmt.Errorf("%s still lists it", h.Name)
				}
			}
		}
		return nil
	})
}

func TestAttachAndDetach(t *testing.T) {
	newNetwork(t, shared, "att")
	ctx := testContext(t)
	h := shared.Host("h2")
	if _, err := h.Run(ctx, "ip", "netns", "add", "mine"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := h.Run(testContext(t), "ip", "netns", "del", "mine"); err != nil {
			t.Error(err)
		}
	})
	server := serve(t, shared, shared.Host("h1"), "one", "--network", "att")
	id, err := shared.Meshd(ctx, h, "attach", "--netns", "/run/netns/mine", "--network", "att", "--name", "mine")
	if err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "everybody knows of it", func() error { return known(ctx, shared, strings.TrimSpace(id)) })
	if out, err := h.Run(ctx, "ip", "netns", "exec", "mine", peerBinary, "patient", "ask", "tcp", server.IP+":80"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := shared.Meshd(ctx, h, "detach", strings.TrimSpace(id)); err != nil {
		t.Fatal(err)
	}
	links, err := h.Run(ctx, "ip", "-n", "mine", "-br", "link")
	if err != nil || strings.Contains(links, "eth0") || strings.Contains(links, "gw0") {
		t.Errorf("left in the namespace: %s, %v", links, err)
	}
}

// A token admits nobody after it was taken back, and an evicted host is cut off.
func TestEviction(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	server := serve(t, m, m.Host("h1"), "one", "--network", "appnet")
	client := start(t, m, m.Host("h3"), []string{"--network", "appnet"}, "sleep", "infinity")
	if out, err := endpointExec(t, m.Host("h3"), client, peerBinary, "patient", "ask", "tcp", server.IP+":80"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := m.Meshd(ctx, m.Host("h1"), "evict", "h3"); err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"h1", "h2"} {
		within(t, 2*time.Second, h+" sees h3 as evicted", func() error {
			var members []struct{ Name, Status string }
			if err := m.MeshdJSON(ctx, m.Host(h), &members, "members"); err != nil {
				return err
			}
			for _, member := range members {
				if member.Name == "h3" && member.Status == "evicted" {
					return nil
				}
			}
			return fmt.Errorf("%v", members)
		})
	}
	within(t, 2*time.Second, "the evicted host reaches the mesh no more", func() error {
		if out, err := endpointExec(t, m.Host("h3"), client, peerBinary, "ask", "tcp", server.IP+":80"); err == nil {
			return fmt.Errorf("%s answered", out)
		}
		return nil
	})
}
