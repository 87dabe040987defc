// Command labctl makes and removes a lab of three joined hosts to play with.
//
//	labctl up MESHD [LABPEER]     make the hosts, start meshd on them, found a mesh; with LABPEER also start a
//	                              Docker Engine on each, which has an image "peer" of busybox and labpeer
//	labctl down                   end everything and remove it
//	labctl sh HOST [CMD ARG...]   a shell, or a command, on a host: h1, h2, h3, outside
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/lab/engine"
)

const name = "play"

var errUsage = errors.New("usage: labctl up MESHD [LABPEER] | down | sh HOST [CMD ARG...]")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "labctl:", err)
		code = 1
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 {
		return 2, errUsage
	}
	switch {
	case args[0] == "up" && (len(args) == 2 || len(args) == 3):
		return 0, up(ctx, args[1], args[2:])
	case args[0] == "down" && len(args) == 1:
		return 0, down()
	case args[0] == "sh" && len(args) >= 2:
		return shell(ctx, args[1], args[2:])
	default:
		return 2, errUsage
	}
}

func up(ctx context.Context, binary string, labpeer []string) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	if err := lab.Require(); err != nil {
		return err
	}
	if _, err := lab.Open(name); err == nil {
		return errors.New("the lab is up already: make lab-down ends it")
	}
	m, err := lab.NewMesh(ctx, binary, lab.Options{Name: name, Hosts: 3, Outside: true, Detached: true})
	if err != nil {
		return err
	}
	if err := m.Form(ctx); err != nil {
		return errors.Join(err, m.Close())
	}
	if len(labpeer) > 0 {
		if err := engines(ctx, m, labpeer[0]); err != nil {
			return errors.Join(err, down())
		}
	}
	for _, h := range m.Hosts {
		fmt.Printf("%-8s %s  %s\n", h.Name, h.IP, h.IP6)
	}
	fmt.Printf(`
The lab is up: h1, h2 and h3 are in one mesh; outside is not.

  bin/lab sh h1                      a shell on h1, with meshd in its PATH
  bin/lab sh h2 meshd members        one command on h2
  make lab-down                      end it all

Logs: %s/h1/logs/agent.log
`, m.Dir)
	return nil
}

// engines starts a Docker Engine on each host of the mesh.
func engines(ctx context.Context, m *lab.Mesh, labpeer string) error {
	image, err := engine.Peer(labpeer)
	if err != nil {
		return err
	}
	for _, h := range m.Members() {
		e, err := engine.New(ctx, h, engine.Options{})
		if err != nil {
			return err
		}
		if err := e.Load(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

func down() error {
	l, err := lab.Open(name)
	if err != nil {
		return err
	}
	defer engine.Sweep() // once the hosts are gone, and with them their engines
	return l.Close()
}

func shell(ctx context.Context, host string, args []string) (int, error) {
	l, err := lab.Open(name)
	if err != nil {
		return 1, err
	}
	for _, h := range l.Hosts {
		if h.Name != host {
			continue
		}
		if len(args) == 0 {
			args = []string{"bash", "--norc"}
		}
		here, err := os.Getwd()
		if err != nil {
			return 1, err
		}
		// Entering a host's mounts leaves the working directory behind.
		cmd := h.Command(context.WithoutCancel(ctx), "env", append([]string{"-C", here}, args...)...)
		self, err := os.Executable()
		if err != nil {
			return 1, err
		}
		cmd.Env = append(cmd.Env, "PS1="+host+"# ", "PATH="+filepath.Dir(self)+":"+os.Getenv("PATH"))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode(), nil
		}
		return 0, err
	}
	return 1, fmt.Errorf("no host %s: there are h1, h2, h3 and outside", host)
}
