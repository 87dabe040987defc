package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// childName is the hidden command that a child of `meshd run` begins as.
const childName = "run-child"

// order tells the child what to become.
type order struct {
	Program    string   `json:"program"` // path
	Args       []string `json:"args"`    // with the name it is called by
	Endpoint   string   `json:"endpoint"`
	Nameserver string   `json:"nameserver"`
	Search     []string `json:"search"`
	Runtime    string   `json:"runtime"` // the daemon's runtime_dir; empty: not known
}

// trouble is what a child says that could not become the command.
type trouble struct {
	Message string        `json:"message"`
	Exec    syscall.Errno `json:"exec"` // of execve(2); 0: it did not come that far
}

// child is a process in network and mount namespaces of its own that waits for its order.
type child struct {
	app     *app
	cmd     *exec.Cmd
	orders  *os.File // to the child; closed without an order, it ends
	reports *os.File // from the child; closed without a report, it is the command now
	ended   bool
}

// startChild starts this program again. The child shares our process group, terminal and standard
// streams, and is killed if this process (in fact: this thread, so it must be locked) dies.
func startChild(a *app, program string) (*child, error) {
	orderRead, orderWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	reportRead, reportWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", program, err), orderRead.Close(), orderWrite.Close())
	}
	cmd := exec.Command("/proc/self/exe", childName)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.err
	cmd.ExtraFiles = []*os.File{orderRead, reportWrite} // 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	_, _ = orderRead.Close(), reportWrite.Close() // the child has its own
	if err != nil {
		_, _ = orderWrite.Close(), reportRead.Close()
		return nil, fmt.Errorf("making a network namespace for %s: %w: check that this kernel and container allow namespaces", program, err)
	}
	return &child{app: a, cmd: cmd, orders: orderWrite, reports: reportRead}, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// signal sends a signal; one that has ended needs none.
func (c *child) signal(sig syscall.Signal) { _ = c.cmd.Process.Signal(sig) }

// proceed lets the child become the command, and returns when it is that.
func (c *child) proceed(o order) error {
	if err := json.NewEncoder(c.orders).Encode(o); err != nil {
		return fmt.Errorf("starting %s: %w", o.Program, err)
	}
	report, err := io.ReadAll(c.reports)
	if err != nil {
		return fmt.Errorf("starting %s: %w", o.Program, err)
	}
	if len(report) == 0 {
		return nil
	}
	var t trouble
	if err := json.Unmarshal(report, &t); err != nil {
		return fmt.Errorf("starting %s: %w", o.Program, err)
	}
	if t.Exec != 0 {
		return startFailure(c.app, o.Args[0], t.Exec)
	}
	return errors.New(t.Message)
}

// wait returns the command's exit code as an exitCode; 0 is nil.
func (c *child) wait() error {
	err := c.cmd.Wait()
	c.ended = true
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	status := exit.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return exitCode(128 + int(status.Signal()))
	}
	return exitCode(status.ExitStatus())
}

// kill ends a child that still runs, and reaps it.
func (c *child) kill() {
	_, _ = c.orders.Close(), c.reports.Close()
	if c.ended {
		return
	}
	c.ended = true
	_ = c.cmd.Process.Kill() // it may have ended by itself
	_ = c.cmd.Wait()         // how it ended does not matter any more
}

// runtimeDir is the daemon's runtime_dir, as far as its socket tells.
func runtimeDir(socket string) string {
	dir, err := filepath.Abs(filepath.Dir(socket))
	if err != nil || filepath.Base(socket) != "meshd.sock" {
		return ""
	}
	return dir
}
