package docker

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"syscall"
	"testing"
)

var hurries = flag.Int("docker.hurry", 0, "how often a network is made and used in one line, on a machine that is busy and on one that is not")

// TestHurry: a network is made, and a container started on it in the same line, while meshd makes it anew with its own IPAM.
func TestHurry(t *testing.T) {
	if *hurries == 0 {
		t.Skip("runs only with -docker.hurry N, as `make soak-docker` does: it takes its time")
	}
	w := newWorld(t)
	w.ctx = context.Background()
	try := func(load string) {
		failed := 0
		for i := range *hurries {
			name := fmt.Sprintf("%s%d", load, i)
			out, err := mesh.Host("h1").Run(w.ctx, "sh", "-c",
				"docker network create -d meshd "+name+" && docker run --rm --network "+name+" peer sh -c :")
			if err != nil {
				failed++
				t.Logf("%s: %v: %s", name, err, out)
			}
			w.docker("h1", "network", "rm", name)
		}
		fmt.Printf("%s: of %d networks that were made and used in one line %d could not be used\n", load, *hurries, failed)
		if failed > 0 {
			t.Errorf("%s: %d of %d failed", load, failed, *hurries)
		}
	}
	try("quiet")
	for range 2 * runtime.NumCPU() {
		end := w.background("h3", "sh", "-c", "while :; do :; done")
		defer end(syscall.SIGKILL)
	}
	try("busy")
}
