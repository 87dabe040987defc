// Command guest runs in a virtual machine and does what its host asks for: guest PORT runs the
// commands that come over the serial port of that path, until the port is closed.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/meshd/meshd/test/vm/serial"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: guest PORT")
	}
	// Blocking: the port of a host that is not there yet reads as ended.
	fd, err := syscall.Open(args[0], syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", args[0], err)
	}
	g := &guest{port: serial.NewPort(os.NewFile(uintptr(fd), args[0])), running: make(map[int]*os.Process)}
	if err := g.port.Send(serial.Answer{}); err != nil {
		return err
	}
	for {
		var request serial.Request
		if err := g.port.Receive(&request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(request.Args) > 0 {
			g.start(request)
		} else {
			g.signal(request)
		}
	}
}

// guest is the commands that run.
type guest struct {
	port *serial.Port

	mu      sync.Mutex // guards running
	running map[int]*os.Process
}

func (g *guest) start(request serial.Request) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(request.Args[0], request.Args[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		g.answer(serial.Answer{ID: request.ID, Code: -1, Stderr: []byte(err.Error())})
		return
	}
	g.mu.Lock()
	g.running[request.ID] = cmd.Process
	g.mu.Unlock()
	go func() {
		err := cmd.Wait()
		g.mu.Lock()
		delete(g.running, request.ID)
		g.mu.Unlock()
		g.answer(serial.Answer{ID: request.ID, Code: exitCode(err), Stdout: stdout.Bytes(), Stderr: stderr.Bytes()})
	}()
}

// signal does nothing if the command has ended: its answer is under way.
func (g *guest) signal(request serial.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if process := g.running[request.ID]; process != nil {
		_ = process.Signal(syscall.Signal(request.Signal))
	}
}

func (g *guest) answer(a serial.Answer) {
	if err := g.port.Send(a); err != nil {
		fmt.Fprintln(os.Stderr, "guest: answering:", err)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if err == nil {
		return 0
	} else if !errors.As(err, &exit) {
		return -1
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}
