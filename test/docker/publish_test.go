package docker

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestPublishedPort: -p answers on every host, for everybody; the label meshd.publish=host keeps it to one.
func TestPublishedPort(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h2", "web", "--network", "appnet", "-p", "8080:80")
	for _, host := range []string{"h1", "h2", "h3"} {
		w.answers("outside", "http://"+mesh.Host(host).IP+":8080", "web")
		w.answers("outside", "http://["+mesh.Host(host).IP6+"]:8080", "web")
		w.answers(host, "http://127.0.0.1:8080", "web")
	}
	out, err := mesh.Host("outside").Run(w.ctx, "curl", "-sS", "-m30", "http://10.77.0.3:8080")
	if err != nil || !strings.Contains(out, " 10.77.0.100:") {
		t.Errorf("the replica sees %q (%v), not the client's address", out, err)
	}

	w.web("h3", "local", "--network", "appnet", "--label", "meshd.publish=host", "-p", "8081:80")
	w.answers("outside", "http://10.77.0.3:8081", "local")
	w.answers("h3", "http://127.0.0.1:8081", "local")
	for _, host := range []string{"h1", "h2"} {
		if out, err := mesh.Host("outside").Run(w.ctx, "curl", "-sS", "-m2", "http://"+mesh.Host(host).IP+":8081"); err == nil {
			t.Errorf("port 8081 answers on %s: %s", host, out)
		}
	}

	// The port closes with its last container.
	w.docker("h2", "rm", "-f", "web")
	within(t, 5*time.Second, "port 8080 is closed everywhere", func() error {
		for _, h := range mesh.Members() {
			if out, err := mesh.Host("outside").Run(w.ctx, "curl", "-sS", "-m2", "http://"+h.IP+":8080"); err == nil {
				return fmt.Errorf("%s still answers: %s", h.Name, out)
			}
		}
		return nil
	})
	// Ports of Docker's own networks are Docker's.
	w.web("h1", "own", "-p", "8082:80")
	w.answers("outside", "http://10.77.0.1:8082", "own")
}
