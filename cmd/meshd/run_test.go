package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/internal/link/linktest"
)

// host is a fake daemon with a mesh and a network, for `meshd run` to ask.
type host struct {
	*daemon
	socket string
	temp   string // where `meshd run` puts its temporary files

	mu    sync.Mutex // guards what follows
	pids  []int      // of the children that were to be attached
	netns []string   // their network namespaces
}

func newHost(t *testing.T, onAttach func(ctx context.Context) error) *host {
	t.Helper()
	linktest.RequireRoot(t)
	h := &host{socket: filepath.Join(t.TempDir(), "meshd.sock"), temp: t.TempDir()}
	d, err := startDaemon(h.socket, func(ctx context.Context, req api.AttachRequest) error {
		netns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", req.PID))
		h.mu.Lock()
		h.pids, h.netns = append(h.pids, req.PID), append(h.netns, netns)
		h.mu.Unlock()
		if err == nil && onAttach != nil {
			err = onAttach(ctx)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.daemon = d
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := d.backend.Init(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.backend.CreateNetwork(t.Context(), api.NetworkRequest{Name: "appnet"}); err != nil {
		t.Fatal(err)
	}
	return h
}

// command is `meshd run ARGS` against the fake daemon.
func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"run"}, args...)...)
	cmd.Args[0] = "meshd"
	cmd.Env = append(os.Environ(), "MESHD_SOCKET="+h.socket, "TMPDIR="+h.temp)
	return cmd
}

