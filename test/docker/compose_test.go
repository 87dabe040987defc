package docker

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab/engine"
)

var (
	composeRounds = flag.Int("compose.rounds", 1, "how often the example goes up and down")
	composeV2     = flag.String("compose.v2", "", "path of a docker-compose of version 2, to do the same with it")
)

// example is the path of the compose example.
func example(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "examples", "compose", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// loadExample builds the example's images on h1 and hands them to the others.
func loadExample(w *world) {
	w.Helper()
	here, err := os.Getwd()
	if err != nil {
		w.Fatal(err)
	}
	if out, err := mesh.Host("h1").Run(w.ctx, "env", "-C", here, example(w.T, "images")); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	images := []string{"meshd-example/app", "meshd-example/db", "meshd-example/proxy"}
	archive := filepath.Join(w.TempDir(), "images.tar")
	w.docker("h1", append([]string{"save", "-o", archive}, images...)...)
	for _, host := range []string{"h2", "h3"} {
		w.docker(host, "load", "-i", archive)
	}
}

// TestCompose: the example is spread over three hosts, and works; and goes without leaving anything, again and again.
func TestCompose(t *testing.T) {
	w := newWorld(t)
	loadExample(w)
	upAndDown(w, "docker-compose") // of version 1, the distribution's
}

// TestComposeV2 is the same with the version 2 that Docker's packages have, which the distribution does not.
func TestComposeV2(t *testing.T) {
	if *composeV2 == "" {
		t.Skip("runs only with -compose.v2 PATH, as `make soak-docker` does: building it takes minutes")
	}
	w := newWorld(t)
	loadExample(w)
	upAndDown(w, *composeV2)
}

// upAndDown has the example go up and down by a compose program, with each host's share of the services.
func upAndDown(w *world, program string) {
	w.Helper()
	if *composeRounds > 1 {
		w.ctx = context.Background() // it takes its time
	}
	services := map[string]string{"h1": "proxy app", "h2": "app", "h3": "app db"}
	compose := func(host, command string) (string, error) {
		out, err := mesh.Host(host).Run(w.ctx, "sh", "-c", program+" -f '"+example(w.T, "compose.yaml")+"' "+command+" 2>&1")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return out, err
	}
	for round := range *composeRounds {
		began := time.Now()
		up := func(host string) error {
			_, err := compose(host, "up -d "+services[host])
			return err
		}
		if err := up("h1"); err != nil { // it makes the network
			w.Fatal(err)
		}
		w.mirrored("shop")
		onAll(w.T, func(e *engine.Engine) error {
			if e.Host.Name == "h1" {
				return nil
			}
			return up(e.Host.Name)
		})
		if w.Failed() {
			w.FailNow()
		}
		w.Logf("round %d: up after %s", round, time.Since(began).Round(time.Millisecond))
		worksAsAShop(w)
		for _, host := range []string{"h1", "h2", "h3"} { // one after the other: the last one removes the network
			if _, err := compose(host, "down"); err != nil {
				w.Fatal(err)
			}
		}
		within(w.T, 5*time.Second, "nothing is left", func() error {
			for host, e := range engines {
				out, err := e.Docker(w.ctx, "ps", "-aq")
				if err != nil || out != "" {
					return fmt.Errorf("%s: %s %w", host, out, err)
				}
				if out, err = e.Docker(w.ctx, "network", "ls", "-q", "--filter", "driver=meshd"); err != nil || out != "" {
					return fmt.Errorf("%s: %s %w", host, out, err)
				}
			}
			return noEndpoints(w.ctx)
		})
	}
}

// worksAsAShop asks each host's port until all three replicas of the application have answered.
func worksAsAShop(w *world) {
	w.Helper()
	answered := make(map[string]bool)
	within(w.T, 20*time.Second, "all replicas answer, at each host's port", func() error {
		for _, h := range mesh.Members() {
			out, err := mesh.Host("outside").Run(w.ctx, "curl", "-sSf", "-m3", "http://"+h.IP+":8080")
			if err != nil {
				return err
			}
			_, who, _ := strings.Cut(out, " on ")
			who, _, _ = strings.Cut(who, ",")
			answered[who] = true
		}
		if len(answered) != 3 {
			return fmt.Errorf("answered: %v", answered)
		}
		return nil
	})
}
