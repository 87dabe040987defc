// Package docker tests meshd with real Docker Engines, one on each of three hosts of a lab. Nothing of
// Docker's is configured. The tests share the lab, and leave it as they found it.
package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/lab/engine"
)

var (
	mesh        *lab.Mesh
	engines     map[string]*engine.Engine // by host
	peerBinary  string
	peerImage   engine.Image
	meshdBinary string
)

func TestMain(m *testing.M) {
	lab.Tests{
		Package:  "test/docker",
		Programs: append([]string{"nft", "curl", "wrk", "docker-compose"}, engine.Programs...),
		Builds:   map[string]string{"meshd": "../../cmd/meshd", "labpeer": "../labpeer"},
		Open: func(ctx context.Context, dir string) error {
			meshdBinary, peerBinary = filepath.Join(dir, "meshd"), filepath.Join(dir, "labpeer")
			err := open(ctx)
			if err == nil {
				return nil
			}
			for _, e := range engines {
				err = fmt.Errorf("%w\n--- agent on %s\n%s\n--- dockerd\n%s", err, e.Host.Name, mesh.LogTail(e.Host), e.LogTail())
			}
			return err
		},
		Close: closeAll,
	}.Main(m)
}

// open makes three hosts in a mesh and an engine on each, all with the tests' image.
func open(ctx context.Context) (err error) {
	if peerImage, err = engine.Peer(peerBinary); err != nil {
		return err
	}
	mesh, err = lab.NewMesh(ctx, meshdBinary, lab.Options{Name: fmt.Sprintf("docker%d", os.Getpid()), Hosts: 3, Outside: true})
	if err != nil {
		return err
	}
	if err := mesh.Form(ctx); err != nil {
		return err
	}
	// The hosts' name server, which knows one name; to all others it says at once that there are none.
	names := mesh.Host("outside").Command(context.WithoutCancel(ctx), peerBinary, "names", "10.77.0.100:53", "outside.example=192.0.2.7")
	if err := names.Start(); err != nil { // it ends with its host
		return err
	}
	go func() { _ = names.Wait() }()
	engines = make(map[string]*engine.Engine)
	type started struct {
		e   *engine.Engine
		err error
	}
	results := make(chan started)
	for _, h := range mesh.Members() {
		go func() {
			e, err := engine.New(ctx, h, engine.Options{})
			if err == nil {
				err = e.Load(ctx, peerImage)
			}
			results <- started{e, err}
		}()
	}
	for range mesh.Members() {
		r := <-results
		if r.e != nil {
			engines[r.e.Host.Name] = r.e
		}
		err = errors.Join(err, r.err)
	}
	return err
}

func closeAll() error {
	var errs []error
	for _, e := range engines {
		errs = append(errs, e.Close())
	}
	if mesh != nil {
		errs = append(errs, mesh.Close())
	}
	engine.Sweep()
	return errors.Join(errs...)
}

// testContext ends after a time in which nothing goes on but a test that hangs. At the test's end
// every engine must be as empty as before; a test that failed reports what is known of the hosts.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			report(t)
		}
		cleanUp(t)
	})
	return ctx
}

// cleanUp removes all containers and networks, and fails the test if something stays.
func cleanUp(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	onAll(t, func(e *engine.Engine) error {
		ids, err := e.Docker(ctx, "ps", "-aq")
		if err != nil || ids == "" {
			return err
		}
		_, err = e.Docker(ctx, append([]string{"rm", "-fv"}, strings.Fields(ids)...)...)
		return err
	})
	within(t, 20*time.Second, "nothing is left", func() error {
		for _, e := range engines {
			names, err := e.Docker(ctx, "network", "ls", "-q", "--filter", "type=custom")
			if err != nil {
				return err
			}
			if names != "" {
				out, err := e.Docker(ctx, append([]string{"network", "rm"}, strings.Fields(names)...)...)
				return fmt.Errorf("%s still had networks: %s %w", e.Host.Name, out, err)
			}
		}
		return noEndpoints(ctx)
	})
}

// noEndpoints fails while the mesh has endpoints or networks, on any host.
func noEndpoints(ctx context.Context) error {
	for _, h := range mesh.Members() {
		var endpoints, networks []struct{ Name, Node string }
		if err := mesh.MeshdJSON(ctx, h, &endpoints, "endpoint", "ls"); err != nil {
			return err
		}
		if err := mesh.MeshdJSON(ctx, h, &networks, "network", "ls"); err != nil {
			return err
		}
		for _, n := range networks {
			if n.Name != "ingress" {
				endpoints = append(endpoints, n)
			}
		}
		if len(endpoints) > 0 {
			return fmt.Errorf("%s still knows of %v", h.Name, endpoints)
		}
	}
	return nil
}

// onAll does something with all engines at once.
func onAll(t *testing.T, do func(*engine.Engine) error) {
	t.Helper()
	failures := make(chan error, len(engines))
	for _, e := range engines {
		go func() { failures <- do(e) }()
	}
	for range engines {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}

// report logs what is known of the hosts.
func report(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const look = `docker ps -a; docker network ls; for ns in /run/meshd/endpoints/*; do
		echo "# $ns"; nsenter --net=$ns sh -c 'ip -br addr; ip route' 2>&1
	done; ip -br addr; iptables-save -t nat`
	for _, e := range engines {
		state, err := e.Host.Run(ctx, "sh", "-c", look)
		endpoints, _ := mesh.Meshd(ctx, e.Host, "endpoint", "ls")
		t.Logf("--- agent on %s\n%s\n--- dockerd on %s\n%s\n--- state (%v)\n%s%s",
			e.Host.Name, mesh.LogTail(e.Host), e.Host.Name, e.LogTail(), err, state, endpoints)
	}
}

// within waits for a condition, and fails the test if it does not come in time, by the lab's clock.
func within(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	began := time.Now()
	if err := lab.Within(context.Background(), limit, try); err != nil {
		t.Fatalf("not within %s: %s: %v after %s", limit, what, err, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
}
