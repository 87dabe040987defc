package wireguard

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meshd/meshd/internal/journal"
)

// Mode says who does the encryption.
type Mode string

const (
	ModeAuto      Mode = "auto"      // what is there already; else the kernel if it can, else userspace
	ModeKernel    Mode = "kernel"    // the kernel, or an error
	ModeUserspace Mode = "userspace" // a process of meshd's own
)

// Options is what does not change while the agent runs.
type Options struct {
	MeshNamespace string           // path; holds the device
	HostNamespace string           // path; holds the UDP socket. Empty: the agent's own
	RuntimeDir    string           // holds the log; the device's name is made of it
	Mode          Mode             // empty: ModeAuto
	Logger        *slog.Logger     // nil: none
	Changes       *journal.Journal // takes down what Apply changes; nil: nobody reads it

	Executable string // implements UserspaceCommand; empty: the agent's own program
	TUNDevice  string // device file of the TUN driver; empty: /dev/net/tun
}

// Device is the host's WireGuard device. Apply and Remove must not run at the
// same time; Status, Mode and Changed may be called at any time.
type Device struct {
	opts      Options
	name      string
	log       *slog.Logger
	userspace *userspace
	changed   chan struct{}
	now       func() time.Time
	addKernel func(host, mesh, name string) error
	trials    map[[32]byte]trial // of Apply alone

	mu    sync.Mutex // guards mode and watch
	mode  Mode       // ModeKernel, ModeUserspace, or empty while there is no device
	watch net.Conn   // to the userspace process
}

// PeerStatus is what the device knows of a peer.
type PeerStatus struct {
	PublicKey     [32]byte
	Endpoint      netip.AddrPort // zero: none yet
	LastHandshake time.Time      // zero: never
	RX, TX        int64          // bytes
}

// New returns a Device. It touches nothing: Apply creates or adopts.
func New(opts Options) (*Device, error) {
	switch opts.Mode {
	case "":
		opts.Mode = ModeAuto
	case ModeAuto, ModeKernel, ModeUserspace:
	default:
		return nil, fmt.Errorf("wireguard.mode is %q: it must be auto, kernel or userspace", opts.Mode)
	}
	dir, err := filepath.Abs(opts.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("naming the WireGuard device: %w", err)
	}
	opts.RuntimeDir = dir
	setDefault(&opts.HostNamespace, "/proc/self/ns/net") // the first thread's, which never changes
	setDefault(&opts.Executable, "/proc/self/exe")       // also after an upgrade has replaced the file
	setDefault(&opts.TUNDevice, defaultTUN)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	name := DeviceName(dir)
	return &Device{
		opts: opts, name: name, log: opts.Logger,
		userspace: &userspace{
			name: name, mesh: opts.MeshNamespace, host: opts.HostNamespace, runtimeDir: dir,
			executable: opts.Executable, clone: opts.TUNDevice, log: opts.Logger,
		},
		changed: make(chan struct{}, 1), now: time.Now, addKernel: createKernelLink,
		trials: map[[32]byte]trial{},
	}, nil
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// DeviceName is the device's name in the mesh namespace, and its socket's in /var/run/wireguard.
// Several daemons of one machine may share that folder, so it follows from the runtime dir.
func DeviceName(runtimeDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(runtimeDir)))
	return fmt.Sprintf("wg-%x", sum[:4])
}

// Name is the device's name in the mesh namespace.
func (d *Device) Name() string { return d.name }

// Mode is ModeKernel or ModeUserspace, or empty while there is no device.
func (d *Device) Mode() Mode {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mode
}

// Changed pokes when the userspace process has ended. The next Apply starts it again.
func (d *Device) Changed() <-chan struct{} { return d.changed }

// Apply makes the device equal to cfg: it adopts the one that is there or makes one, and
// changes only what differs. Call it every few seconds while a peer has no handshake: each
// Apply may go on to a peer's next candidate.
//
// The mesh namespace must exist. A port that is taken is a *PortTakenError, a kernel without
// WireGuard in ModeKernel ErrNoKernelWireGuard. If Apply made the device and could not set it up, it
// removes it again.
func (d *Device) Apply(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	created, err := d.ensure(ctx, cfg)
	if err == nil {
		if created {
			d.opts.Changes.Note("ip link add %s type wireguard", d.name)
		}
		err = d.configure(ctx, cfg)
	}
	if err != nil && created {
		return errors.Join(err, d.Remove())
	}
	return err
}

