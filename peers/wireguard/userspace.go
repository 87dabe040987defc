package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

const (
	// startedWell is what the process writes once its socket listens.
	startedWell = "ok"
	// startPatience covers waiting for a predecessor's TUN device.
	startPatience = tunBusyPatience + 10*time.Second
	// stopPatience is how long the process may take to end before it is killed.
	stopPatience = 3 * time.Second
)

var errNotRunning = errors.New("no userspace WireGuard process is running")

// userspace is the agent's side of the process that serves the device.
type userspace struct {
	name       string // of device and socket
	mesh, host string // paths of the namespaces
	runtimeDir string
	executable string // that implements UserspaceCommand
	clone      string // the TUN driver's device file
	log        *slog.Logger
}

func (u *userspace) logPath() string { return filepath.Join(u.runtimeDir, "wireguard.log") }

// dial connects to the running process. It returns errNotRunning if there is none, and
// clears away the socket of a dead one. The connection ends when the process does.
func (u *userspace) dial() (*net.UnixConn, error) {
	path := socketPath(u.name)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, unix.ENOENT):
		return nil, errNotRunning
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("removing the socket of a dead WireGuard process: %w", err)
		}
		return nil, errNotRunning
	default:
		return nil, fmt.Errorf("connecting to the userspace WireGuard process: %w", err)
	}
}

// start starts the process and waits until its socket listens.
func (u *userspace) start(ctx context.Context, mtu int) error {
	logFile, err := u.openLog()
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting userspace WireGuard: %w", err)
	}
	defer func() { _ = ready.Close() }()
	cmd := u.command(mtu, logFile, theirs)
	if err := closeOnExec(); err != nil {
		_ = theirs.Close()
		return err
	}
	err = netns.Do(u.host, cmd.Start) // its UDP sockets will be in the host's namespace
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("starting userspace WireGuard: %w", err)
	}
	ended := make(chan struct{})
	go u.reap(cmd, ended)
	if err := awaitStart(ctx, ready); err != nil {
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("%w (its log is %s)", err, u.logPath())
	}
	u.log.Info("started userspace WireGuard", "pid", cmd.Process.Pid, "device", u.name)
	return nil
}

func (u *userspace) command(mtu int, logFile, ready *os.File) *exec.Cmd {
	cmd := exec.Command(u.executable)
	args := userspaceArgs{namespace: u.mesh, name: u.name, mtu: mtu, clone: u.clone, ready: 3}
	cmd.Args = append([]string{"meshd"}, args.list()...)
	cmd.Dir = "/"
	cmd.Env = processEnv(os.Environ())
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{ready} // descriptor 3
	// A session of its own: neither a signal to the agent's group nor its terminal's end reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// processEnv is the agent's environment without what systemd or a configuration
// meant for the agent alone.
func processEnv(environ []string) []string {
	out := []string{}
	for _, v := range environ {
		if strings.HasPrefix(v, "PATH=") || strings.HasPrefix(v, "GO") || strings.HasPrefix(v, "TZ=") {
			out = append(out, v)
		}
	}
	return out
}

// reap takes up the exit status, so that no zombie stays when the process ends before the agent.
func (u *userspace) reap(cmd *exec.Cmd, ended chan<- struct{}) {
	err := cmd.Wait()
	u.log.Info("userspace WireGuard ended", "pid", cmd.Process.Pid, "status", exitStatus(err))
	close(ended)
}

func exitStatus(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func awaitStart(ctx context.Context, ready *os.File) error {
	end := time.Now().Add(startPatience)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	_ = ready.SetReadDeadline(end) // a pipe always has one
	defer context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })()
	said, err := io.ReadAll(io.LimitReader(ready, 4096))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("starting userspace WireGuard: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("waiting for userspace WireGuard to start: %w", err)
	case string(said) == startedWell:
		return nil
	case len(said) == 0:
		return errors.New("userspace WireGuard ended as soon as it was started")
	default:
		return errors.New(string(said))
	}
}

func (u *userspace) openLog() (*os.File, error) {
	if err := os.MkdirAll(u.runtimeDir, 0o755); err != nil {
		return nil, fmt.Errorf("creating the folder of WireGuard's log: %w", err)
	}
	f, err := os.OpenFile(u.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening WireGuard's log: %w", err)
	}
	if st, err := f.Stat(); err == nil && st.Size() > maxLog {
		_ = f.Truncate(0) // too long a log is no reason not to start
	}
	return f, nil
}

// stop ends the process, if there is one, and removes its socket.
func (u *userspace) stop() error {
	conn, err := u.dial()
	if errors.Is(err, errNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	pid, err := peerPID(conn)
	if err != nil {
		return err
	}
	// Also where its pid cannot be seen from here: without its socket it ends by itself.
	if err := os.Remove(socketPath(u.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the socket of userspace WireGuard: %w", err)
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if pid > 0 {
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("ending userspace WireGuard, process %d: %w", pid, err)
			}
		}
		if hungUp(conn, stopPatience) {
			return nil
		}
	}
	return fmt.Errorf("userspace WireGuard, process %d, does not end: end it by hand", pid)
}

// peerPID is the process that listens at the other end, or 0 if it is in a PID
// namespace that cannot be seen from here.
func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("finding the userspace WireGuard process: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("finding the userspace WireGuard process: %w", err)
	}
	return int(cred.Pid), nil
}

// hungUp waits until the other end of conn has gone.
func hungUp(conn *net.UnixConn, wait time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(wait)) // fails only on a closed connection
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// closeOnExec keeps descriptors that the agent inherited from whoever started it from
// being passed on to a process that outlives it. Go's own have the flag already.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing open files: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
