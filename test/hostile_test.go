package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// Nonsense on everything that listens, from without and from within, ends no agent and stops no traffic.
func TestNonsenseHurtsNobody(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	h1, h3, outside := m.Host("h1"), m.Host("h3"), m.Host("outside")
	serve(t, m, h1, "one", "--network", "appnet", "--service", "web", "--publish", "8080:80")
	client := start(t, m, h3, []string{"--network", "appnet"}, "sleep", "infinity")
	var members []struct{ Name, Address string }
	if err := m.MeshdJSON(ctx, h1, &members, "members"); err != nil {
		t.Fatal(err)
	}
	inside := make(map[string]string)
	for _, member := range members {
		inside[member.Name] = member.Address
	}
	running := func() string {
		t.Helper()
		var pids []int
		for _, h := range m.Members() {
			pid, err := m.AgentPID(h)
			if err != nil {
				t.Fatalf("the agent on %s has ended: %v\n%s", h.Name, err, m.LogTail(h))
			}
			pids = append(pids, pid)
		}
		programs, err := h1.Run(ctx, "pgrep", "-x", "meshd-wireguard")
		return fmt.Sprint(pids, programs, err)
	}
	before := running()
	meshNS, endpointNS := "--net=/run/meshd/netns", "--net=/run/meshd/endpoints/"+client.ID
	for _, attack := range []struct {
		what string
		from *lab.Host
		ns   string
		args []string
	}{
		{"the door", outside, "", []string{"tcp", h1.IP + ":7946", "200"}},
		{"WireGuard's port", outside, "", []string{"udp", h1.IP + ":51820", "2000"}},
		{"WireGuard's port, IPv6", outside, "", []string{"udp", "[" + h1.IP6 + "]:51820", "500"}},
		{"a published port", outside, "", []string{"tcp", h1.IP + ":8080", "100"}},
		{"names, UDP", h3, endpointNS, []string{"udp", "127.0.0.11:53", "2000"}},
		{"names, TCP", h3, endpointNS, []string{"tcp", "127.0.0.11:53", "200"}},
		{"the local API", h1, "", []string{"unix", "/run/meshd/meshd.sock", "200"}},
		{"membership, UDP", h3, meshNS, []string{"udp", "[" + inside["h1"] + "]:7946", "2000"}},
		{"membership, TCP", h3, meshNS, []string{"tcp", "[" + inside["h1"] + "]:7946", "200"}},
		{"catalogs", h3, meshNS, []string{"tcp", "[" + inside["h1"] + "]:7947", "200"}},
		{"VXLAN", h3, meshNS, []string{"udp", "[" + inside["h1"] + "]:4789", "1000"}},
	} {
		command := append([]string{peerBinary, "garbage"}, attack.args...)
		if attack.ns != "" {
			command = append([]string{"nsenter", attack.ns}, command...)
		}
		if _, err := attack.from.Run(ctx, command[0], command[1:]...); err != nil {
			t.Errorf("%s: %v", attack.what, err)
		}
		if after := running(); after != before {
			t.Fatalf("after nonsense at %s other programs run: %s, before %s", attack.what, after, before)
		}
	}
	within(t, 10*time.Second, "all are alive", func() error { return m.AllAlive(ctx, 3) })
	within(t, 10*time.Second, "names and virtual IPs work", func() error {
		out, err := endpointExec(t, h3, client, "dig", "+short", "+tries=1", "+time=1", "@127.0.0.11", "web")
		if err != nil {
			return err
		}
		_, err = endpointExec(t, h3, client, peerBinary, "ask", "tcp", strings.TrimSpace(out)+":80")
		return err
	})
	within(t, 10*time.Second, "nothing is wrong", func() error {
		_, err := m.Meshd(ctx, h1, "status")
		return err
	})
}

// One who holds all the connections to a door that it gets keeps nobody else out.
func TestSquattersKeepNobodyOut(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	for _, h := range m.Members() {
		if err := m.StartAgent(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	one, two, outside := m.Host("h1"), m.Host("h2"), m.Host("outside")
	var founded struct{ Token string }
	if err := m.MeshdJSON(ctx, one, &founded, "init"); err != nil {
		t.Fatal(err)
	}
	squatter := outside.Command(ctx, peerBinary, "squat", one.IP+":7946", "200")
	ready := make(chan string, 1)
	squatter.Stdout = &lineWriter{fn: func(line string) { ready <- line }}
	if err := squatter.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalChildren(squatter.Process.Pid, 9)
		_ = squatter.Wait() // ended by us
	})
	select {
	case line := <-ready:
		t.Log(line)
	case <-ctx.Done():
		t.Fatal("the squatter does not begin")
	}
	if _, err := m.Meshd(ctx, two, "join", one.IP, "--token", founded.Token); err != nil {
		t.Errorf("joining beside a squatter: %v", err)
	}
	within(t, 5*time.Second, "both are alive", func() error { return m.AllAlive(ctx, 2) })
}
