package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

// Exit codes of `meshd run` for a command that did not start, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// drainPatience is how long a command that is asked to end waits until nobody sends it anything new.
const drainPatience = 2 * time.Second

// resolvConf is the file that tells a program its name server.
const resolvConf = "/etc/resolv.conf"

func runCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "run " + endpointUsage + " -- COMMAND [ARG]...",
		Short: "Run a command on networks",
		Long: `Run a command on networks, with an address of its own on each. It sees this host's files, users and
processes as any other command does; only its network is another one. Other endpoints of the network
find it by its service name. It is gone from there when it ends, and meshd run ends with its exit code.`,
		Example: `  sudo meshd run --network appnet --service db -- postgres -D /var/lib/pg
  sudo meshd run --network appnet --service web --publish 8080:80 -- ./web
  sudo meshd run --network appnet -- ping db`,
	}
	flags := addEndpointFlags(a, c)
	c.Flags().SetInterspersed(false) // the command's flags are its own
	c.Args = wants(1, 1<<20, "the command to run, after --,")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := flags.request()
		if err != nil {
			return err
		}
		r := runner{app: a, client: a.client(), command: args}
		return r.run(cmd.Context(), req)
	}
	return c
}

// runner runs one command as an endpoint.
type runner struct {
	app     *app
	client  *api.Client
	command []string
}

// run starts the child, attaches its namespace, lets it become the command, and waits
// for its end. Whatever fails, neither child nor endpoint is left behind.
func (r *runner) run(ctx context.Context, req api.AttachRequest) error {
	program, err := r.check(ctx)
	if err != nil {
		return err
	}
	child, err := startChild(r.app, program)
	if err != nil {
		return err
	}
	defer child.kill() // does nothing to one that has ended
	signals := forwardSignals(child, isTerminal(r.app.in))
	defer signals.stop()

	req.PID = child.pid()
	// Only signals itself ends this context: it then knows which one came.
	waiting, cancel := signals.until(context.WithoutCancel(ctx))
	attached, err := r.client.Attach(waiting, req)
	cancel()
	if err != nil {
		if sig := signals.caught(); sig != 0 {
			return exitCode(128 + int(sig))
		}
		return err
	}
	defer r.detach(ctx, attached.ID)
	if req.Service != "" || len(req.Publish) > 0 {
		signals.drainFirst(func() { r.drain(ctx, attached.ID) })
	}
	if sig := signals.deliver(); sig != 0 {
		return exitCode(128 + int(sig)) // it came before there was a command to handle it
	}
	if err := child.proceed(order{Program: program, Args: r.command, Endpoint: attached.ID, Nameserver: attached.Nameserver,
		Search: attached.Search, Runtime: runtimeDir(r.app.socketPath())}); err != nil {
		return err
	}
	return child.wait()
}

// check finds out all that can be known before anything is made.
func (r *runner) check(ctx context.Context) (program string, err error) {
	if os.Geteuid() != 0 {
		return "", errors.New("meshd run needs root: it makes a network namespace for the command: use sudo")
	}
	program, err = exec.LookPath(r.command[0])
	if errors.Is(err, exec.ErrDot) {
		err = fmt.Errorf("%s is in the current directory: write ./%s", r.command[0], r.command[0])
	}
	if err != nil {
		return "", startFailure(r.app, r.command[0], err)
	}
	if _, err := os.Stat(resolvConf); err != nil {
		return "", fmt.Errorf("the command needs its own view of %s, and this host has none: %w: make it with `sudo touch %s`", resolvConf, err, resolvConf)
	}
	_, err = r.client.Status(ctx) // is there a daemon?
	return program, err
}

// startFailure tells why a command could not be started, and ends with the code that says so.
func startFailure(a *app, command string, err error) error {
	code, why := exitNotExecutable, err.Error()
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		code, why = exitNotFound, "not found: check its name, or give its whole path"
	case errors.Is(err, fs.ErrPermission):
		why = "not executable: check its permissions"
	}
	writeLine(a.err, "meshd: cannot run "+command+": "+oneLine(why))
	return exitCode(code)
}

// drain takes the endpoint out of rotation, so that a command that is asked to end is sent nothing any more when it
// stops listening. It takes as long as the hosts take to act on it, some 100 ms, and never long.
func (r *runner) drain(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainPatience)
	defer cancel()
	_ = r.client.Drain(ctx, api.DrainRequest{Endpoint: id}) // without it the command ends all the same
}

// detach takes the endpoint off its networks. The daemon does so by itself when it sees that the
// process has ended, so one that is away, or was faster, is no failure.
func (r *runner) detach(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := r.client.Detach(ctx, id)
	var known *api.Error
	if err == nil || errors.As(err, &known) && (known.Code == api.CodeNotFound || known.Code == api.CodeNoMesh || known.Code == api.CodeUnavailable) {
		return
	}
	writeLine(r.app.err, "meshd: detaching endpoint "+id+": "+oneLine(err.Error()))
}
