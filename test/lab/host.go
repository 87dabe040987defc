package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Host is a machine of the lab.
type Host struct {
	Name string
	Dir  string // its files: var-lib, run, etc, logs
	PID  int    // of its holder, as this process sees it
	IP   string // on the underlay
	IP6  string

	cable  string    // arguments of ip that connect it to the underlay
	holder *exec.Cmd // nil if another process started it
}

// setup runs as the first process of a host. Everything it mounts is the host's alone. It waits for the
// processes whose parents are gone, as an init does, so that none looks alive after its end.
const setup = `
set -e
hostname "$1"
mount --bind "$2/run" /run
mount --bind "$2/var-lib" /var/lib
mount --bind "$2/etc/resolv.conf" /etc/resolv.conf
mount --bind "$2/etc/hosts" /etc/hosts
mount --make-shared /run
ip link set lo up
echo ready > "$2/ready"
while :; do sleep infinity & wait; done
`

func (l *Lab) newHost(ctx context.Context, name string) (*Host, error) {
	h := &Host{Name: name, Dir: filepath.Join(l.Dir, name)}
	for _, dir := range []string{"var-lib", "etc", "logs"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	files := map[string]string{
		"etc/resolv.conf": "nameserver 10.77.0.100\n",
		"etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + name + "\n",
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(h.Dir, file), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return h, l.boot(ctx, h)
}

// boot starts a host's holder, with an empty /run.
func (l *Lab) boot(ctx context.Context, h *Host) error {
	if err := os.MkdirAll(filepath.Join(h.Dir, "run"), 0o755); err != nil {
		return err
	}
	h.holder = exec.Command("unshare", "--net", "--mount", "--uts", "--pid", "--ipc", "--fork", "--mount-proc",
		"--propagation", "private", "--kill-child=KILL", "sh", "-c", setup, "sh", h.Name, h.Dir)
	h.holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !l.detached {
		h.holder.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	var stderr bytes.Buffer
	h.holder.Stderr = &stderr
	if l.detached {
		h.holder.Stderr = nil
	}
	if err := startOnLastingThread(h.holder); err != nil {
		return fmt.Errorf("starting host %s: %w", h.Name, err)
	}
	if err := h.waitReady(ctx); err != nil {
		return errors.Join(fmt.Errorf("starting host %s: %w: %s", h.Name, err, stderr.String()), h.end())
	}
	return os.WriteFile(filepath.Join(h.Dir, "pid"), []byte(fmt.Sprintf("%d %d\n", h.holder.Process.Pid, h.PID)), 0o644)
}

// waitReady waits until the holder has set the host up, and finds its PID: it is the
// child of unshare.
func (h *Host) waitReady(ctx context.Context) error {
	return Within(ctx, 20*time.Second, func() error {
		if _, err := os.Stat(filepath.Join(h.Dir, "ready")); err != nil {
			return err
		}
		pid := h.holder.Process.Pid
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			return err
		}
		h.PID, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err
	})
}

// openHost finds a host that another process started.
func openHost(dir string) (*Host, error) {
	h := &Host{Name: filepath.Base(dir), Dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return nil, err
	}
	var unshare int
	if _, err := fmt.Sscan(string(data), &unshare, &h.PID); err != nil {
		return nil, fmt.Errorf("%s/pid is damaged: %w", dir, err)
	}
	return h, nil
}

// alive tells whether the holder runs: its ID may be another process's by now.
func (h *Host) alive() bool {
	if h.PID == 0 {
		return false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", h.PID))
	return err == nil && strings.Contains(string(cmdline), "\x00"+h.Dir+"\x00")
}

// end kills the holder, and with it every process of the host.
func (h *Host) end() error {
	if h.alive() {
		_ = syscall.Kill(h.PID, syscall.SIGKILL)
	}
	if h.holder == nil || h.holder.Process == nil {
		return nil
	}
	if h.PID == 0 {
		_ = h.holder.Process.Kill()
	}
	_ = h.holder.Wait() // killed: its status says nothing
	return nil
}

// Command prepares a command on the host. Killing it kills nsenter; the command itself
// dies with its parent.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return h.enter(ctx, []string{"--net", "--mount", "--uts", "--ipc", "--pid"}, name, args)
}

func (h *Host) enter(ctx context.Context, namespaces []string, name string, args []string) *exec.Cmd {
	all := append([]string{"--target", strconv.Itoa(h.PID)}, namespaces...)
	all = append(all, "--", name)
	cmd := exec.CommandContext(ctx, "nsenter", append(all, args...)...)
	cmd.Env = append(environ(os.Environ()), "LAB_HOST="+h.Name)
	cmd.WaitDelay = 2 * time.Second // a daemon that a command leaves behind may hold its output open
	return cmd
}

// environ is this process's environment without what would lead a lab's hosts away from it: proxies, which are
// not there, and another daemon's configuration.
func environ(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy") || strings.HasPrefix(name, "MESHD_")
	})
}

// Run runs a command on the host and returns what it printed on stdout. The error holds
// what it printed on stderr.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return output(h.Command(ctx, name, args...), h.Name)
}

// runShared runs a command in the host's network namespace only: it sees this process's
// own /proc, in which other hosts have PIDs.
func (h *Host) runShared(ctx context.Context, name string, args ...string) (string, error) {
	return output(h.enter(ctx, []string{"--net"}, name, args), h.Name)
}

func output(cmd *exec.Cmd, host string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &CommandError{Host: host, Args: cmd.Args, Err: err, Stderr: strings.TrimSpace(stderr.String())}
	}
	return stdout.String(), nil
}

// CommandError is a command on a host that failed.
type CommandError struct {
	Host   string
	Args   []string
	Err    error
	Stderr string
}

func (e *CommandError) Error() string {
	args := e.Args
	for i, a := range args {
		if a == "--" {
			args = args[i+1:]
			break
		}
	}
	return fmt.Sprintf("%s: %s: %v: %s", e.Host, strings.Join(args, " "), e.Err, e.Stderr)
}

func (e *CommandError) Unwrap() error { return e.Err }

// ExitCode is the command's exit code, or -1 if it did not run to its end.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// WaitFor tries until it succeeds. When ctx ends it returns the last failure.
func WaitFor(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting: %w", err)
		case <-ticker.C:
		}
	}
}