// ensure makes sure that there is a device. It says whether it had to make one.
func (d *Device) ensure(ctx context.Context, cfg Config) (created bool, err error) {
	found, err := d.find()
	if err != nil {
		return false, err
	}
	if found.usable(d.opts.Mode) {
		return false, d.adopt(found.mode)
	}
	removed := found.inTheWay(d.opts.Mode)
	if removed {
		d.log.Info("replacing the WireGuard device", "device", d.name, "have", found.mode, "want", d.opts.Mode)
		if err := d.Remove(); err != nil {
			return false, err
		}
		found = finding{}
	}
	fresh := found.mode == "" // else a dead process left its TUN device, which stays
	if err := d.awaitPort(ctx, cfg.ListenPort, removed || !fresh); err != nil {
		return false, err
	}
	mode, err := d.create(ctx, cfg.MTU, found.mode)
	if err != nil {
		if fresh {
			err = errors.Join(err, d.Remove())
		}
		return false, err
	}
	return fresh, d.adopt(mode)
}

// awaitPort checks that the port is free. A predecessor that has been ended, or that left its TUN
// device and may be about to end because its socket was removed, is given the time to let go of it.
func (d *Device) awaitPort(ctx context.Context, port int, predecessor bool) error {
	end := time.Now().Add(socketWatch + stopPatience)
	for {
		err := checkPort(d.opts.HostNamespace, port)
		if err == nil || !predecessor || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tunBusyPause):
		}
	}
}

// finding is what there is in the kernel.
type finding struct {
	mode  Mode // of the link with our name in the mesh namespace; empty: none
	alive bool // it works: it is the kernel's, or its process runs
	stray bool // the name is somebody's who is not ours, or a process runs without a link here
}

func (f finding) usable(want Mode) bool {
	return f.alive && f.mode != "" && (want == ModeAuto || want == f.mode)
}

// inTheWay is what must go before a device can be made. A TUN device that a dead process left is
// not: its successor takes it over, with the addresses and VXLAN devices that depend on it.
func (f finding) inTheWay(want Mode) bool {
	return f.stray || f.alive || f.mode == ModeUserspace && want == ModeKernel
}

func (d *Device) find() (finding, error) {
	kind, err := linkType(d.opts.MeshNamespace, d.name)
	if err != nil {
		return finding{}, err
	}
	running := true
	conn, err := d.userspace.dial()
	if errors.Is(err, errNotRunning) {
		running = false
	} else if err != nil {
		return finding{}, err
	} else {
		_ = conn.Close()
	}
	switch kind {
	case kernelType:
		return finding{mode: ModeKernel, alive: true}, nil
	case tunType:
		return finding{mode: ModeUserspace, alive: running}, nil
	case "":
		return finding{stray: running}, nil
	default:
		return finding{stray: true}, nil
	}
}

// create makes the device. left is ModeUserspace if a dead process left its TUN device.
func (d *Device) create(ctx context.Context, mtu int, left Mode) (Mode, error) {
	if d.opts.Mode != ModeUserspace && left != ModeUserspace {
		err := d.addKernel(d.opts.HostNamespace, d.opts.MeshNamespace, d.name)
		if err == nil {
			d.log.Info("created a WireGuard device of the kernel", "device", d.name)
			return ModeKernel, nil
		}
		if d.opts.Mode == ModeKernel || !errors.Is(err, ErrNoKernelWireGuard) {
			return "", err
		}
		d.log.Info("this kernel has no WireGuard; a process does its work")
	}
	return ModeUserspace, d.userspace.start(ctx, mtu)
}

// adopt notes the mode, and watches the userspace process.
func (d *Device) adopt(mode Mode) error {
	d.mu.Lock()
	d.mode = mode
	watched := d.watch != nil
	d.mu.Unlock()
	if mode != ModeUserspace || watched {
		return nil
	}
	conn, err := d.userspace.dial()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.watch = conn
	d.mu.Unlock()
	go d.watchProcess(conn)
	return nil
}

// watchProcess pokes when the process at the other end has gone.
func (d *Device) watchProcess(conn net.Conn) {
	_, _ = conn.Read(make([]byte, 1)) // it never says anything: this returns when it ends
	_ = conn.Close()
	d.mu.Lock()
	d.watch = nil
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default: // a poke is waiting already
	}
}

// Remove removes the device and all that belongs to it. It is no error if there is nothing.
func (d *Device) Remove() error {
	err := d.userspace.stop()
	d.mu.Lock()
	d.mode = ""
	d.mu.Unlock()
	d.trials = map[[32]byte]trial{}
	err = errors.Join(err, deleteLink(d.opts.MeshNamespace, d.name, ""))
	// What createKernelLink did not live to move.
	err = errors.Join(err, deleteLink(d.opts.HostNamespace, d.name, kernelType))
	if rmErr := os.Remove(d.userspace.logPath()); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("removing WireGuard's log: %w", rmErr))
	}
	return err
}
