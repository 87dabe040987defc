// Package vm runs meshd in virtual machines: on a kernel as users have it, with WireGuard in it.
// QEMU emulates their processors, so they need no virtualisation and are slow, some twenty times
// slower than this machine: what is measured in them says nothing.
//
// The machines hang on taps of a lab's switch, in its namespaces, and end with it.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/vm/serial"
)

// Fleet is virtual machines on a lab's underlay.
type Fleet struct {
	*lab.Lab // of no hosts but the one outside
	Machines []*Machine
	Programs map[string]string // in the machines by name; the paths are here
}

// NewFleet boots machines h1, h2, … with 10.77.0.1, fd00:77::1, …, at once, and waits until all are
// up. The programs are in their /usr/local/bin. On an error nothing is left.
func NewFleet(ctx context.Context, name string, machines int, programs map[string]string) (_ *Fleet, err error) {
	l, err := lab.New(ctx, lab.Options{Name: name, Outside: true})
	if err != nil {
		return nil, err
	}
	f := &Fleet{Lab: l, Programs: programs}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	img, err := buildImage(ctx, l.Dir, programs)
	if err != nil {
		return nil, err
	}
	for i := 1; i <= machines; i++ {
		m, err := f.start(ctx, img, i)
		if err != nil {
			return nil, err
		}
		f.Machines = append(f.Machines, m)
	}
	for _, m := range f.Machines {
		select {
		case <-m.up:
		case <-m.down:
			return nil, fmt.Errorf("%s ended while it booted: %s", m.Name, m.Console())
		case <-ctx.Done():
			return nil, fmt.Errorf("%s did not boot: %w: %s", m.Name, ctx.Err(), m.Console())
		}
	}
	return f, nil
}

// Machine finds a machine by name; it panics if there is none, for that is a mistake in the test.
func (f *Fleet) Machine(name string) *Machine {
	for _, m := range f.Machines {
		if m.Name == name {
			return m
		}
	}
	panic("vm: no machine " + name)
}

// Close ends the machines and removes their files.
func (f *Fleet) Close() error {
	for _, m := range f.Machines {
		_ = m.conn.Close()
	}
	err := f.Lab.Close() // ends QEMU, for it runs in the switch's namespaces
	for _, m := range f.Machines {
		_ = m.qemu.Wait() // killed: its status says nothing
	}
	return err
}

// Machine is a virtual machine.
type Machine struct {
	Name string
	IP   string // on the underlay
	IP6  string

	dir  string
	qemu *exec.Cmd
	conn net.Conn
	port *serial.Port
	up   chan struct{} // closed when it has booted
	down chan struct{} // closed when it has ended

	mu      sync.Mutex // guards last and waiting
	last    int        // ID of a request
	waiting map[int]chan serial.Answer
}

func (f *Fleet) start(ctx context.Context, img image, n int) (*Machine, error) {
	name := fmt.Sprintf("h%d", n)
	m := &Machine{
		Name: name, IP: fmt.Sprintf("10.77.0.%d", n), IP6: fmt.Sprintf("fd00:77::%d", n),
		dir: filepath.Join(f.Dir, "vm-"+name), up: make(chan struct{}), down: make(chan struct{}), waiting: make(map[int]chan serial.Answer),
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, err
	}
	tap := "tap" + name
	if _, err := f.Wire.Run(ctx, "ip", "tuntap", "add", tap, "mode", "tap"); err != nil {
		return nil, err
	}
	if _, err := f.Wire.Run(ctx, "ip", "link", "set", tap, "master", "br0", "up"); err != nil {
		return nil, err
	}
	path := filepath.Join(m.dir, "port")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = listener.Close() }()
	// Not ctx: the machine ends with its fleet. Enough memory for the first root twice, while it is unpacked.
	m.qemu = f.Wire.Command(context.WithoutCancel(ctx), "qemu-system-x86_64",
		"-accel", "tcg", "-cpu", "qemu64,+rdrand", "-smp", "1", "-m", "384", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-kernel", img.kernel, "-initrd", img.initrd,
		"-append", fmt.Sprintf("console=ttyS0 panic=-1 mitigations=off HOST=%s NUMBER=%d", name, n),
		"-serial", "file:"+m.console(), "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=port,path="+path, "-device", "virtserialport,chardev=port,name=meshd",
		"-netdev", "tap,id=net,ifname="+tap+",script=no,downscript=no",
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:77:00:%02x", n))
	said := &strings.Builder{}
	m.qemu.Stdout, m.qemu.Stderr = said, said
	if err := m.qemu.Start(); err != nil {
		return nil, fmt.Errorf("%w: run: scripts/deps vm", err)
	}
	if err := listener.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if m.conn, err = listener.Accept(); err != nil {
		_ = m.qemu.Process.Kill()
		_ = m.qemu.Wait() // killed: its status says nothing
		return nil, fmt.Errorf("starting QEMU for %s: %w: %s", name, err, said)
	}
	m.port = serial.NewPort(m.conn)
	go m.listen()
	return m, nil
}

