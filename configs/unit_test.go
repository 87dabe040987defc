package configs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The unit says what the agent's design depends on, and systemd accepts it.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("meshd.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := string(text)
	for _, line := range []string{"Type=notify", "KillMode=process", "RuntimeDirectoryPreserve=yes", "Restart=always", "Before=docker.service"} {
		if !strings.Contains(unit, "\n"+line) {
			t.Errorf("no line begins with %s", line)
		}
	}
	for _, private := range []string{"ProtectSystem", "PrivateTmp", "ProtectHome", "PrivateDevices", "ReadWritePaths", "ProtectKernelTunables"} {
		if strings.Contains(unit, "\n"+private+"=") {
			t.Errorf("%s gives the agent a mount namespace of its own: nobody would see its namespaces", private)
		}
	}
	verify(t, "meshd.service")
}

// The host is drained before what it serves ends, and by nothing else than its own end.
func TestDrainUnit(t *testing.T) {
	text, err := os.ReadFile("meshd-drain.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := string(text)
	for _, line := range []string{"After=meshd.service docker.service", "RemainAfterExit=yes", "ExecStop=-/usr/bin/meshd service drain --all"} {
		if !strings.Contains(unit, "\n"+line) {
			t.Errorf("no line begins with %s", line)
		}
	}
	for _, bound := range []string{"PartOf", "BindsTo", "Requires"} {
		if strings.Contains(unit, "\n"+bound+"=") {
			t.Errorf("%s drains the host with each restart of the agent", bound)
		}
	}
	verify(t, "meshd-drain.service")
}

// Docker is answered from boot on, whatever becomes of the agent.
func TestDockerUnit(t *testing.T) {
	text, err := os.ReadFile("meshd-docker.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := string(text)
	for _, line := range []string{"Type=notify", "Before=docker.service", "WantedBy=docker.service", "ReadWritePaths=/run"} {
		if !strings.Contains(unit, "\n"+line) {
			t.Errorf("no line begins with %s", line)
		}
	}
	for _, bound := range []string{"After", "PartOf", "BindsTo", "Requires"} {
		if strings.Contains(unit, "\n"+bound+"=") {
			t.Errorf("%s has Docker wait for something else", bound)
		}
	}
	verify(t, "meshd-docker.service")
}

// verify has systemd read a unit.
func verify(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is missing: run: make deps")
		}
		t.Skip("systemd-analyze is not there to verify the unit: run: make deps")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// The binary is not installed where the tests run: put one that is in its place.
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/bin/meshd", "/bin/true")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if strings.Contains(string(out), "Failed to initialize manager") {
		t.Skipf("systemd-analyze cannot run here: %s", out)
	}
	if err != nil || strings.Contains(string(out), name) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
