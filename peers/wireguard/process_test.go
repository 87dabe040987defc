package wireguard

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
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// TestMain lets the test binary be the processes that the tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case UserspaceCommand:
			exitWith(RunUserspace(context.Background(), os.Args[2:]))
		case "test-agent":
			exitWith(runTestAgent(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// agentJob is what a test agent is told.
type agentJob struct {
	Mesh, Host, RuntimeDir string
	Config                 Config
}

// runTestAgent applies a job and stays, as an agent would.
func runTestAgent(path string) error {
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var job agentJob
	if err := json.Unmarshal(body, &job); err != nil {
		return err
	}
	d, err := New(Options{MeshNamespace: job.Mesh, HostNamespace: job.Host, RuntimeDir: job.RuntimeDir, Mode: ModeUserspace})
	if err != nil {
		return err
	}
	if err := d.Apply(context.Background(), job.Config); err != nil {
		return err
	}
	fmt.Println("applied")
	select {} // until it is killed
}

func TestRunUserspaceRefusesWrongArguments(t *testing.T) {
	for _, args := range [][]string{{}, {"--netns", "/x"}, {"--name", "wg"}, {"--netns", "/x", "--name", "wg", "more"}} {
		if err := RunUserspace(t.Context(), args); err == nil || !strings.Contains(err.Error(), "meshd agent starts it") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// kill -9 of the agent loses not one packet, also not when its successor takes over.
func TestAgentKilledWhileTrafficFlows(t *testing.T) {
	a, b := newPair(t)
	agent := startTestAgent(t, a, a.config(b))
	b.apply(t, b.config(a))
	ping(t, a, b, 64)
	before, pid := a.status(t, b), a.pid(t)

	traffic := startTraffic(t, a, b)
	traffic.await(t, 100)
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	traffic.await(t, 200)
	a.apply(t, a.config(b))
	traffic.await(t, 300)
	sent, lost := traffic.stop()
	if lost != 0 {
		t.Errorf("lost %d of %d packets", lost, sent)
	}
	if after := a.status(t, b); !after.LastHandshake.Equal(before.LastHandshake) || a.pid(t) != pid {
		t.Errorf("the tunnel was not adopted")
	}
}

func TestProcessKilled(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	ping(t, a, b, 64)
	index, pid := a.link(t).Attrs().Index, a.pid(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.device.Changed():
	case <-time.After(30 * time.Second):
		t.Fatal("nobody told that the process died")
	}
	a.apply(t, a.config(b))
	ping(t, a, b, 64)
	if a.link(t).Attrs().Index != index {
		t.Error("the TUN device did not outlive its process: what depends on it is lost")
	}
	waitFor(t, "the dead process to be reaped", func() bool { return unix.Kill(pid, 0) != nil })
}

func TestNoTUN(t *testing.T) {
	a, b := newPair(t)
	missing := filepath.Join(t.TempDir(), "tun")
	a.device = a.newDevice(t, func(o *Options) { o.TUNDevice = missing })
	err := a.device.Apply(t.Context(), a.config(b))
	if err == nil || !strings.Contains(err.Error(), "modprobe tun") || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "--device /dev/net/tun") {
		t.Errorf("got %v", err)
	}
	a.assertNothingLeft(t)
}

// Without a device file the driver may still be missing, and root may be forbidden the file.
func TestExplainTUN(t *testing.T) {
	for err, part := range map[error]string{
		unix.ENOENT: "mknod", unix.ENODEV: "no TUN driver", unix.ENXIO: "no TUN driver", unix.EPERM: "may not open", unix.EIO: "opening",
	} {
		if got := explainTUN("/dev/net/tun", err); !strings.Contains(got.Error(), part) || !errors.Is(got, err) {
			t.Errorf("%v: got %v", err, got)
		}
	}
}

// A process that serves a mesh namespace which is no longer ours gives way to a new one.
func TestMeshNamespaceReplaced(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	pid := a.pid(t)
	must(t, netns.Delete(a.mesh))
	ns, err := netns.Create(a.mesh)
	must(t, err)
	defer func() { _ = ns.Close() }()
	a.apply(t, a.config(b))
	ping(t, a, b, testMTU)
	if a.pid(t) == pid {
		t.Error("the old process still runs")
	}
}

func TestLogIsEmptiedWhenLarge(t *testing.T) {
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	must(t, err)
	defer func() { _ = file.Close() }()
	logger := newProcessLogger(file)
	for range maxLog/1000 + 10 {
		logger.Errorf("%s", strings.Repeat("x", 1000))
	}
	if st, err := file.Stat(); err != nil || st.Size() == 0 || st.Size() > maxLog/2 {
		t.Errorf("the log has %d bytes (%v)", st.Size(), err)
	}
}

// What the agent has open, or was given by who started it, stays with the agent.
func TestProcessInheritsNothing(t *testing.T) {
	a, b := newPair(t)
	file, err := os.CreateTemp(t.TempDir(), "secret")
	must(t, err)
	defer func() { _ = file.Close() }()
	leak, err := unix.Dup(int(file.Fd())) // without close-on-exec
	must(t, err)
	defer func() { _ = unix.Close(leak) }()
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	a.apply(t, a.config(b))
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", a.pid(t)))
	must(t, err)
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == file.Name() {
			t.Errorf("%s is open in the process", to)
		}
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", a.pid(t)))
	must(t, err)
	if strings.Contains(string(env), "NOTIFY_SOCKET") {
		t.Errorf("the environment was passed on: %q", env)
	}
	if sid, err := unix.Getsid(a.pid(t)); err != nil || sid != a.pid(t) {
		t.Errorf("the process is in session %d: %v", sid, err)
	}
}

func TestProcessSignals(t *testing.T) {
	a, b := newPair(t)
	a.apply(t, a.config(b))
	b.apply(t, b.config(a))
	pid := a.pid(t)
	must(t, unix.Kill(pid, unix.SIGHUP))
	ping(t, a, b, 64)
	must(t, unix.Kill(pid, unix.SIGTERM))
	waitFor(t, "the process to end", func() bool { return unix.Kill(pid, 0) != nil })
	if _, err := os.Stat(socketPath(a.device.Name())); err == nil {
		t.Error("the socket stayed")
	}
}

func startTestAgent(t *testing.T, h *testHost, cfg Config) *exec.Cmd {
	t.Helper()
	body, err := json.Marshal(agentJob{Mesh: h.mesh, Host: h.host, RuntimeDir: h.runtimeDir, Config: cfg})
	must(t, err)
	path := filepath.Join(t.TempDir(), "job.json")
	must(t, os.WriteFile(path, body, 0o600))
	cmd := exec.Command("/proc/self/exe", "test-agent", path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatalf("the agent did not start: %v", err)
	}
	return cmd
}
