package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/lab/engine"
)

// A host that is shut down finishes what it serves: systemd stops meshd-drain.service first, and what that drains runs on
// meanwhile, with its networks.
func TestShutdownDrains(t *testing.T) {
	m := newMesh(t, 2)
	ctx := testContext(t)
	h1, h2 := m.Host("h1"), m.Host("h2")
	token := foundOn(t, m, h1)
	const replica = "/usr/local/bin/meshd run --network appnet --service web -- /usr/local/bin/labpeer serve h2 80"
	machine := bootSystemd(t, m, h2, map[string]string{"web.service": `[Unit]
Wants=meshd.service
After=meshd.service
Before=meshd-drain.service
StartLimitIntervalSec=0
[Service]
ExecStart=` + replica + `
Restart=always
RestartSec=200ms
StandardOutput=journal+console
StandardError=journal+console
`})
	within(t, 60*time.Second, "h2's agent answers", func() error {
		machine.mustRun(t)
		var version struct{ Daemon string }
		err := m.MeshdJSON(ctx, h2, &version, "version")
		if err == nil && version.Daemon == "" {
			err = errors.New("it does not")
		}
		return err
	})
	if _, err := m.Meshd(ctx, h2, "join", h1.IP, "--token", token); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "appnet")
	health := func(want string) func() error {
		return func() error {
			var rows []struct{ Node, Health string }
			if err := m.MeshdJSON(ctx, h1, &rows, "endpoint", "ls"); err != nil {
				return err
			}
			for _, row := range rows {
				if row.Node == "h2" && row.Health == want {
					return nil
				}
			}
			return fmt.Errorf("h2's endpoint is not %s: %v", want, rows)
		}
	}
	within(t, 20*time.Second, "h1 knows h2's endpoint", health("healthy"))
	client := start(t, m, h1, []string{"--network", "appnet"}, "sleep", "infinity")
	serve(t, m, h1, "h1", "--network", "appnet", "--service", "other")
	talk := talkTo(t, h1, client, vipOf(t, m, "web")+":80")
	talk.await(t, 5)

	machine.shutDown(t)
	within(t, 10*time.Second, "h2's endpoint is drained", health("draining"))
	talk.await(t, 20) // more answers, while the host would like to be gone
	if err := talk.stop(); err != nil {
		t.Errorf("the connection to a host that is shut down broke: %v", err)
	}
	// Nobody is connected any more, so it need not wait for the limit of its unit.
	within(t, 20*time.Second, "h2 is down", machine.isDown)
}

// systemd is a host's own, in a container that has the host's network and the machine's programs.
type systemd struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	output *lines
}

// boot starts systemd on files of its own over the machine's. $1 is a directory, $2 the control group, $3 the
// host's name, and what follows are further options of systemd-nspawn.
const boot = `
set -e
dir=$1 group=$2 name=$3
shift 3
for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
	[ -e $root/cgroup.procs ] || continue
	mkdir -p $root$group
	echo $$ > $root$group/cgroup.procs
done
mkdir -p /run/meshd "$dir"
mount -t tmpfs tmpfs "$dir"
mkdir -p "$dir/upper/etc" "$dir/work" "$dir/root"
echo "$name" > "$dir/upper/etc/hostname"
: > "$dir/upper/etc/machine-id" # it makes its own
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network # /proc/sys/net is of this host alone
exec systemd-nspawn --quiet --register=no --keep-unit --directory="$dir/root" --machine="$name-$$" \
	--network-namespace-path=/proc/self/ns/net --capability=all --bind=/dev/net/tun --bind=/run/meshd "$@" --boot -- --unit=all.target
`

