package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNetworkGrows fills a network of two blocks and one virtual IP, which warns and then refuses, and lets it grow: what was
// there stays, and reaches what comes.
func TestNetworkGrows(t *testing.T) {
	ctx := testContext(t)
	small := fmt.Sprint("small", time.Now().UnixMilli()) // hosts keep the addresses of one that was for a while
	newNetwork(t, shared, small, "--subnet", "10.92.0.0/29")
	h1, h2, h3 := shared.Host("h1"), shared.Host("h2"), shared.Host("h3")
	old := serve(t, shared, h1, "old", "--network", small, "--service", "old")
	serve(t, shared, h2, "other", "--network", small, "--service", "old") // the subnet has one virtual IP

	out, err := shared.Meshd(ctx, h1, "status")
	if err == nil || !strings.Contains(out, "network "+small+" is nearly full: hosts have taken 100 % of its addresses: let it grow with: meshd network grow "+small) {
		t.Errorf("status of a full network: %v, %s", err, out)
	}
	out, err = shared.Meshd(ctx, h3, "run", "--network", small, "--service", "old", "--", "true")
	if message := fmt.Sprint(out, err); err == nil || !strings.Contains(message, "network "+small+" has no addresses left: let it grow with: meshd network grow "+small) {
		t.Errorf("an endpoint too many: %s", message)
	}

	_, err = shared.Meshd(ctx, h1, "run", "--network", small, "--service", "new", "--", "true")
	if err == nil || !strings.Contains(err.Error(), "network "+small+" has no virtual IPs left: let it grow with: meshd network grow "+small) {
		t.Errorf("a service too many: %v", err)
	}

	if _, err := shared.Meshd(ctx, h2, "network", "grow", small, "--subnet", "10.93.0.0/24"); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Second, "h3 knows of the new subnet", func() error {
		out, err := shared.Meshd(ctx, h3, "network", "inspect", small)
		if err != nil || !strings.Contains(out, "10.93.0.0/24") {
			return fmt.Errorf("%s, %w", out, err)
		}
		return nil
	})
	fresh := serve(t, shared, h3, "fresh", "--network", small, "--service", "fresh")
	if ip := netip.MustParseAddr(fresh.IP); !netip.MustParsePrefix("10.93.0.0/24").Contains(ip) {
		t.Errorf("the new endpoint has %s", ip)
	}
	var rows []endpointRow
	if err := shared.MeshdJSON(ctx, h3, &rows, "endpoint", "ls"); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(rows, func(r endpointRow) bool { return r.ID == old.ID && r.IP == old.IP }) {
		t.Errorf("the old endpoint had %s: %v", old.IP, rows)
	}
	oldVIP, freshVIP := serviceVIP(t, "old."+small), serviceVIP(t, "fresh."+small)
	within(t, 5*time.Second, "old and new reach each other", func() error {
		for _, ask := range []struct {
			from   *Running
			on, to string
		}{{old, "h1", fresh.IP}, {fresh, "h3", old.IP}, {old, "h1", freshVIP}, {fresh, "h3", oldVIP}} {
			if _, err := endpointExec(t, shared.Host(ask.on), ask.from, peerBinary, "ask", "tcp", ask.to+":80"); err != nil {
				return fmt.Errorf("%s to %s: %w", ask.on, ask.to, err)
			}
		}
		return nil
	})
	if _, got := dig(t, h2, small, "-x", fresh.IP); len(got) != 1 || !strings.HasPrefix(got[0], "PTR ") {
		t.Errorf("the name of %s: %v", fresh.IP, got)
	}
	within(t, 3*time.Second, "nothing is wrong any more", func() error {
		_, err := shared.Meshd(ctx, h1, "status")
		return err
	})
}

// TestRoutesOfHosts: what one host has a route to, no host gives to a network; and a route that comes later is
// reported everywhere.
func TestRoutesOfHosts(t *testing.T) {
	ctx := testContext(t)
	newNetwork(t, shared, "wide", "--subnet", "10.94.0.0/16")
	h1, h2 := shared.Host("h1"), shared.Host("h2")
	routes := []string{"10.95.0.0/16", "10.94.7.0/24"} // who has been told of the second knows of the first
	for _, route := range routes {
		if _, err := h2.Run(ctx, "ip", "route", "add", "unreachable", route); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() error {
		for _, route := range routes {
			if _, err := h2.Run(ctx, "ip", "route", "del", "unreachable", route); err != nil {
				return err
			}
		}
		return nil
	}
	removed := false
	t.Cleanup(func() {
		if !removed {
			_ = gone() // best effort: the test has failed
		}
	})
	within(t, 15*time.Second, "h1 tells of the route of h2", func() error {
		out, err := shared.Meshd(ctx, h1, "status")
		if err == nil || !strings.Contains(out, "host h2 has a route to 10.94.7.0/24, which overlaps 10.94.0.0/16 of network wide") {
			return fmt.Errorf("%w, %s", err, out)
		}
		return nil
	})
	_, err := shared.Meshd(ctx, h1, "network", "create", "taken", "--subnet", "10.95.3.0/24")
	if err == nil || !strings.Contains(err.Error(), "overlaps 10.95.0.0/16, which host h2 uses") {
		t.Errorf("a subnet that another host uses: %v", err)
	}
	if err := gone(); err != nil {
		t.Fatal(err)
	}
	removed = true
	within(t, 15*time.Second, "nothing is wrong any more", func() error {
		_, err := shared.Meshd(ctx, h1, "status")
		return err
	})
}
