// Command demo shows a mesh of three hosts on this one machine, and checks what it shows: a
// database and a replicated web service, found by name, spread by a virtual IP and
// published on every host.
//
//	demo [-docker] MESHD WEB
//
// With -docker the services are containers of three Docker Engines, one on each host.
//
// The hosts are sets of namespaces and go with the demonstration, however it ends. What runs
// on them is the real meshd, a real redis and a real web service.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// limit ends a demonstration that hangs.
const limit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; everything is removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	withDocker := len(args) > 0 && args[0] == "-docker"
	if withDocker {
		args = args[1:]
	}
	if len(args) != 2 {
		return errors.New("usage: demo [-docker] MESHD WEB (see the Makefile)")
	}
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces, which needs root: run: sudo make demo")
	}
	if err := lab.Require("redis-server", "redis-cli", "curl", "dig", "tcpdump"); err != nil {
		return err
	}
	programs, err := findPrograms(args[0], args[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	mesh, err := lab.NewMesh(ctx, programs.meshd, lab.Options{Name: fmt.Sprintf("demo%d", os.Getpid()), Hosts: 3, Outside: true})
	if err != nil {
		return err
	}
	show := &show{ctx: ctx, mesh: mesh, page: newPage(os.Stdout), path: programs.path()}
	if withDocker {
		err = show.docker()
	} else {
		err = show.all()
	}
	if err != nil && ctx.Err() == nil {
		show.explainFailure()
	}
	if err := errors.Join(err, show.engines.close(), mesh.Close()); err != nil {
		return err
	}
	show.page.end(fmt.Sprintf("demo: everything worked: %d checks in %d seconds; nothing of it is left on this machine",
		show.checks, int(time.Since(began).Seconds())))
	return nil
}

// programs are the two that the demonstration is given.
type programs struct{ meshd, web string }

func findPrograms(meshd, web string) (programs, error) {
	for _, p := range []*string{&meshd, &web} {
		absolute, err := filepath.Abs(*p)
		if err != nil {
			return programs{}, err
		}
		if _, err := os.Stat(absolute); err != nil {
			return programs{}, fmt.Errorf("%w: run: make demo", err)
		}
		*p = absolute
	}
	return programs{meshd, web}, nil
}

// path is a PATH in which both are found by name, so that a command runs just as it is shown.
func (p programs) path() string {
	return filepath.Dir(p.meshd) + ":" + filepath.Dir(p.web) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
}
