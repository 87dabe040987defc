package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Mesh is a lab whose hosts run meshd.
type Mesh struct {
	*Lab
	Binary string // meshd's path
	agents map[string]*exec.Cmd
}

// NewMesh makes a lab; the hosts' agents are started by StartAgent or Form.
func NewMesh(ctx context.Context, binary string, opts Options) (*Mesh, error) {
	l, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &Mesh{Lab: l, Binary: binary, agents: make(map[string]*exec.Cmd)}, nil
}

// Members is the hosts that are to be in the mesh: all but the one outside.
func (m *Mesh) Members() []*Host {
	var out []*Host
	for _, h := range m.Hosts {
		if h.Name != "outside" {
			out = append(out, h)
		}
	}
	return out
}

// StartAgent starts `meshd agent` on a host and waits until it answers. Its log goes
// to logs/agent.log of the host.
func (m *Mesh) StartAgent(ctx context.Context, h *Host, args ...string) error {
	log, err := os.OpenFile(m.AgentLog(h), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// setsid: the agent is nobody's child that a signal to a group would reach.
	cmd := h.Command(context.WithoutCancel(ctx), "setsid", append([]string{m.Binary, "agent", "--log-level", "debug"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	m.agents[h.Name] = cmd
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return Within(ctx, 20*time.Second, func() error {
		select {
		case err := <-ended:
			cancel()
			return fmt.Errorf("the agent on %s ended (%v): %s", h.Name, err, m.LogTail(h))
		default:
		}
		var version struct{ Daemon string }
		if err := m.MeshdJSON(ctx, h, &version, "version"); err != nil {
			return err
		}
		if version.Daemon == "" {
			return fmt.Errorf("the agent on %s does not answer yet: %s", h.Name, m.LogTail(h))
		}
		return nil
	})
}

// AgentLog is the path of a host's agent's log.
func (m *Mesh) AgentLog(h *Host) string { return filepath.Join(h.Dir, "logs", "agent.log") }

// LogTail is the end of a host's agent's log.
func (m *Mesh) LogTail(h *Host) string {
	data, _ := os.ReadFile(m.AgentLog(h)) // best effort, for messages
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// AgentPID is the agent's PID on its host, as this process sees it.
func (m *Mesh) AgentPID(h *Host) (int, error) {
	cmd := m.agents[h.Name]
	if cmd == nil {
		return 0, fmt.Errorf("no agent was started on %s", h.Name)
	}
	// nsenter forks into the PID namespace, so the agent is its child.
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var pid int
	_, err = fmt.Sscan(string(data), &pid)
	return pid, err
}

// SignalAgent sends a signal to a host's agent, and waits until it has ended.
func (m *Mesh) SignalAgent(ctx context.Context, h *Host, sig syscall.Signal) error {
	pid, err := m.AgentPID(h)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return err
	}
	return WaitFor(ctx, func() error {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return fmt.Errorf("the agent on %s still runs", h.Name)
	})
}

// Meshd runs a meshd command on a host.
func (m *Mesh) Meshd(ctx context.Context, h *Host, args ...string) (string, error) {
	return h.Run(ctx, m.Binary, args...)
}

// MeshdJSON runs a meshd command on a host with -o json and decodes what it prints.
func (m *Mesh) MeshdJSON(ctx context.Context, h *Host, into any, args ...string) error {
	out, err := m.Meshd(ctx, h, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s: meshd %s: %w in %s", h.Name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Form starts the agents, founds a mesh on the first host and joins the others.
func (m *Mesh) Form(ctx context.Context) error {
	hosts := m.Members()
	for _, h := range hosts {
		if err := m.StartAgent(ctx, h); err != nil {
			return err
		}
	}
	var founded struct {
		Token string `json:"token"`
	}
	if err := m.MeshdJSON(ctx, hosts[0], &founded, "init"); err != nil {
		return err
	}
	for _, h := range hosts[1:] {
		if _, err := m.Meshd(ctx, h, "join", hosts[0].IP, "--token", founded.Token); err != nil {
			return err
		}
	}
	return Within(ctx, 20*time.Second, func() error { return m.AllAlive(ctx, len(hosts)) })
}

// Join has a host join the mesh of the first one, with a token of its own.
func (m *Mesh) Join(ctx context.Context, h *Host) error {
	first := m.Members()[0]
	var made struct{ Token string }
	if err := m.MeshdJSON(ctx, first, &made, "token", "create"); err != nil {
		return err
	}
	_, err := m.Meshd(ctx, h, "join", first.IP, "--token", made.Token)
	return err
}

// AllAlive checks that every host sees n members alive.
func (m *Mesh) AllAlive(ctx context.Context, n int) error {
	for _, h := range m.Members() {
		var members []struct{ Name, Status string }
		if err := m.MeshdJSON(ctx, h, &members, "members"); err != nil {
			return err
		}
		alive := 0
		for _, member := range members {
			if member.Status == "alive" {
				alive++
			}
		}
		if alive != n {
			return fmt.Errorf("%s sees %d of %d alive: %v", h.Name, alive, n, members)
		}
	}
	return nil
}
