package test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// answers counts who answered.
func answers(out string) map[string]int {
	count := make(map[string]int)
	for _, line := range strings.Split(out, "\n") {
		if name, _, ok := strings.Cut(line, " "); ok {
			count[name]++
		}
	}
	return count
}

func TestVirtualIPSpreadsOverReplicas(t *testing.T) {
	newNetwork(t, shared, "vip")
	var last *Running
	for _, h := range shared.Members() {
		last = serve(t, shared, h, h.Name, "--network", "vip", "--service", "web")
	}
	for _, from := range shared.Members() {
		for _, network := range []string{"tcp", "udp"} {
			within(t, 3*time.Second, from.Name+" reaches all replicas by "+network, func() error {
				out, err := inside(t, shared, from, "vip", peerBinary, "ask", network, "web:80", "60")
				if got := answers(out); err != nil || len(got) != 3 || got["h1"] < 5 || got["h2"] < 5 || got["h3"] < 5 {
					return fmt.Errorf("%v, %w", got, err)
				}
				return nil
			})
		}
	}
	// A client that stays sees the replica go: from the moment that its process has ended, no
	// connection may fail or reach it for longer than a second.
	client := start(t, shared, shared.Host("h1"), []string{"--network", "vip"}, "sleep", "infinity")
	if err := last.stop(); err != nil {
		t.Fatal(err)
	}
	passed(t, lab.NewClock(), time.Second)
	out, err := endpointExec(t, shared.Host("h1"), client, peerBinary, "patient", "ask", "tcp", serviceVIP(t, "web.vip")+":80", "60")
	if got := answers(out); err != nil || len(got) != 2 || got["h3"] != 0 {
		t.Errorf("a second after a replica ended: %v, %v", got, err)
	}
}

func endpointExec(t *testing.T, h *lab.Host, r *Running, command ...string) (string, error) {
	t.Helper()
	return h.Run(testContext(t), "nsenter", append([]string{"--net=/run/meshd/endpoints/" + r.ID}, command...)...)
}

func TestEndpointReachesItsOwnService(t *testing.T) {
	newNetwork(t, shared, "own")
	r := serve(t, shared, shared.Host("h1"), "me", "--network", "own", "--service", "self")
	out, err := endpointExec(t, shared.Host("h1"), r, peerBinary, "patient", "ask", "tcp", serviceVIP(t, "self.own")+":80")
	if err != nil || !strings.HasPrefix(out, "me ") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestGateway(t *testing.T) {
	newNetwork(t, shared, "out")
	newNetwork(t, shared, "in", "--internal")
	outside := shared.Host("outside")
	server := outside.Command(testContext(t), peerBinary, "serve", "outside", "8000")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalChildren(server.Process.Pid, 15)
		_ = server.Wait() // ended by us
	})
	h := shared.Host("h2")
	for _, network := range []string{"tcp", "udp"} {
		within(t, 5*time.Second, "an endpoint reaches outside by "+network, func() error {
			out, err := inside(t, shared, h, "out", peerBinary, "ask", network, outside.IP+":8000")
			if err == nil && !strings.Contains(out, h.IP+":") {
				err = fmt.Errorf("outside saw %q, not the host's address", out)
			}
			return err
		})
	}
	if out, err := inside(t, shared, h, "out", peerBinary, "patient", "ask", "tcp", "["+outside.IP6+"]:8000"); err != nil {
		t.Errorf("by IPv6: %v: %s", err, out)
	}
	if out, err := inside(t, shared, h, "in", peerBinary, "ask", "tcp", outside.IP+":8000"); err == nil {
		t.Errorf("an endpoint of an internal network reached outside: %s", out)
	}
	// Two endpoints of one host do not reach each other through their ways out.
	newNetwork(t, shared, "neighbour")
	other := serve(t, shared, h, "other", "--network", "neighbour")
	out, err := h.Run(testContext(t), "nsenter", "--net=/run/meshd/endpoints/"+other.ID, "ip", "-4", "-br", "addr", "show", "gw0")
	if err != nil {
		t.Fatal(err)
	}
	address, _, _ := strings.Cut(strings.Fields(out)[2], "/")
	if out, err := inside(t, shared, h, "out", peerBinary, "ask", "tcp", address+":80"); err == nil {
		t.Errorf("an endpoint reached one of another network through the gateway: %s", out)
	}
}

func TestPublishedPortAnswersOnEveryHost(t *testing.T) {
	newNetwork(t, shared, "pub")
	serve(t, shared, shared.Host("h1"), "web", "--network", "pub", "--service", "web",
		"--publish", "8080:80", "--publish", "8080:80/udp")
	outside := shared.Host("outside")
	for _, h := range shared.Members() {
		for _, network := range []string{"tcp", "udp"} {
			for where, from := range map[string]*lab.Host{"outside": outside, "the host itself": h, "another host": shared.Host("h2")} {
				for _, address := range []string{h.IP, "[" + h.IP6 + "]"} {
					askPublished(t, from, where, network, address+":8080")
				}
			}
			for _, address := range []string{"127.0.0.1", "[::1]"} {
				askPublished(t, h, h.Name+"'s localhost", network, address+":8080")
			}
		}
	}
	// From an endpoint, by the address of its host.
	if out, err := inside(t, shared, shared.Host("h3"), "pub", peerBinary, "patient", "ask", "tcp", shared.Host("h3").IP+":8080"); err != nil {
		t.Errorf("from an endpoint: %v: %s", err, out)
	}
	if _, err := outside.Run(testContext(t), peerBinary, "ask", "tcp", shared.Host("h1").IP+":8081"); err == nil {
		t.Error("a port that nobody published answers")
	}
}

func askPublished(t *testing.T, from *lab.Host, where, network, address string) {
	t.Helper()
	within(t, 5*time.Second, fmt.Sprintf("%s://%s answers from %s", network, address, where), func() error {
		out, err := from.Run(testContext(t), peerBinary, "ask", network, address)
		if err == nil && !strings.HasPrefix(out, "web ") {
			err = errors.New("answered " + out)
		}
		return err
	})
}
