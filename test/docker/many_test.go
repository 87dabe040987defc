package docker

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

var many = flag.Int("docker.many", 0, "how many containers run on one engine while its agent restarts")

// TestManyContainers: an engine with a hundred containers. Its agent restarts, and looks go on; what it costs to look after
// them is printed.
func TestManyContainers(t *testing.T) {
	if *many == 0 {
		t.Skip("runs only with -docker.many N, as `make soak-docker` does: it takes its time")
	}
	w := newWorld(t)
	w.ctx = context.Background()
	w.network("appnet")
	w.web("h1", "client", "--network", "appnet")
	h := mesh.Host("h2")
	look := func() time.Duration {
		return took(func() {
			if out, err := mesh.Meshd(w.ctx, h, "doctor", "--fix"); err != nil && !strings.Contains(out, "problem") {
				t.Log(err, out)
			}
		})
	}
	empty := look()
	began := time.Now()
	each := func(do func(name string) error) {
		t.Helper()
		var all errgroup.Group
		all.SetLimit(4)
		for i := range *many {
			all.Go(func() error { return do(fmt.Sprintf("c%d", i)) })
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	each(func(name string) error {
		run := append([]string{"run", "-d", "--name", name, "--network", "appnet"}, asksAgain...)
		_, err := engines["h2"].Docker(w.ctx, append(run, "peer", "/labpeer", "serve", name, "80")...)
		return err
	})
	started := time.Since(began)
	last := fmt.Sprintf("c%d", *many-1)
	w.finds("h1", "client", last)
	known := time.Since(began) - started
	full := look()
	asking := w.lookups("h2", "c0", last, "/tmp/stop")
	if err := mesh.SignalAgent(w.ctx, h, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ensureAgent(t, h) })
	answers := took(func() {
		if err := mesh.StartAgent(w.ctx, h); err != nil {
			t.Fatal(err)
		}
	})
	knows := took(func() { w.finds("h2", "c0", "client") }) // which Docker's resolver does not know
	later := took(func() {
		w.docker("h1", "run", "-d", "--name", "later", "--network", "appnet", "peer", "/labpeer", "serve", "later", "80")
		w.finds("h2", "c0", "later")
	})
	if _, err := w.exec("h2", "c0", "sh", "-c", ": > /tmp/stop"); err != nil {
		t.Fatal(err)
	}
	said := asking(0)
	fmt.Printf("%d containers: started in %s, the last known elsewhere %s later; doctor --fix takes %s, with none %s\n",
		*many, started.Round(time.Millisecond), known.Round(time.Millisecond), full.Round(time.Millisecond), empty.Round(time.Millisecond))
	fmt.Printf("the agent restarts: it answers after %s, answers names of other hosts %s later; a container started then is known after %s\n%s",
		answers.Round(time.Millisecond), knows.Round(time.Millisecond), later.Round(time.Millisecond), said)
	if !strings.Contains(said, " 0 failed") {
		t.Errorf("look-ups failed: %s", said)
	}
	// Not all at once: Docker 20.10 then loses count of a network's containers, and does not remove it any more.
	each(func(name string) error {
		_, err := engines["h2"].Docker(w.ctx, "rm", "-fv", name)
		return err
	})
}
