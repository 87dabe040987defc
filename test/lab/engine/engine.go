// Package engine runs real Docker Engines on the hosts of a lab, one for each host, with
// images that are made on the spot: nothing is downloaded.
//
// An engine's processes, its containers and their mounts live in the namespaces of its host and
// end with it. Only its control groups are outside of them: they go with Close, and those of a
// lab that was killed with the next one.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// Programs is what a lab needs besides lab.Require's.
var Programs = []string{"dockerd", "containerd", "runc", "busybox"}

// patience is how long a dockerd may take to start or to end, on a machine that has other things to do.
const patience = 3 * time.Minute

// Engine is the Docker Engine of one host.
type Engine struct {
	Host *lab.Host

	args   []string // of dockerd, besides those that every engine has
	nsent  *exec.Cmd
	ended  chan error
	groups string // its control groups' parent
}

// Options says how an engine is started.
type Options struct {
	// Args are further flags of dockerd: --live-restore, --userland-proxy=false.
	Args []string
}

// New starts an engine on a host and waits until it answers. It ends with its host; Close also
// removes what it left outside. On an error nothing is left.
func New(ctx context.Context, h *lab.Host, opts Options) (*Engine, error) {
	if err := lab.Require(Programs...); err != nil {
		return nil, err
	}
	Sweep()
	e := &Engine{Host: h, args: opts.Args, groups: groupsOf(h)}
	if err := e.Start(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Start starts dockerd, again if it was stopped or killed, and waits until it answers. The
// arguments are added to its flags from now on.
func (e *Engine) Start(ctx context.Context, args ...string) error {
	if e.ended != nil {
		return fmt.Errorf("the engine on %s runs already", e.Host.Name)
	}
	e.args = append(e.args, args...)
	log, err := os.OpenFile(e.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// Not under `ip netns exec`: it mounts /sys anew, without the control groups.
	e.nsent = e.Host.Command(context.WithoutCancel(ctx), "setsid", append([]string{
		"dockerd", "--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", e.groups,
	}, e.args...)...)
	e.nsent.Stdout, e.nsent.Stderr = log, log
	e.nsent.WaitDelay = time.Second
	if err := e.nsent.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	cmd := e.nsent
	go func() { ended <- cmd.Wait() }()
	e.ended = ended
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lab.WaitFor(ctx, func() error {
		select {
		case err := <-ended:
			cancel()
			e.ended = nil
			return fmt.Errorf("dockerd on %s ended (%v): %s", e.Host.Name, err, e.LogTail())
		default:
		}
		if _, err := os.Stat(filepath.Join(e.Host.Dir, "run", "docker.sock")); err != nil {
			return err
		}
		_, err := e.Docker(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
}

// Stop ends dockerd as an administrator does. Containers end with it, unless it has
// --live-restore.
func (e *Engine) Stop(ctx context.Context) error { return e.signal(ctx, syscall.SIGTERM) }

// Kill ends dockerd as a crash does. Containers go on.
func (e *Engine) Kill(ctx context.Context) error { return e.signal(ctx, syscall.SIGKILL) }

// StartWithout restarts dockerd without a flag that Start had added.
func (e *Engine) StartWithout(ctx context.Context, flag string) error {
	e.args = slices.DeleteFunc(e.args, func(a string) bool { return a == flag })
	return e.Restart(ctx)
}

// Crashed says that the engine's host has crashed, and dockerd with it.
func (e *Engine) Crashed() {
	if e.ended != nil {
		<-e.ended
		e.ended = nil
	}
}

// Restart stops dockerd and starts it again.
func (e *Engine) Restart(ctx context.Context) error {
	if err := e.Stop(ctx); err != nil {
		return err
	}
	return e.Start(ctx)
}

func (e *Engine) signal(ctx context.Context, sig syscall.Signal) error {
	pid, err := e.pid()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("ending dockerd on %s: %w", e.Host.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-e.ended: // with the status of one that was signalled, which says nothing
		e.ended = nil
		// What was killed leaves its socket: it must not look alive.
		_ = os.Remove(filepath.Join(e.Host.Dir, "run", "docker.sock"))
		return nil
	case <-ctx.Done():
		return fmt.Errorf("dockerd on %s does not end: %s", e.Host.Name, e.LogTail())
	}
}

// pid is dockerd's, as this process sees it: nsenter forks into the host's PID namespace.
func (e *Engine) pid() (pid int, err error) {
	if e.ended == nil {
		return 0, fmt.Errorf("no dockerd runs on %s", e.Host.Name)
	}
	id := e.nsent.Process.Pid
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", id, id))
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(data), &pid)
	return pid, err
}

// Docker runs a docker command on the engine's host, and returns what it printed without the
// white space around it.
func (e *Engine) Docker(ctx context.Context, args ...string) (string, error) {
	out, err := e.Host.Run(ctx, client(), args...)
	return strings.TrimSpace(out), err
}

// Inspect decodes what `docker inspect` says of one object: a container, or with "network" or
// "image" before its name one of those.
func (e *Engine) Inspect(ctx context.Context, into any, object ...string) error {
	out, err := e.Docker(ctx, append([]string{"inspect"}, withType(object)...)...)
	if err != nil {
		return err
	}
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		return fmt.Errorf("docker inspect %v: %w: %s", object, err, out)
	}
	return json.Unmarshal(list[0], into)
}

func withType(object []string) []string {
	if len(object) == 2 {
		return []string{"--type", object[0], object[1]}
	}
	return append([]string{"--type", "container"}, object...)
}

// client prefers the distribution's own, which belongs to its engine.
func client() string {
	const distribution = "/usr/bin/docker"
	if _, err := os.Stat(distribution); err == nil {
		return distribution
	}
	return "docker"
}

// Log is the path of dockerd's log.
func (e *Engine) Log() string { return filepath.Join(e.Host.Dir, "logs", "dockerd.log") }

// LogTail is the end of dockerd's log.
func (e *Engine) LogTail() string {
	data, _ := os.ReadFile(e.Log()) // best effort, for messages
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// Close ends the engine, its containers too, and removes what it has outside of its host.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	select {
	case <-e.ended: // with its host
		e.ended = nil
	default:
		if e.ended != nil {
			err = e.Kill(ctx)
		}
	}
	return errors.Join(err, removeGroups(ctx, e.groups))
}
