package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoProcess is returned for an ID that no process has.
var errNoProcess = errors.New("it does not run")

// findProcess identifies a running process by its ID.
func findProcess(pid int) (Process, error) {
	start, err := processStart(pid)
	if errors.Is(err, errNoProcess) {
		return Process{}, fmt.Errorf("there is no process %d", pid)
	}
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start}, nil
}

// hasEnded says whether the process is certainly gone. In doubt it is not.
func (p Process) hasEnded() bool {
	start, err := processStart(p.PID)
	return errors.Is(err, errNoProcess) || err == nil && start != p.Start
}

// processStart reads field 22 of /proc/PID/stat (proc(5)). The second field, the command,
// is in parentheses and may hold anything, also parentheses.
func processStart(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("process %d: %w", pid, errNoProcess)
	}
	if err != nil {
		return 0, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	_, rest, found := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 {
		return 0, fmt.Errorf("reading /proc/%d/stat: unexpected form", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d: %w", pid, errNoProcess) // all but its exit status is gone
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
	}
	return start, nil
}

// waitProcess returns nil when the process has certainly ended, ctx's error when ctx
// has, and any other error if it cannot be known.
func waitProcess(ctx context.Context, p Process) error {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("waiting for process %d: %w", p.PID, err)
	}
	// A non-blocking file goes to the runtime's poller, so waiting costs no thread.
	file := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = file.Close() }()
	if p.hasEnded() {
		return nil // perhaps the ID is another's now
	}
	conn, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("waiting for process %d: %w", p.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer stop()
	ended := false
	err = conn.Read(func(fd uintptr) bool {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(set, 0)
		ended = n > 0 && err == nil
		return ended
	})
	if ended {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("waiting for process %d: %w", p.PID, err)
}
