package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// podman runs Podman on a host with meshd's networks and nothing of the machine's own
// settings. What it stores goes with the host.
func podman(t *testing.T, c *cni, args ...string) (string, error) {
	t.Helper()
	return c.host.Run(testContext(t), "env", append([]string{
		"CONTAINERS_CONF=" + filepath.Join(c.lists, "containers.conf"),
		"CONTAINERS_STORAGE_CONF=" + filepath.Join(c.lists, "storage.conf"),
		"CONTAINERS_REGISTRIES_CONF=/dev/null",
		"podman",
	}, args...)...)
}

// newPodman sets Podman up on a host, with one image: labpeer and nothing else.
func newPodman(t *testing.T, h *lab.Host, lists map[string]string) *cni {
	t.Helper()
	if err := lab.Require("podman", "conmon", "runc"); err != nil {
		t.Fatal(err)
	}
	c := newCNI(t, h, lists)
	for name, text := range map[string]string{
		"containers.conf": fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = [%q]
network_config_dir = %q
`, c.bin, c.lists),
		"storage.conf": `[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
`,
	} {
		if err := os.WriteFile(filepath.Join(c.lists, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pack := "tar -C " + filepath.Dir(peerBinary) + " -cf " + c.lists + "/image.tar labpeer"
	if out, err := h.Run(testContext(t), "sh", "-c", pack); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := podman(t, c, "import", "-q", filepath.Join(c.lists, "image.tar"), "labpeer"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return c
}

// TestPodman: containers of Podman on two hosts find each other, by names of Podman's own.
func TestPodman(t *testing.T) {
	newNetwork(t, shared, "podnet")
	lists := map[string]string{"pod": conflist("1.0.0", "podnet", `,"capabilities":{"aliases":true,"portMappings":true}`)}
	h1, h2 := shared.Host("h1"), shared.Host("h2")
	one, two := newPodman(t, h1, lists), newPodman(t, h2, lists)
	if out, err := podman(t, two, "run", "-d", "--name", "db-1", "--network", "podnet", "--network-alias", "poddb", "-p", "8087:80",
		"labpeer", "/labpeer", "serve", "poddb", "80"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := podman(t, two, "rm", "-f", "-t", "1", "db-1"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if rows := endpointsNamed(t, h2, "db-1"); len(rows) > 0 {
			t.Errorf("left: %+v", rows)
		}
	})
	within(t, 20*time.Second, "a container asks another host's by its alias", func() error {
		out, err := podman(t, one, "run", "--rm", "--network", "podnet", "labpeer", "/labpeer", "ask", "tcp", "poddb:80")
		if err == nil && !strings.HasPrefix(out, "poddb ") {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	})
	within(t, 20*time.Second, "the published port answers on another host", func() error {
		out, err := h1.Run(testContext(t), peerBinary, "ask", "tcp", "127.0.0.1:8087")
		if err == nil && !strings.HasPrefix(out, "poddb ") {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	})
	if out, err := podman(t, two, "restart", "-t", "1", "db-1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	within(t, 20*time.Second, "it is found again after a restart", func() error {
		_, err := podman(t, one, "run", "--rm", "--network", "podnet", "labpeer", "/labpeer", "ask", "tcp", "poddb:80")
		return err
	})
	if out, err := podman(t, one, "run", "--rm", "--network", "podnet", "--ip", "10.0.0.9", "labpeer", "/labpeer", "ask", "tcp", "poddb:80"); err == nil {
		t.Errorf("an address was asked for, and not refused: %s", out)
	}
}
