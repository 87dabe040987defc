// Package lab makes hosts on one machine: each a set of namespaces of its own (network,
// mount, process, hostname), joined by an underlay network that can be cut,
// slowed and listened to. What runs on a host is real; only the machines are not.
//
// A host's processes all descend from one holder, the first process of its PID
// namespace. When the holder ends, for whatever reason, the kernel ends all
// others and takes the network away; so nothing is left behind.
package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Lab is a set of hosts on one underlay.
type Lab struct {
	Name  string
	Dir   string // holds what the hosts keep in /var/lib, and their logs
	Wire  *Host  // the switch between the hosts: the place to listen
	Hosts []*Host

	detached bool // hosts outlive this process
}

// Options says how a lab is made.
type Options struct {
	Name  string // short and unique on this machine; names its directory
	Hosts int    // h1, h2, …: 10.77.0.1, …, fd00:77::1, …
	MTU   int    // of the underlay; 0 is 1500
	// Outside adds a host "outside", 10.77.0.100 and fd00:77::100, that is not in the mesh.
	Outside bool
	// Detached hosts go on when this process ends; Open finds them again.
	Detached bool
}

const wireName = "wire"

// New makes a lab. On an error nothing is left.
func New(ctx context.Context, opts Options) (lab *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root: it makes network namespaces")
	}
	sweep()
	l := &Lab{Name: opts.Name, Dir: Dir(opts.Name), detached: opts.Detached}
	if !opts.Detached {
		remember(l)
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.Wire, err = l.newHost(ctx, wireName); err != nil {
		return nil, err
	}
	if _, err := l.Wire.Run(ctx, "ip", "link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0"); err != nil {
		return nil, err
	}
	// A switch knows nothing of IP: without this, and where Docker wants it of bridges, each packet would pass a firewall.
	const plain = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done"
	if _, err := l.Wire.Run(ctx, "sh", "-c", plain); err != nil {
		return nil, err
	}
	for i := 1; i <= opts.Hosts; i++ {
		if err := l.AddHost(ctx, fmt.Sprintf("h%d", i), i, opts.MTU); err != nil {
			return nil, err
		}
	}
	if opts.Outside {
		if err := l.AddHost(ctx, "outside", 100, opts.MTU); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Dir is where a lab of a name keeps its files.
func Dir(name string) string { return filepath.Join("/var/tmp", "meshd-lab-"+name) }

// AddHost adds a host with 10.77.0.N and fd00:77::N to the underlay.
func (l *Lab) AddHost(ctx context.Context, name string, n, mtu int) error {
	h, err := l.newHost(ctx, name)
	if err != nil {
		return err
	}
	l.Hosts = append(l.Hosts, h)
	if mtu == 0 {
		mtu = 1500
	}
	h.IP, h.IP6 = fmt.Sprintf("10.77.0.%d", n), fmt.Sprintf("fd00:77::%d", n)
	h.cable = fmt.Sprintf("link add p-%s mtu %d master br0 up type veth peer name eth0 mtu %d address 02:00:0a:4d:00:%02x", name, mtu, mtu, n)
	return l.plug(ctx, h)
}

// plug connects a host to the underlay.
func (l *Lab) plug(ctx context.Context, h *Host) error {
	add := append(strings.Fields(h.cable), "netns", fmt.Sprintf("/proc/%d/ns/net", h.PID))
	if _, err := l.Wire.runShared(ctx, "ip", add...); err != nil {
		return err
	}
	for _, cmd := range []string{
		"addr add " + h.IP + "/24 dev eth0",
		"addr add " + h.IP6 + "/64 dev eth0 nodad",
		"link set eth0 up",
		"route add default via 10.77.0.254",
		"-6 route add default via fd00:77::fe",
	} {
		if _, err := h.Run(ctx, "ip", strings.Fields(cmd)...); err != nil {
			return err
		}
	}
	return nil
}

// Crash ends a host as a power cut does: all processes, interfaces and /run are gone, files stay.
func (l *Lab) Crash(ctx context.Context, h *Host) error {
	if err := h.end(); err != nil {
		return err
	}
	h.holder, h.PID = nil, 0
	// Its cable goes with its namespaces, when their last process is gone.
	if err := WaitFor(ctx, func() error {
		if _, err := l.Wire.Run(ctx, "ip", "link", "show", "p-"+h.Name); err == nil {
			return fmt.Errorf("%s is still on the underlay", h.Name)
		}
		return nil
	}); err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(h.Dir, "ready")), removeAll(filepath.Join(h.Dir, "run")))
}

// Boot starts a host that has crashed. No program runs on it yet.
func (l *Lab) Boot(ctx context.Context, h *Host) error {
	if err := l.boot(ctx, h); err != nil {
		return err
	}
	return l.plug(ctx, h)
}

// Host finds a host by name; it panics if there is none, for that is a mistake in the test.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.Hosts {
		if h.Name == name {
			return h
		}
	}
	panic("lab: no host " + name)
}

// open is the labs that go with this process.
var open = struct {
	sync.Mutex // guards all below
	labs       map[*Lab]bool
}{labs: make(map[*Lab]bool)}

func remember(l *Lab) {
	open.Lock()
	defer open.Unlock()
	open.labs[l] = true
}

// CloseAll closes the labs of this process that are open: for one that was interrupted, and ends.
func CloseAll() error {
	open.Lock()
	labs := slices.Collect(maps.Keys(open.labs))
	open.Unlock()
	var errs []error
	for _, l := range labs {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Close ends every host and removes the lab's files.
func (l *Lab) Close() error {
	open.Lock()
	delete(open.labs, l)
	open.Unlock()
	var errs []error
	for _, h := range append([]*Host{l.Wire}, l.Hosts...) {
		if h != nil {
			errs = append(errs, h.end())
		}
	}
	errs = append(errs, removeAll(l.Dir))
	return errors.Join(errs...)
}

// removeAll removes a directory that a dying namespace may still hold mounts in.
func removeAll(dir string) error {
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
	}
	return err
}

// sweep removes the files of labs that were killed: their hosts went with them.
func sweep() {
	dirs, _ := filepath.Glob(Dir("*")) // the pattern is ours
	for _, dir := range dirs {
		l, err := Open(strings.TrimPrefix(dir, Dir("")))
		if err != nil {
			continue // one that is being made, or not a lab
		}
		// Whatever has the ID of a holder may be one: better a directory too many.
		if !slices.ContainsFunc(append(l.Hosts, l.Wire), func(h *Host) bool { return h != nil && syscall.Kill(h.PID, 0) == nil }) {
			_ = os.RemoveAll(dir) // the next sweep finds it again
		}
	}
}

// Open finds a detached lab.
func Open(name string) (*Lab, error) {
	l := &Lab{Name: name, Dir: Dir(name), detached: true}
	pids, err := filepath.Glob(filepath.Join(l.Dir, "*", "pid"))
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("there is no lab %q: make one with: make lab", name)
	}
	for _, path := range pids {
		h, err := openHost(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		if h.Name == wireName {
			l.Wire = h
		} else {
			l.Hosts = append(l.Hosts, h)
		}
	}
	return l, nil
}

// Require says which of the programs a lab needs are missing.
func Require(programs ...string) error {
	var missing []string
	for _, p := range append([]string{"ip", "unshare", "nsenter", "iptables"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs: %s: run: make deps", strings.Join(missing, ", "))
	}
	return nil
}
