package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Tests is what the tests of a package share: programs of ours, and hosts of a lab. It is for their TestMain.
type Tests struct {
	Package  string            // named in messages
	Programs []string          // that must be installed, besides those of every lab
	Builds   map[string]string // programs of ours to build: name → package
	// Open makes what the tests share, with the programs that were built in dir. What it says when it fails should be all
	// that is known of the hosts.
	Open func(ctx context.Context, dir string) error
	// Close removes it, also if Open failed half-way, and when the tests are interrupted.
	Close func() error
}

// Main runs the tests, and ends the process with their result. Without root they are skipped; in CI that is an error.
// m is a *testing.M.
func (t Tests) Main(m interface{ Run() int }) {
	code, err := t.run(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", t.Package, err)
		code = 1
	}
	os.Exit(code)
}

func (t Tests) run(m interface{ Run() int }) (code int, err error) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			return 1, errors.New("these tests need root")
		}
		fmt.Println("SKIPPED: these tests make hosts of namespaces, which needs root")
		return 0, nil
	}
	if err := Require(t.Programs...); err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "meshd-test-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Setenv("TMPDIR", dir); err != nil { // what the tests leave there goes with it
		return 1, err
	}
	if err := t.build(ctx, dir); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := t.Open(ctx, dir); err != nil {
		return 1, err
	}
	ended := context.AfterFunc(ctx, func() {
		// Interrupted: the tests end where they are.
		if err := errors.Join(t.Close(), CloseAll(), os.RemoveAll(dir)); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", t.Package, err)
		}
		os.Exit(130)
	})
	defer ended() // before stop, which ends ctx too
	return m.Run(), nil
}

func (t Tests) build(ctx context.Context, dir string) error {
	for name, pkg := range t.Builds {
		if err := Build(ctx, filepath.Join(dir, name), pkg); err != nil {
			return err
		}
	}
	return nil
}

// Build builds a package's program at path, as a lab's hosts can run it.
func Build(ctx context.Context, path, pkg string, flags ...string) error {
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", path, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", filepath.Base(path), err, out)
	}
	return nil
}
