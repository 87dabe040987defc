package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// show is the demonstration while it runs.
type show struct {
	ctx     context.Context // ends with the program: there is one show in it
	mesh    *lab.Mesh
	page    *page
	path    string
	checks  int
	engines fleet // with -docker
	// secrets are tokens and codes, which are shown shortened.
	secrets []string
}

func (s *show) host(name string) *lab.Host { return s.mesh.Host(name) }

func (s *show) members() []string { return []string{"h1", "h2", "h3"} }

// shell prepares a command line for a host's shell, exactly as it is shown.
func (s *show) shell(ctx context.Context, host, command string) *exec.Cmd {
	cmd := s.host(host).Command(ctx, "sh", "-c", command)
	cmd.Env = append(cmd.Env, "PATH="+s.path, "NO_COLOR=1")
	return cmd
}

// quiet runs a command without showing it.
func (s *show) quiet(host, command string) (string, error) {
	var stderr strings.Builder
	cmd := s.shell(s.ctx, host, command)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s$ %s: %w: %s", host, command, err, strings.TrimSpace(stderr.String()+" "+string(out)))
	}
	return string(out), err
}

// run shows a command and what it prints, once that is what good expects. It tries again for
// some seconds before, unseen: news takes a moment to every host.
func (s *show) run(host, command string, good func(out string) error) error {
	out, err := s.until(host, command, good)
	s.page.typed(host, s.shorten(command))
	if err != nil {
		return err
	}
	s.page.printed(s.shorten(out))
	return nil
}

// patience is how long news may take. The promises are shorter; a machine that is busy
// with other things needs more.
const patience = 20 * time.Second

// waiting tries until something works.
func (s *show) waiting(try func() error) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return lab.WaitFor(ctx, try)
}

// until runs a command until it prints what good expects.
func (s *show) until(host, command string, good func(out string) error) (out string, err error) {
	err = s.waiting(func() error {
		var err error
		if out, err = s.quiet(host, command); err != nil {
			return err
		}
		if err := good(out); err != nil {
			return fmt.Errorf("%s$ %s: %w in: %s", host, command, err, out)
		}
		return nil
	})
	return out, err
}

// shorten leaves of a secret its beginning only: it is long, and says nothing to a reader.
func (s *show) shorten(text string) string {
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, secret[:min(16, len(secret))]+"…")
	}
	return text
}

// background starts what keeps running, a server, and waits until it is an endpoint of that name.
func (s *show) background(host, name, command string) error {
	s.page.typed(host, command+" &")
	var output strings.Builder
	cmd := s.shell(context.WithoutCancel(s.ctx), host, "exec "+command) // it ends with its host
	cmd.Stdout, cmd.Stderr = io.Discard, &output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s$ %s: %w", host, command, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(s.ctx, 15*time.Second)
	defer cancel()
	return lab.WaitFor(ctx, func() error {
		select {
		case err := <-ended:
			cancel()
			return fmt.Errorf("%s$ %s: it ended: %w: %s", host, command, err, output.String())
		default:
		}
		endpoints, err := s.endpoints()
		if err != nil {
			return err
		}
		for _, e := range endpoints {
			if e.Name == name {
				return nil
			}
		}
		return errors.New("there is no endpoint " + name + " yet")
	})
}

func (s *show) checked(what string) {
	s.checks++
	s.page.good(what)
}

type endpoint struct{ ID, Name, Service, Network, Node, IP, IP6 string }

func (s *show) endpoints() ([]endpoint, error) {
	var list []endpoint
	err := s.mesh.MeshdJSON(s.ctx, s.host("h1"), &list, "endpoint", "ls")
	return list, err
}

type service struct {
	VIP       string
	Endpoints []endpoint
}

func (s *show) service(host, name string) (service, error) {
	var found service
	err := s.mesh.MeshdJSON(s.ctx, s.host(host), &found, "service", "inspect", name)
	return found, err
}

// explainFailure shows the ends of the agents' logs: the hosts are gone in a moment.
func (s *show) explainFailure() {
	for _, h := range s.mesh.Members() {
		s.page.line("\n--- the end of the agent's log on " + h.Name)
		for line := range strings.SplitSeq(s.mesh.LogTail(h), "\n") {
			if !strings.Contains(line, " level=DEBUG ") {
				s.page.line(line)
			}
		}
	}
}

// onNetwork is a command line that runs as an endpoint, with the network's names.
func onNetwork(command string) string { return "meshd run --network appnet -- " + command }

// has expects all of the words.
func has(words ...string) func(string) error {
	return func(out string) error {
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("no %q", w)
			}
		}
		return nil
	}
}
