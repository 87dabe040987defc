package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// update changes a service from a host that has nothing of it.
func update(t *testing.T, service string, flags ...string) {
	t.Helper()
	if _, err := shared.Meshd(testContext(t), shared.Host("h3"), append([]string{"service", "update", service}, flags...)...); err != nil {
		t.Fatal(err)
	}
}

// answering is who answers on a port of a host, asked from outside.
func answering(t *testing.T, via *lab.Host, network, port string, count int) (map[string]int, error) {
	t.Helper()
	out, err := shared.Host("outside").Run(testContext(t), peerBinary, "ask", network, via.IP+":"+port, fmt.Sprint(count))
	return answers(out), err
}

// everywhere waits until a check of each host's port holds.
func everywhere(t *testing.T, limit time.Duration, what string, check func(via *lab.Host) error) {
	t.Helper()
	within(t, limit, what, func() error {
		for _, via := range shared.Members() {
			if err := check(via); err != nil {
				return fmt.Errorf("%s: %w", via.Name, err)
			}
		}
		return nil
	})
}

// onlyBy wants that just these answer, each of them.
func onlyBy(t *testing.T, via *lab.Host, network, port string, names ...string) error {
	t.Helper()
	got, err := answering(t, via, network, port, 20*len(names))
	for _, name := range names {
		if got[name] == 0 {
			err = errors.Join(err, fmt.Errorf("%s does not answer", name))
		}
	}
	if len(got) != len(names) {
		err = errors.Join(err, fmt.Errorf("%v answer", got))
	}
	return err
}

func refused(t *testing.T, via *lab.Host, network, port string) error {
	t.Helper()
	got, err := answering(t, via, network, port, 1)
	if err == nil || !strings.Contains(err.Error(), "refused") {
		return fmt.Errorf("%v, %w, want connection refused", got, err)
	}
	return nil
}

// Ports that are set for a service lead to all of its replicas, also to those that come later, until they are taken back.
func TestServicePortsAreSet(t *testing.T) {
	newNetwork(t, shared, "set")
	flags := []string{"--network", "set", "--service", "web"}
	first := serve(t, shared, shared.Host("h1"), "h1", flags...)
	serve(t, shared, shared.Host("h2"), "h2", append(flags, "--publish", "8105:80")...)
	update(t, "web.set", "--publish", "8100:80", "--publish", "8110-8112:80-82/udp")
	everywhere(t, 15*time.Second, "the ports lead to both replicas", func(via *lab.Host) error {
		return errors.Join(onlyBy(t, via, "tcp", "8100", "h1", "h2"), onlyBy(t, via, "udp", "8110", "h1", "h2"), onlyBy(t, via, "tcp", "8105", "h2"))
	})
	last := serve(t, shared, shared.Host("h3"), "h3", flags...)
	everywhere(t, 15*time.Second, "and to one that came later", func(via *lab.Host) error {
		return onlyBy(t, via, "tcp", "8100", "h1", "h2", "h3")
	})
	if err := last.stop(); err != nil {
		t.Fatal(err)
	}

	update(t, "web", "--unpublish", "8100", "--unpublish", "8110-8112/udp", "--unpublish", "8105")
	everywhere(t, 15*time.Second, "nothing answers any more, not even what a replica brought", func(via *lab.Host) error {
		return errors.Join(refused(t, via, "tcp", "8100"), refused(t, via, "udp", "8111"), refused(t, via, "tcp", "8105"))
	})
	within(t, 15*time.Second, "the replica has left the network of published ports", func() error {
		if out, err := endpointExec(t, shared.Host("h1"), first, "ip", "link", "show", "ing0"); err == nil {
			return errors.New(out)
		}
		return nil
	})
	var service struct {
		Ports     []any
		Withdrawn []struct{ Port int }
	}
	if err := shared.MeshdJSON(testContext(t), shared.Host("h1"), &service, "service", "inspect", "web.set"); err != nil ||
		len(service.Ports) != 0 || len(service.Withdrawn) != 1 || service.Withdrawn[0].Port != 8105 {
		t.Errorf("%+v, %v", service, err)
	}
	update(t, "web", "--publish", "8105:80")
	everywhere(t, 15*time.Second, "the port is back, for both", func(via *lab.Host) error {
		return onlyBy(t, via, "tcp", "8105", "h1", "h2")
	})
}