// run runs it to its end.
func (h *host) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := h.command(args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("from stdin"), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// gone waits until all children have ended.
func (h *host) gone(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, pid := range h.pids {
		for alive(pid) {
			select {
			case <-deadline:
				t.Fatalf("process %d is still there", pid)
			case <-tick.C:
			}
		}
	}
}

// alive says whether a process runs; one that waits to be reaped does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// attachments are the changes since the network was made.
func (h *host) attachments() []string { return h.backend.Changes()[2:] }

const attachOne = "attach 000000000001 name=000000000001 service=000000000001 networks=[appnet] publish=[]"

func TestRunEnvironment(t *testing.T) {
	h := newHost(t, nil)
	before, err := os.ReadFile(resolvConf)
	if err != nil {
		t.Fatal(err)
	}
	out, errs, code := h.run(t, "--network", "appnet", "--", "sh", "-c", "readlink /proc/self/ns/net; echo $MESHD_ENDPOINT; ip -o link show lo; cat /etc/resolv.conf -; echo $$; echo err >&2; exit 42")
	lines := strings.Split(out, "\n")
	if code != 42 || errs != "err\n" || len(lines) != 8 {
		t.Fatalf("code %d, stderr %q, stdout %q", code, errs, out)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if lines[0] == own || lines[0] != h.netns[0] {
		t.Errorf("it ran in %s; attached was %s, ours is %s", lines[0], h.netns[0], own)
	}
	if lines[1] != "000000000001" || !strings.Contains(lines[2], "lo: <LOOPBACK,UP") {
		t.Errorf("MESHD_ENDPOINT %s, interfaces %s", lines[1], lines[2])
	}
	if got, want := strings.Join(lines[3:], "\n"), fmt.Sprintf("# made by meshd run\nnameserver 127.0.0.11\nsearch appnet.mesh.internal mesh.internal\nfrom stdin%d\n", h.pids[0]); got != want {
		t.Errorf("resolv.conf, stdin and pid: %q, want %q", got, want)
	}
	after, err := os.ReadFile(resolvConf)
	if err != nil || string(after) != string(before) {
		t.Errorf("the host's resolv.conf is %q now: %v", after, err)
	}
	if got := h.attachments(); !slices.Equal(got, []string{attachOne, "detach 000000000001"}) {
		t.Error(got)
	}
	if left, err := os.ReadDir(h.temp); err != nil || len(left) > 0 {
		t.Error("left behind:", left, err)
	}
}

func TestRunExitCodes(t *testing.T) {
	h := newHost(t, nil)
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"plain": 0o644, "garbage": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("\x00\x01"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		command []string
		code    int
		stderr  string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 137, ""},
		{[]string{"nosuchcommand"}, 127, "meshd: cannot run nosuchcommand: not found: check its name, or give its whole path\n"},
		{[]string{dir + "/none"}, 127, "meshd: cannot run " + dir + "/none: not found: check its name, or give its whole path\n"},
		{[]string{dir + "/plain"}, 126, "meshd: cannot run " + dir + "/plain: not executable: check its permissions\n"},
		{[]string{dir + "/garbage"}, 126, "meshd: cannot run " + dir + "/garbage: exec format error\n"},
	} {
		_, errs, code := h.run(t, append([]string{"--network", "appnet", "--"}, test.command...)...)
		if code != test.code || errs != test.stderr {
			t.Errorf("%v: code %d, stderr %q", test.command, code, errs)
		}
	}
	if left, err := h.backend.Endpoints(t.Context()); err != nil || len(left) > 0 {
		t.Error("endpoints left:", left, err)
	}
}

func TestRunRefused(t *testing.T) {
	h := newHost(t, nil)
	_, errs, code := h.run(t, "--network", "none", "--", "sleep", "1000")
	if code != 1 || errs != "meshd: no network none: make it with `meshd network create none`\n" {
		t.Errorf("code %d, stderr %q", code, errs)
	}
	h.gone(t)
	if got := h.attachments(); len(got) > 0 {
		t.Error(got)
	}
	h.socket = "/nonexistent/meshd.sock"
	_, errs, code = h.run(t, "--network", "appnet", "--", "true")
	if code != 1 || !strings.HasPrefix(errs, "meshd: cannot reach the meshd daemon") || strings.Count(errs, "\n") != 1 {
		t.Errorf("code %d, stderr %q", code, errs)
	}
}

// start runs a command that says when it is ready, and waits for that.
func (h *host) start(t *testing.T, script string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := h.command("--network", "appnet", "--", "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	if line, err := reader.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	return cmd, reader
}

// heedAll has children heed signals that this process was started to ignore, as under nohup or in the background of
// a script: what is caught here is not ignored there.
func heedAll(t *testing.T) {
	t.Helper()
	swallow := make(chan os.Signal, 1)
	for _, sig := range forwarded {
		if signal.Ignored(sig) {
			signal.Notify(swallow, sig)
		}
	}
	t.Cleanup(func() { signal.Stop(swallow) })
}

func TestRunForwardsSignals(t *testing.T) {
	heedAll(t)
	h := newHost(t, nil)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2} {
		cmd, out := h.start(t, fmt.Sprintf(`trap "echo got it; exit 9" %d; echo ready; while :; do sleep 0.02; done`, sig))
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the code says it
		if code := cmd.ProcessState.ExitCode(); code != 9 || string(rest) != "got it\n" {
			t.Errorf("%s: code %d, output %q", sig, code, rest)
		}
	}
	// One that the command does not handle ends it, and the code says which.
	cmd, _ := h.start(t, "echo ready; exec sleep 1000")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+15 {
		t.Errorf("code %d", code)
	}
	if left, err := h.backend.Endpoints(t.Context()); err != nil || len(left) > 0 {
		t.Error("endpoints left:", left, err)
	}
}

// Killed without a chance to clean up, it still takes its command along.
func TestRunKilled(t *testing.T) {
	h := newHost(t, nil)
	cmd, _ := h.start(t, "echo ready; exec sleep 1000")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	h.gone(t)
}

// A signal while the daemon is still at it gives up, and nothing is left.
func TestRunInterruptedWhileAttaching(t *testing.T) {
	attaching := make(chan struct{})
	h := newHost(t, func(ctx context.Context) error {
		close(attaching)
		<-ctx.Done()
		return ctx.Err()
	})
	cmd := h.command("--network", "appnet", "--", "sleep", "1000")
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-attaching
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+15 || errs.Len() > 0 {
		t.Errorf("code %d, stderr %q", code, errs.String())
	}
	h.gone(t)
	if got := h.attachments(); len(got) > 0 {
		t.Error(got)
	}
}
