package docker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab/engine"
)

type dockerNetwork struct {
	Driver     string
	Internal   bool
	EnableIPv6 bool
	IPAM       struct {
		Driver string
		Config []struct{ Subnet, Gateway string }
	}
}

// TestNetworkIsEverywhere: what is made on one host is there on all, and goes from all.
func TestNetworkIsEverywhere(t *testing.T) {
	w := newWorld(t)
	w.docker("h2", "network", "create", "meshed") // of another driver, with a name that meshd gets later
	w.network("appnet")
	w.network("chosen", "--subnet", "10.201.0.0/16", "--internal", "--ipv6", "--subnet", "fd00:201::/64")
	for _, host := range []string{"h1", "h2", "h3"} {
		var n dockerNetwork
		if err := engines[host].Inspect(w.ctx, &n, "network", "chosen"); err != nil {
			t.Fatal(err)
		}
		if !n.Internal || !n.EnableIPv6 || len(n.IPAM.Config) != 2 || n.IPAM.Config[0].Subnet != "10.201.0.0/16" {
			t.Errorf("%s: %+v", host, n)
		}
		if n.IPAM.Driver != "meshd" {
			t.Errorf("%s: IPAM is %s's", host, n.IPAM.Driver)
		}
		// Docker's prune removes what no container of this engine uses; not a network of the mesh, or it comes back.
	}
	var networks []struct{ Name string }
	if err := mesh.MeshdJSON(w.ctx, mesh.Host("h3"), &networks, "network", "ls"); err != nil || !strings.Contains(fmt.Sprint(networks), "chosen") {
		t.Errorf("meshd network ls: %v, %v", networks, err)
	}
	if _, err := mesh.Meshd(w.ctx, mesh.Host("h3"), "network", "create", "byhand"); err != nil {
		t.Fatal(err)
	}
	w.mirrored("byhand")

	w.web("h3", "user", "--network", "appnet")
	w.says(w.refused("h3", "network", "rm", "appnet"), "endpoint")
	w.docker("h3", "rm", "-f", "user")
	within(t, 10*time.Second, "h2 knows that nothing is on appnet", func() error { // or it refuses
		var endpoints []struct{ Name, Network string }
		if err := mesh.MeshdJSON(w.ctx, mesh.Host("h2"), &endpoints, "endpoint", "ls"); err != nil {
			return err
		}
		for _, e := range endpoints {
			if e.Network == "appnet" {
				return fmt.Errorf("%v", endpoints)
			}
		}
		return nil
	})
	for _, name := range []string{"appnet", "chosen", "byhand"} {
		w.docker("h2", "network", "rm", name)
		within(t, 3*time.Second, name+" is gone everywhere", func() error {
			for host, e := range engines {
				if out, err := e.Docker(w.ctx, "network", "inspect", name); err == nil {
					return fmt.Errorf("%s: %s", host, out)
				}
			}
			return nil
		})
	}
	if driver := w.docker("h2", "network", "inspect", "--format", "{{.Driver}}", "meshed"); driver != "bridge" {
		t.Errorf("the network of another driver is of %s now", driver)
	}
}

// TestNetworkInUseElsewhereStays: a host that removes a network which others use has it again.
func TestNetworkInUseElsewhereStays(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h3", "user", "--network", "appnet")
	_, _ = engines["h1"].Docker(w.ctx, "network", "rm", "appnet") // refused, or it comes back
	w.mirrored("appnet")
	w.web("h1", "one", "--network", "appnet")
	w.reaches("h1", "one", "http://user", "user")
	// Prune removes what this engine does not use: the same.
	w.docker("h2", "network", "prune", "-f")
	w.mirrored("appnet")
	w.web("h2", "two", "--network", "appnet")
	w.reaches("h2", "two", "http://user", "user")
}

// TestAddresses: no two hosts hand out one address, and one that is asked for is given or refused.
func TestAddresses(t *testing.T) {
	w := newWorld(t)
	w.network("appnet", "--subnet", "10.202.0.0/16")
	seen := make(map[string]string)
	w.all(func(host string, _ *engine.Engine) {
		for i := range 3 {
			name := fmt.Sprintf("c%d", i)
			w.web(host, name, "--network", "appnet")
			address := w.ip(host, name, "appnet")
			if before, ok := seen[address]; ok || !strings.HasPrefix(address, "10.202.") {
				t.Errorf("%s on %s has %s, as has %q", name, host, address, before)
			}
			seen[address] = host + "/" + name
		}
	})
	w.web("h1", "chosen", "--network", "appnet", "--ip", "10.202.77.77")
	if address := w.ip("h1", "chosen", "appnet"); address != "10.202.77.77" {
		t.Errorf("--ip gave %s", address)
	}
	w.reaches("h3", "c0", "http://10.202.77.77", "chosen")
	for _, host := range []string{"h1", "h2"} {
		w.says(w.refused(host, "run", "--rm", "--network", "appnet", "--ip", "10.202.77.77", "peer", "/labpeer", "lookup", "chosen"), "10.202.77.77")
	}
	w.refused("h2", "run", "--rm", "--network", "appnet", "--ip", "10.99.0.1", "peer", "/labpeer", "lookup", "chosen")
	// The address is free again when its container has gone: --ip works as for a container that is replaced.
	w.docker("h1", "rm", "-f", "chosen")
	w.web("h1", "again", "--network", "appnet", "--ip", "10.202.77.77")
	w.reaches("h3", "c0", "http://again", "again")
}

// TestIsolation: networks do not reach each other, internal ones reach nothing outside, others do.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	w.network("one")
	w.network("two", "--internal")
	w.web("h1", "aa", "--network", "one")
	w.web("h2", "bb", "--network", "two")
	w.finds("h1", "aa", "aa")
	w.misses("h1", "aa", "bb")
	if out, err := w.exec("h1", "aa", "/labpeer", "get", "http://"+w.ip("h2", "bb", "two")); err == nil {
		t.Errorf("one network reaches another: %s", out)
	}
	w.background("outside", peerBinary, "web", "outside", "8000")
	w.reaches("h1", "aa", "http://10.77.0.100:8000", "outside")
	if out, err := w.exec("h2", "bb", "/labpeer", "get", "http://10.77.0.100:8000"); err == nil {
		t.Errorf("an internal network reaches outside: %s", out)
	}
}
