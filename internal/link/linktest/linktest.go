// Package linktest makes throw-away network namespaces for tests that talk to the
// real kernel.
package linktest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// RequireRoot skips the test without root. In CI it fails instead, so that nobody
// takes a run that tested nothing for a good one.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	t.Skip("this test makes network namespaces: run it as root")
}

// Namespace makes a namespace that goes with the test and returns its path.
func Namespace(t testing.TB, name string) string {
	t.Helper()
	RequireRoot(t)
	path := filepath.Join(t.TempDir(), name)
	handle, err := netns.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = handle.Close()
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// Open opens a namespace for the time of the test.
func Open(t testing.TB, path string) *link.Namespace {
	t.Helper()
	n, err := link.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// Run runs a command inside the namespace and returns what it printed.
func Run(t testing.TB, path, command string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	var out []byte
	err := netns.Do(path, func() error {
		var err error
		out, err = exec.CommandContext(ctx, command, args...).CombinedOutput()
		return err
	})
	return string(out), err
}

// Must is Run for a command line that must succeed.
func Must(t testing.TB, path, commandLine string) string {
	t.Helper()
	words := strings.Fields(commandLine)
	out, err := Run(t, path, words[0], words[1:]...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", commandLine, err, out)
	}
	return out
}

// hang is how long nothing takes that ends, on whatever machine.
const hang = 30 * time.Second

// Eventually waits until condition holds and fails the test after half a minute.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(hang)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("still not after %s: %s", hang, what)
		}
		time.Sleep(10 * time.Millisecond) // the pace of asking, not a wait for a time
	}
}

// Settle waits until n interfaces of the namespace have their IPv6 link-local address, which
// the kernel adds by itself some time after an interface has a carrier.
func Settle(t testing.TB, path string, n int) {
	t.Helper()
	Eventually(t, "link-local addresses have settled", func() bool {
		out := Must(t, path, "ip -6 addr")
		return strings.Count(out, "inet6 fe80:") == n && !strings.Contains(out, "tentative")
	})
}

// carried waits until the kernel has taken note of every carrier, of which it tells up to a second late.
func carried(t testing.TB, path string) {
	t.Helper()
	Eventually(t, "every carrier is known", func() bool {
		out := Must(t, path, "ip -o link")
		for line := range strings.Lines(out) { // NUMBER: NAME[@OTHER]: <FLAG,...> ... state STATE ...
			words := strings.Fields(line)
			flags := strings.Split(strings.Trim(words[2], "<>"), ",")
			if !slices.Contains(flags, "UP") {
				continue
			}
			// A bridge's state is UNKNOWN until it has ports and the kernel has looked at them.
			fresh := strings.Contains(line, " state UNKNOWN ") && strings.Contains(out, " master "+strings.TrimSuffix(words[1], ":")+" ")
			if fresh || slices.Contains(flags, "LOWER_UP") == slices.Contains(flags, "NO-CARRIER") {
				return false
			}
		}
		return true
	})
}

// kernels says whether the kernel makes an address by itself, at a time of its own choosing.
func kernels(ip net.IP) bool { return ip.To4() == nil && ip.IsLinkLocalUnicast() }

// Events returns the changes of interfaces, addresses, routes and permanent neighbours
// that the kernel announced in the namespaces while fn ran, but for IPv6 link-local
// addresses, which are its own. Each watch ends when it
// sees a change that it made itself after fn.
func Events(t testing.TB, fn func(), paths ...string) []string {
	t.Helper()
	var mu sync.Mutex // guards seen
	var seen []string
	var watches []*watch
	for _, path := range paths {
		carried(t, path)
		watches = append(watches, startWatch(t, path, func(event string) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, event)
		}))
	}
	fn()
	for _, w := range watches {
		w.finish(t)
	}
	return seen
}

type watch struct {
	path string
	done chan struct{}
	stop chan struct{}
}

func startWatch(t testing.TB, path string, report func(string)) *watch {
	t.Helper()
	w := &watch{path: path, done: make(chan struct{}), stop: make(chan struct{})}
	links := make(chan netlink.LinkUpdate, 4096)
	addrs := make(chan netlink.AddrUpdate, 4096)
	routes := make(chan netlink.RouteUpdate, 4096)
	neighs := make(chan netlink.NeighUpdate, 4096)
	err := netns.Do(path, func() error {
		return firstError(
			netlink.LinkSubscribe(links, w.stop), netlink.AddrSubscribe(addrs, w.stop),
			netlink.RouteSubscribe(routes, w.stop), netlink.NeighSubscribe(neighs, w.stop))
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.done)
		// The kinds of change come by sockets of their own: wait for the last of each.
		for ended := make(map[string]bool); len(ended) < 4; {
			select {
			case u := <-links:
				note(u.Link.Attrs().Name == lastLink, "link", u.Link.Attrs().Name, ended, report)
			case u := <-addrs:
				if kernels(u.LinkAddress.IP) {
					continue
				}
				note(u.LinkAddress.IP.String() == lastIP, "address", u.LinkAddress.String(), ended, report)
			case u := <-routes:
				if u.Dst != nil && kernels(u.Dst.IP) {
					continue
				}
				last := u.Dst != nil && u.Dst.IP.String() == lastIP
				note(last, "route", u.Route.String(), ended, report)
			case u := <-neighs:
				if u.State&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 { // others come and go with traffic
					note(u.IP.String() == lastIP, "neighbour", u.Neigh.String(), ended, report)
				}
			}
		}
	}()
	return w
}

func note(last bool, kind, what string, ended map[string]bool, report func(string)) {
	if last {
		ended[kind] = true
		return
	}
	report(kind + " " + what)
}

// The last changes of a watch: its own (the address is RFC 5737's).
const (
	lastLink = "linktest"
	lastIP   = "203.0.113.254"
)

// finish makes one change of each kind, the last ones, and waits until they were seen.
func (w *watch) finish(t testing.TB) {
	t.Helper()
	Must(t, w.path, "ip link add "+lastLink+" type vxlan id 16777215 dstport 4788")
	Must(t, w.path, "ip addr add "+lastIP+"/32 dev "+lastLink)
	Must(t, w.path, "ip route add blackhole "+lastIP+"/32")
	Must(t, w.path, "ip neigh add "+lastIP+" lladdr 02:00:00:00:00:01 dev "+lastLink+" nud permanent")
	<-w.done
	close(w.stop)
	Must(t, w.path, "ip route del blackhole "+lastIP+"/32")
	Must(t, w.path, "ip link del "+lastLink)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
