package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/api/apitest"
	"github.com/meshd/meshd/configs"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"meshd": func() {
		version = "1.0.0-test"
		startAgent = serveFake
		main()
	}})
}

// serveFake is `meshd agent` with a fake backend.
func serveFake(ctx context.Context, config configs.Config, log *slog.Logger, version string) error {
	listener, err := api.Listen(config.Socket())
	if err != nil {
		return err
	}
	return api.NewServer(new(apitest.Backend), api.Options{Log: log, Version: version}).Serve(ctx, listener)
}

// daemon is the fake daemon of one script.
type daemon struct {
	backend *apitest.Backend
	cancel  context.CancelFunc
	done    chan error
}

type daemonKey struct{}

// startDaemon serves a fake backend on a socket.
func startDaemon(socket string, onAttach func(context.Context, api.AttachRequest) error) (*daemon, error) {
	listener, err := api.Listen(socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{backend: &apitest.Backend{OnAttach: onAttach}, cancel: cancel, done: make(chan error, 1)}
	go func() { d.done <- api.NewServer(d.backend, api.Options{Version: "1.0.0-daemon"}).Serve(ctx, listener) }()
	return d, nil
}

func (d *daemon) stop() error {
	d.cancel()
	return <-d.done
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("MESHD_SOCKET", filepath.Join(env.WorkDir, "run", "meshd.sock"))
			env.Values[daemonKey{}] = new(*daemon)
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return isRoot(), nil
			}
			return false, fmt.Errorf("unknown condition %s", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":  daemonCommand,
			"changes": changesCommand,
		},
	})
}

func isRoot() bool {
	root := os.Geteuid() == 0
	if !root && os.Getenv("CI") != "" {
		panic("in CI the tests of meshd run have to run as root")
	}
	return root
}

// daemonCommand is `daemon start`, `daemon break PROBLEM...`.
func daemonCommand(ts *testscript.TestScript, _ bool, args []string) {
	slot := ts.Value(daemonKey{}).(**daemon)
	switch {
	case len(args) == 1 && args[0] == "start":
		d, err := startDaemon(ts.Getenv("MESHD_SOCKET"), nil)
		ts.Check(err)
		*slot = d
		ts.Defer(func() { ts.Check(d.stop()) })
	case len(args) > 1 && args[0] == "break" && *slot != nil:
		(*slot).backend.Break(args[1:]...)
	default:
		ts.Fatalf("usage: daemon start, then daemon break PROBLEM...")
	}
}

// changesCommand is `changes FILE`: the daemon was asked for exactly these changes.
func changesCommand(ts *testscript.TestScript, _ bool, args []string) {
	got := ""
	for _, change := range (*ts.Value(daemonKey{}).(**daemon)).backend.Changes() {
		got += change + "\n"
	}
	if want := ts.ReadFile(args[0]); got != want {
		ts.Fatalf("changes are\n%swant\n%s", got, want)
	}
}

// Each command explains itself, with an example, and what it says is true of its flags.
func TestHelp(t *testing.T) {
	root := newRoot(newApp())
	commands := root.Commands()
	for i := 0; i < len(commands); i++ {
		c := commands[i]
		commands = append(commands, c.Commands()...)
		if c.Hidden || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" || c.HasSubCommands() {
			continue
		}
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		if (c.Flags().Lookup("output") != nil) != strings.Contains(c.UseLine(), "[-o json]") {
			t.Errorf("%s: the usage line and the flags differ about -o", c.CommandPath())
		}
	}
}