// A client stays with its replica, whichever host it asks; and the host's own replica comes first, then the nearest.
func TestAffinityAndPreference(t *testing.T) {
	newNetwork(t, shared, "near")
	var replicas []*Running
	for _, h := range shared.Members() {
		replicas = append(replicas, serve(t, shared, h, h.Name, "--network", "near", "--service", "web", "--publish", "8106:80", "--publish", "8106:80/udp"))
	}
	client := start(t, shared, shared.Host("h1"), []string{"--network", "near"}, "sleep", "infinity")
	vip := serviceVIP(t, "web.near") + ":80"
	byVIP := func(network string) map[string]int {
		out, err := endpointExec(t, shared.Host("h1"), client, peerBinary, "ask", network, vip, "30")
		if err != nil {
			return map[string]int{err.Error(): 1}
		}
		return answers(out)
	}
	update(t, "web", "--affinity", "client-ip")
	within(t, 15*time.Second, "one client has one replica through all hosts", func() error {
		seen := make(map[string]bool)
		for _, via := range shared.Members() {
			for _, network := range []string{"tcp", "udp"} {
				got, err := answering(t, via, network, "8106", 20)
				if err != nil {
					return err
				}
				for name := range got {
					seen[name] = true
				}
			}
		}
		if tcp, udp := byVIP("tcp"), byVIP("udp"); len(seen) != 1 || len(tcp) != 1 || len(udp) != 1 {
			return fmt.Errorf("from outside %v, by virtual IP %v and %v", seen, tcp, udp)
		}
		return nil
	})
	update(t, "web", "--affinity", "none", "--prefer", "local")
	everywhere(t, 15*time.Second, "each host leads to its own replica", func(via *lab.Host) error {
		if got := byVIP("tcp"); len(got) != 1 || got["h1"] == 0 {
			return fmt.Errorf("by virtual IP on h1: %v", got)
		}
		return errors.Join(onlyBy(t, via, "tcp", "8106", via.Name), onlyBy(t, via, "udp", "8106", via.Name))
	})
	// h3's own replica goes. Which of the other hosts is near, pings tell, and they may tell otherwise later.
	h1, h2, h3 := shared.Host("h1"), shared.Host("h2"), shared.Host("h3")
	if err := replicas[2].stop(); err != nil {
		t.Fatal(err)
	}
	back := farAway(t, h1, "150ms")
	within(t, 40*time.Second, "h1 is far away: h3 leads to h2", func() error { return onlyBy(t, h3, "tcp", "8106", "h2") })
	farAway(t, h2, "150ms")
	back()
	within(t, 40*time.Second, "h2 is far away: h3 leads to h1", func() error { return onlyBy(t, h3, "tcp", "8106", "h1") })
	if err := onlyBy(t, h2, "tcp", "8106", "h2"); err != nil {
		t.Errorf("a host far away has its own replica: %v", err)
	}
}

// farAway has a host take its time to answer pings through the tunnel, as if it were far away, until back is called or
// the test ends.
func farAway(t *testing.T, h *lab.Host, delay string) (back func()) {
	t.Helper()
	const mesh = "--net=/run/meshd/netns"
	ignore := func(value string) {
		if out, err := h.Run(testContext(t), "nsenter", mesh, "sysctl", "-qw", "net.ipv6.icmp.echo_ignore_all="+value); err != nil {
			t.Error(err, out)
		}
	}
	ctx := testContext(t)
	far := h.Command(ctx, "nsenter", mesh, peerBinary, "far", delay)
	ready := make(chan string, 1)
	far.Stdout = &lineWriter{fn: func(line string) { ready <- line }}
	if err := far.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ready: // a host that nobody answers for would be down
	case <-ctx.Done():
		t.Fatal("nobody answers pings yet")
	}
	ignore("1")
	back = sync.OnceFunc(func() {
		ignore("0")
		_ = signalChildren(far.Process.Pid, 15)
		_ = far.Wait() // ended by us
	})
	t.Cleanup(back)
	return back
}

// An endpoint reaches its own service, also as its only replica: by the virtual IP, and by the published port of any host.
func TestHairpin(t *testing.T) {
	newNetwork(t, shared, "hairpin")
	r := serve(t, shared, shared.Host("h1"), "me", "--network", "hairpin", "--service", "self", "--publish", "8107:80", "--publish", "8107:80/udp")
	var service struct{ VIP, VIP6 string }
	if err := shared.MeshdJSON(testContext(t), shared.Host("h1"), &service, "service", "inspect", "self.hairpin"); err != nil {
		t.Fatal(err)
	}
	addresses := []string{service.VIP + ":80", "[" + service.VIP6 + "]:80"}
	for _, h := range shared.Members() {
		addresses = append(addresses, h.IP+":8107", "["+h.IP6+"]:8107")
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range addresses {
			within(t, 15*time.Second, "it reaches itself by "+network+" at "+address, func() error {
				out, err := endpointExec(t, shared.Host("h1"), r, peerBinary, "ask", network, address, "3")
				if err == nil && answers(out)["me"] != 3 {
					err = fmt.Errorf("answered %q", out)
				}
				return err
			})
		}
	}
}

