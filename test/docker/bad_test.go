package docker

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestBadInput: what cannot be is refused in words that say what to do, and leaves nothing behind; the clean-up of
// every test looks for that.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	create := []string{"network", "create", "-d", "meshd"}
	w.network("appnet", "--subnet", "10.203.0.0/16")
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"overlap":    {append(create, "--subnet", "10.203.7.0/24", "over"), []string{"10.203.7.0/24", "overlaps", "appnet"}},
		"host's own": {append(create, "--subnet", "10.77.0.0/16", "hosts"), []string{"10.77.0.0/16", "overlaps", "10.77.0.0/24"}},
		"too small":  {append(create, "--subnet", "10.204.0.0/30", "tiny"), []string{"10.204.0.0/30"}},
		"taken":      {append(create, "appnet"), []string{"appnet", "exists"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, ctx: w.ctx}
			w.says(w.refused("h2", c.args...), c.says...)
		})
	}
}

// TestNameOfAnotherDriver: a network's name that is another driver's on one host stays that on this host, and
// the host says so.
func TestNameOfAnotherDriver(t *testing.T) {
	w := newWorld(t)
	w.docker("h2", "network", "create", "taken")
	w.docker("h1", "network", "create", "-d", "meshd", "taken")
	within(t, 5*time.Second, "h2's agent says that it cannot make the network", func() error {
		out, _ := mesh.Meshd(w.ctx, mesh.Host("h2"), "status") // exits with 1 for it
		if !strings.Contains(out, "taken") || !strings.Contains(out, "bridge") {
			return fmt.Errorf("status: %s", out)
		}
		return nil
	})
	if driver := w.docker("h2", "network", "inspect", "--format", "{{.Driver}}", "taken"); driver != "bridge" {
		t.Errorf("the network is of %s now", driver)
	}
	w.docker("h2", "network", "rm", "taken")
	w.mirrored("taken")
}

// TestFullNetwork: a subnet without a free address says so.
func TestFullNetwork(t *testing.T) {
	w := newWorld(t)
	w.network("small", "--subnet", "10.205.0.0/29")
	said := ""
	for i := range 16 {
		if _, err := engines["h1"].Docker(w.ctx, "run", "-d", "--network", "small", "--name", fmt.Sprint("c", i), "peer"); err != nil {
			said = err.Error()
			break
		}
	}
	w.says(said, "small", "address")
}

// TestPortTakenTwice: two services cannot have one port; the second is refused, and says whose it is.
func TestPortTakenTwice(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "first", "--network", "appnet", "-p", "8080:80")
	w.answers("outside", "http://10.77.0.2:8080", "first")
	w.says(w.refused("h2", "run", "-d", "--name", "second", "--network", "appnet", "-p", "8080:80", "peer"), "8080", "first")
	w.answers("outside", "http://10.77.0.2:8080", "first")
}

// TestBadLabels: a label that means nothing is refused, and the container does not start half.
func TestBadLabels(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	for _, label := range []string{"meshd.publish=everywhere", "meshd.service=not a name"} {
		w.says(w.refused("h1", "run", "-d", "--network", "appnet", "-p", "8083:80", "--label", label, "peer"), label)
	}
}