// bootSystemd boots a host with meshd's units and the others that are given. What else is enabled on this machine is not there.
func bootSystemd(t *testing.T, m *lab.Mesh, h *lab.Host, units map[string]string) *systemd {
	t.Helper()
	if err := lab.Require("systemd-nspawn"); err != nil {
		t.Fatal(err)
	}
	names := []string{"meshd.service", "meshd-drain.service"}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		text, err := os.ReadFile("../configs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		const limit, stop = "--limit 10s", "TimeoutStopSec=20"
		if name == "meshd-drain.service" && (!strings.Contains(string(text), limit) || !strings.Contains(string(text), stop)) {
			t.Fatalf("%s has not the limits that are made longer here", name)
		}
		// What a test does meanwhile may take its time; one that waited for the limit would be late.
		write(name, strings.NewReplacer("/usr/bin/meshd", "/usr/local/bin/meshd", // as scripts/install does
			limit, "--limit 90s", stop, "TimeoutStopSec=100").Replace(string(text)))
	}
	for name, text := range units {
		names = append(names, name)
		write(name, text)
	}
	write("all.target", "[Unit]\nWants="+strings.Join(names, " ")+"\n")

	s := &systemd{ended: make(chan struct{}), output: &lines{}}
	s.cmd = h.Command(context.Background(), "sh", "-c", boot, "sh", filepath.Join(h.Dir, "root"),
		"/meshd-lab/"+filepath.Base(m.Dir)+"/"+h.Name, h.Name,
		"--bind-ro="+dir+":/etc/systemd/system", "--bind-ro="+meshdBinary+":/usr/local/bin/meshd", "--bind-ro="+peerBinary+":/usr/local/bin/labpeer")
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // that it ends is the news
		close(s.ended)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- %s's console\n%s", h.Name, s.output)
		}
		_ = signalChildren(s.cmd.Process.Pid, syscall.SIGKILL) // its host's end takes the rest
		<-s.ended
		engine.Sweep()
	})
	return s
}

func (s *systemd) isDown() error {
	select {
	case <-s.ended:
		return nil
	default:
		return errors.New("it still runs")
	}
}

// mustRun fails the test if the host has ended.
func (s *systemd) mustRun(t *testing.T) {
	t.Helper()
	if s.isDown() == nil {
		t.Fatalf("systemd has ended: %s", s.output)
	}
}

// shutDown begins an orderly shutdown.
func (s *systemd) shutDown(t *testing.T) {
	t.Helper()
	if err := signalChildren(s.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// talking is one connection on which something is said, and heard again, all the time.
type talking struct {
	file   string
	cmd    *exec.Cmd
	ended  chan error
	output *lines
}

func talkTo(t *testing.T, h *lab.Host, client *Running, address string) *talking {
	t.Helper()
	k := &talking{file: filepath.Join(t.TempDir(), "answers"), ended: make(chan error, 1), output: &lines{}}
	k.cmd = h.Command(testContext(t), "nsenter", "--net=/run/meshd/endpoints/"+client.ID, peerBinary, "talk", address, k.file)
	k.cmd.Stdout, k.cmd.Stderr = k.output, k.output
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { k.ended <- k.cmd.Wait() }()
	return k
}

// await waits for so many more answers.
func (k *talking) await(t *testing.T, more int) {
	t.Helper()
	first := -1
	within(t, 15*time.Second, fmt.Sprintf("%d answers", more), func() error {
		select {
		case err := <-k.ended:
			k.ended <- err
			t.Fatalf("the connection ended: %v: %s", err, k.output)
		default:
		}
		data, err := os.ReadFile(k.file)
		if err != nil {
			return err
		}
		var count int
		if _, err := fmt.Sscan(string(data), &count); err != nil {
			return err // it is just being written
		}
		if first < 0 {
			first = count
		}
		if count < first+more {
			return fmt.Errorf("%d answers", count-first)
		}
		return nil
	})
}

// stop hangs up. The error says that the connection had broken.
func (k *talking) stop() error {
	_ = signalChildren(k.cmd.Process.Pid, syscall.SIGTERM) // it may have ended, which is the error
	if err := <-k.ended; err != nil {
		return fmt.Errorf("%w: %s", err, k.output)
	}
	return nil
}