// A port that a program of a host has is not taken away from it, and everybody is told; when the program ends the port
// is published there too, and no program gets it any more.
func TestProgramKeepsItsPort(t *testing.T) {
	newNetwork(t, shared, "held")
	h2 := shared.Host("h2")
	program := h2.Command(testContext(t), peerBinary, "serve", "program", "8108")
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		_ = signalChildren(program.Process.Pid, 15)
		_ = program.Wait() // ended by us
	})
	t.Cleanup(end)
	within(t, 15*time.Second, "the program listens", func() error { return onlyBy(t, h2, "tcp", "8108", "program") })
	complaint(t, shared, h2, 1, []string{"port 8108/tcp is in use on this host", "labpeer"},
		"run", "--network", "held", "--service", "web", "--publish", "8108:80", "--", "true")

	serve(t, shared, shared.Host("h1"), "replica", "--network", "held", "--service", "web", "--publish", "8108:80")
	heldOn := func() ([]string, error) {
		var service struct {
			Ports []struct {
				HeldOn []string `json:"held_on"`
			}
		}
		err := shared.MeshdJSON(testContext(t), shared.Host("h3"), &service, "service", "inspect", "web.held")
		if err != nil || len(service.Ports) != 1 {
			return nil, fmt.Errorf("%+v, %w", service, err)
		}
		return service.Ports[0].HeldOn, nil
	}
	within(t, 15*time.Second, "all hosts know that h2's program has the port", func() error {
		if got, err := heldOn(); err != nil || !slices.Equal(got, []string{"h2"}) {
			return fmt.Errorf("held on %v, %w", got, err)
		}
		out, err := shared.Meshd(testContext(t), h2, "status")
		if lab.ExitCode(err) != 1 || !strings.Contains(out, "port 8108/tcp of service web.held does not answer on this host, for another program has it") {
			return fmt.Errorf("h2's status is %q, %w", out, err)
		}
		return errors.Join(onlyBy(t, h2, "tcp", "8108", "program"), onlyBy(t, shared.Host("h1"), "tcp", "8108", "replica"),
			onlyBy(t, shared.Host("h3"), "tcp", "8108", "replica"))
	})
	end()
	within(t, 15*time.Second, "the port is the mesh's on h2 as well", func() error {
		if got, err := heldOn(); err != nil || len(got) > 0 {
			return fmt.Errorf("held on %v, %w", got, err)
		}
		return onlyBy(t, h2, "tcp", "8108", "replica")
	})
	if out, err := h2.Run(testContext(t), peerBinary, "serve", "late", "8108"); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a program that comes later: %q, %v, want that the address is in use", out, err)
	}
}

// Two services that were given one port while their hosts did not see each other: the older has it, on all hosts, the
// other is told, and gets it when the older has gone.
func TestTwoServicesWantOnePort(t *testing.T) {
	newNetwork(t, shared, "clash")
	h1, h3 := shared.Host("h1"), shared.Host("h3")
	for _, h := range []*lab.Host{h1, h3} { // with an address here they need nobody's consent to more
		start(t, shared, h, []string{"--network", "clash"}, "sleep", "infinity")
	}
	cable := func(state string) {
		if out, err := shared.Wire.Run(testContext(t), "ip", "link", "set", "p-h3", state); err != nil {
			t.Fatal(err, out)
		}
	}
	cable("down")
	t.Cleanup(func() { cable("up") })
	publish := []string{"--network", "clash", "--publish", "8109:80"}
	older := serveApart(t, shared, h1, "older", append(publish, "--service", "older")...)
	serveApart(t, shared, h3, "younger", append(publish, "--service", "younger")...)
	cable("up")
	conflict := func(via *lab.Host) (string, error) {
		var service struct{ Ports []struct{ Conflict string } }
		err := shared.MeshdJSON(testContext(t), via, &service, "service", "inspect", "younger.clash")
		if err != nil || len(service.Ports) != 1 {
			return "", fmt.Errorf("%+v, %w", service, err)
		}
		return service.Ports[0].Conflict, nil
	}
	everywhere(t, 20*time.Second, "the older service has the port, and the other is told", func(via *lab.Host) error {
		if got, err := conflict(via); err != nil || got != "older.clash" {
			return fmt.Errorf("conflict with %q, %w", got, err)
		}
		out, err := shared.Meshd(testContext(t), via, "status")
		if lab.ExitCode(err) != 1 || !strings.Contains(out, "service younger.clash does not get port 8109/tcp, which older.clash has") {
			return fmt.Errorf("status is %q, %w", out, err)
		}
		return onlyBy(t, via, "tcp", "8109", "older")
	})
	if err := older.stop(); err != nil {
		t.Fatal(err)
	}
	everywhere(t, 15*time.Second, "the older has gone: the other has the port", func(via *lab.Host) error {
		if got, err := conflict(via); err != nil || got != "" {
			return fmt.Errorf("conflict with %q, %w", got, err)
		}
		return onlyBy(t, via, "tcp", "8109", "younger")
	})
}
