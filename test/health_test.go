package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// healthOf is an endpoint's state as a host sees it, and the reason for it.
func healthOf(t *testing.T, h *lab.Host, id string) (health, reason string, err error) {
	t.Helper()
	var rows []struct{ ID, Health, Reason string }
	if err := shared.MeshdJSON(testContext(t), h, &rows, "endpoint", "ls"); err != nil {
		return "", "", err
	}
	for _, row := range rows {
		if row.ID == id {
			return row.Health, row.Reason, nil
		}
	}
	return "", "", fmt.Errorf("%s knows no endpoint %s", h.Name, id)
}

// An endpoint is in rotation as long as its check succeeds, and everybody knows why it is not.
func TestHealthCheckDecidesRotation(t *testing.T) {
	newNetwork(t, shared, "fit")
	h1, h2 := shared.Host("h1"), shared.Host("h2")
	checked := serve(t, shared, h1, "it", "--network", "fit", "--service", "svc", "--health", "tcp:80", "--health-interval", "100ms", "--health-retries", "2", "--health-successes", "2")
	client := start(t, shared, h2, []string{"--network", "fit"}, "sleep", "infinity")
	state := func(want, wantReason string) func() error {
		return func() error {
			for _, h := range shared.Members() {
				if got, reason, err := healthOf(t, h, checked.ID); err != nil || got != want || reason != wantReason {
					return fmt.Errorf("on %s it is %s (%s), %w", h.Name, got, reason, err)
				}
			}
			return nil
		}
	}
	within(t, 5*time.Second, "it is healthy", state("healthy", ""))
	vip := serviceVIP(t, "svc.fit") + ":80"
	ask := func() (string, error) {
		return endpointExec(t, h2, client, peerBinary, "ask", "tcp", vip)
	}
	within(t, 3*time.Second, "it answers", func() error { _, err := ask(); return err })
	nft := func(command string) {
		t.Helper()
		if out, err := endpointExec(t, h1, checked, "nft", command); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	nft("add table inet broken; add chain inet broken in { type filter hook input priority 0; }; add rule inet broken in tcp dport 80 reject with tcp reset")
	within(t, 5*time.Second, "it is unhealthy when nobody gets in", state("unhealthy", "nobody listens on port 80"))
	within(t, 2*time.Second, "its service refuses", func() error {
		if out, err := ask(); err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("%q, %w, want connection refused", out, err)
		}
		return nil
	})
	nft("delete table inet broken")
	within(t, 5*time.Second, "it is healthy again", state("healthy", ""))
	within(t, 3*time.Second, "it answers again", func() error { _, err := ask(); return err })
}

// A replica that is killed, and one that turns unhealthy, is out of every virtual IP and port at once, and what was
// connected to it is reset; the other keeps its connections.
func TestReplicaGoes(t *testing.T) {
	ctx := testContext(t)
	h1, h3, outside := shared.Host("h1"), shared.Host("h3"), shared.Host("outside")
	for way, end := range map[string]func(t *testing.T, r *Running){
		"killed": func(t *testing.T, r *Running) {
			t.Helper()
			out, err := h3.Run(ctx, "sh", "-c", "kill -9 $(for p in /proc/[0-9]*; do [ $(readlink $p/ns/net) = $(stat -Lc 'net:[%i]' /run/meshd/endpoints/"+r.ID+") ] && echo ${p#/proc/}; done)")
			if err != nil {
				t.Fatal(err, out)
			}
		},
		"unhealthy": func(t *testing.T, r *Running) {
			t.Helper()
			rules := "add table inet ill; add chain inet ill in { type filter hook input priority 0; }; add rule inet ill in tcp dport 80 ct state new drop"
			if out, err := endpointExec(t, h3, r, "nft", rules); err != nil {
				t.Fatal(err, out)
			}
		},
	} {
		t.Run(way, func(t *testing.T) {
			newNetwork(t, shared, "goes")
			flags := []string{
				"--network", "goes", "--service", "svc", "--publish", "8098:80", "--publish", "8098:80/udp",
				"--health", "tcp:80", "--health-interval", "100ms", "--health-timeout", "4s", "--health-retries", "2",
			}
			serve(t, shared, shared.Host("h2"), "h2", flags...)
			going := serve(t, shared, h3, "h3", flags...)
			client := start(t, shared, h1, []string{"--network", "goes"}, "sleep", "infinity")
			vip := serviceVIP(t, "svc.goes") + ":80"
			inClient := "--net=/run/meshd/endpoints/" + client.ID
			held := []*heldConnections{
				hold(t, shared, "by virtual IP", h1, "nsenter", inClient, peerBinary, "hold", vip),
				hold(t, shared, "by published port", outside, peerBinary, "hold", h1.IP+":8098"),
			}
			began := time.Now()
			end(t, going)
			within(t, 20*time.Second, "nobody is led to it", func() error { // to be ill is not to answer for twice four seconds
				for _, network := range []string{"tcp", "udp"} {
					inside, err := endpointExec(t, h1, client, peerBinary, "ask", network, vip, "20")
					published, err2 := outside.Run(ctx, peerBinary, "ask", network, h1.IP+":8098", "20")
					if err != nil || err2 != nil || answers(inside)["h3"]+answers(published)["h3"] > 0 {
						return fmt.Errorf("%s: %v, %v, %w, %w", network, answers(inside), answers(published), err, err2)
					}
				}
				return nil
			})
			for _, h := range held {
				within(t, 10*time.Second, "connections to it have ended "+h.what, func() error {
					h.mu.Lock()
					defer h.mu.Unlock()
					if h.open["h3"] > 0 {
						return fmt.Errorf("%d still stand", h.open["h3"])
					}
					return nil
				})
				h.mustStand(t)
				t.Logf("%s: all had ended %s after the replica was %s", h.what, time.Since(began).Round(time.Millisecond), way)
			}
		})
	}
}