// listen hands out the machine's answers.
func (m *Machine) listen() {
	defer close(m.down)
	for {
		var answer serial.Answer
		if err := m.port.Receive(&answer); err != nil {
			return
		}
		if answer.ID == 0 {
			close(m.up)
			continue
		}
		m.mu.Lock()
		waiting := m.waiting[answer.ID]
		delete(m.waiting, answer.ID)
		m.mu.Unlock()
		if waiting != nil {
			waiting <- answer
		}
	}
}

func (m *Machine) console() string { return filepath.Join(m.dir, "console") }

// Console is the end of what the machine's kernel and init have said.
func (m *Machine) Console() string {
	data, _ := os.ReadFile(m.console()) // best effort, for messages
	return string(data[max(0, len(data)-4000):])
}

// Process is a command that runs in a machine.
type Process struct {
	machine *Machine
	id      int
	args    []string
	answer  chan serial.Answer
}

// Start starts a command.
func (m *Machine) Start(args ...string) (*Process, error) {
	m.mu.Lock()
	m.last++
	p := &Process{machine: m, id: m.last, args: args, answer: make(chan serial.Answer, 1)}
	m.waiting[p.id] = p.answer
	m.mu.Unlock()
	return p, m.port.Send(serial.Request{ID: p.id, Args: args})
}

// Signal signals the command, if it still runs.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.machine.port.Send(serial.Request{ID: p.id, Signal: int(sig)})
}

// Wait waits until the command ends, and returns what it printed. To be called once. The error
// holds what it printed on stderr.
func (p *Process) Wait(ctx context.Context) (string, error) {
	select {
	case a := <-p.answer:
		if a.Code != 0 {
			return string(a.Stdout), &ExitError{Machine: p.machine.Name, Args: p.args, Code: a.Code, Stderr: strings.TrimSpace(string(a.Stderr))}
		}
		return string(a.Stdout), nil
	case <-p.machine.down:
		return "", fmt.Errorf("%s has ended: %s", p.machine.Name, p.machine.Console())
	case <-ctx.Done():
		_ = p.Signal(syscall.SIGKILL)
		return "", fmt.Errorf("%s: %s: %w", p.machine.Name, strings.Join(p.args, " "), ctx.Err())
	}
}

// ExitError is a command in a machine that failed.
type ExitError struct {
	Machine string
	Args    []string
	Code    int // as shells have it; -1: it did not start
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: %s: exit code %d: %s", e.Machine, strings.Join(e.Args, " "), e.Code, e.Stderr)
}

// Run runs a command in the machine and returns what it printed on stdout.
func (m *Machine) Run(ctx context.Context, args ...string) (string, error) {
	p, err := m.Start(args...)
	if err != nil {
		return "", err
	}
	return p.Wait(ctx)
}

// Meshd runs a meshd command in the machine.
func (m *Machine) Meshd(ctx context.Context, args ...string) (string, error) {
	return m.Run(ctx, append([]string{"meshd"}, args...)...)
}

// MeshdJSON runs a meshd command with -o json and decodes what it prints.
func (m *Machine) MeshdJSON(ctx context.Context, into any, args ...string) error {
	out, err := m.Meshd(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s: meshd %s: %w in %s", m.Name, strings.Join(args, " "), err, out)
	}
	return nil
}

// StartAgent starts `meshd agent` and waits until it answers.
func (m *Machine) StartAgent(ctx context.Context, args ...string) (*Process, error) {
	script := `exec meshd agent --log-level debug "$@" >>/var/log/agent.log 2>&1`
	agent, err := m.Start(append([]string{"sh", "-c", script, "sh"}, args...)...)
	if err != nil {
		return nil, err
	}
	return agent, lab.WaitFor(ctx, func() error {
		var version struct{ Daemon string }
		err := m.MeshdJSON(ctx, &version, "version")
		if err == nil && version.Daemon == "" {
			err = fmt.Errorf("the agent on %s does not answer", m.Name)
		}
		return err
	})
}
