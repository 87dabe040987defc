package agent

import (
	"os"
	"strings"
	"testing"

	"github.com/meshd/meshd/configs"
	"github.com/meshd/meshd/plugin/docker"
)

// What systemd starts to answer Docker is what the agent would start by itself, and so looks for.
func TestDockerUnitServesTheAgentsSocket(t *testing.T) {
	text, err := os.ReadFile("../configs/meshd-docker.service")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: configs.Default()}
	want := "\nExecStart=/usr/bin/meshd " + docker.StandInCommand + " --listen " + dockerPlugin + " --agent " + a.dockerSocket() + "\n"
	if !strings.Contains(string(text), want) {
		t.Errorf("the unit does not say%s", want)
	}
}
