package engine_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/lab/engine"
)

func TestEngine(t *testing.T) {
	linktest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l, err := lab.New(ctx, lab.Options{Name: fmt.Sprintf("engine%d", os.Getpid()), Hosts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	lap := func(what string) {
		t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
	}
	e, err := engine.New(ctx, l.Host("h1"), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lap("the engine answers")
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if groups, _ := filepath.Glob("/sys/fs/cgroup/*/meshd-lab/" + filepath.Base(l.Dir)); len(groups) > 0 {
			t.Errorf("left: %v", groups)
		}
	})
	peer := filepath.Join(t.TempDir(), "labpeer")
	if err := lab.Build(ctx, peer, "../../labpeer"); err != nil {
		t.Fatal(err)
	}
	lap("labpeer is built")
	image, err := engine.Peer(peer)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Load(ctx, image); err != nil {
		t.Fatal(err)
	}
	lap("the image is there")
	out, err := e.Docker(ctx, "run", "--rm", "peer", "sh", "-c", "echo from $(hostname)")
	if err != nil || !strings.HasPrefix(out, "from ") {
		t.Fatalf("%q, %v", out, err)
	}
	lap("a container ran")
	if _, err := e.Docker(ctx, "run", "-d", "--name", "stays", "peer"); err != nil {
		t.Fatal(err)
	}
	if err := e.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	lap("it was killed and is back")
	if err := e.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	lap("it was restarted")
	var stays struct{ State struct{ Status string } }
	if err := e.Inspect(ctx, &stays, "stays"); err != nil || stays.State.Status != "exited" {
		t.Errorf("%+v, %v", stays, err)
	}
}
