package wireguard

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"

	"github.com/meshd/meshd/internal/netns"
)

// UserspaceCommand is the hidden command of meshd that [RunUserspace] implements.
const UserspaceCommand = "wireguard-userspace"

const (
	// socketDir is where wgctrl and wg(8) look for userspace devices.
	socketDir = "/var/run/wireguard"
	// socketWatch is how often the process looks whether its socket is still there.
	socketWatch = time.Second
)

func socketPath(name string) string { return filepath.Join(socketDir, name+".sock") }

// userspaceArgs is what the agent tells the process that it starts.
type userspaceArgs struct {
	namespace string // path of the mesh namespace
	name      string // of the TUN device and the socket
	mtu       int    // bytes
	clone     string // the TUN driver's device file
	ready     int    // file descriptor that the outcome of the start is written to; -1: none
}

func (a userspaceArgs) list() []string {
	return []string{
		UserspaceCommand, "--netns", a.namespace, "--name", a.name, "--mtu", fmt.Sprint(a.mtu),
		"--tun", a.clone, "--ready-fd", fmt.Sprint(a.ready),
	}
}

func parseUserspaceArgs(args []string) (userspaceArgs, error) {
	var a userspaceArgs
	flags := flag.NewFlagSet(UserspaceCommand, flag.ContinueOnError)
	flags.StringVar(&a.namespace, "netns", "", "path of the mesh namespace")
	flags.StringVar(&a.name, "name", "", "name of the device")
	flags.IntVar(&a.mtu, "mtu", device.DefaultMTU, "bytes")
	flags.StringVar(&a.clone, "tun", defaultTUN, "device file of the TUN driver")
	flags.IntVar(&a.ready, "ready-fd", -1, "file descriptor that the outcome of the start is written to")
	if err := flags.Parse(args); err != nil {
		return a, err
	}
	if a.namespace == "" || a.name == "" || flags.NArg() > 0 {
		return a, fmt.Errorf("%s needs --netns and --name, and nothing else: meshd agent starts it by itself", UserspaceCommand)
	}
	return a, nil
}

// RunUserspace serves a WireGuard device from this process: a TUN device in the mesh
// namespace, UDP in the process's own, set up by others through a socket that wgctrl knows. args
// are what follows [UserspaceCommand] on the command line.
//
// It returns nil when ctx ends, on SIGTERM, and when its device or its socket has been removed.
// It ignores SIGHUP and SIGINT: a terminal that closes does not end the tunnel.
func RunUserspace(ctx context.Context, args []string) error {
	a, err := parseUserspaceArgs(args)
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	_ = os.WriteFile("/proc/self/comm", []byte("meshd-wireguard"), 0) // the name that ps shows: a nicety
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM)
	defer stop()
	t, err := startTunnel(a)
	reportStart(a.ready, err)
	if err != nil {
		return err
	}
	return t.serve(ctx)
}

// reportStart tells the agent how the start went: nothing if well, else why not.
func reportStart(fd int, err error) {
	if fd < 0 {
		return
	}
	pipe := os.NewFile(uintptr(fd), "ready")
	if err != nil {
		_, _ = pipe.WriteString(err.Error())
	} else {
		_, _ = pipe.WriteString(startedWell)
	}
	_ = pipe.Close()
}

// tunnel is a running userspace device.
type tunnel struct {
	device   *device.Device
	listener *net.UnixListener
	path     string // of the socket
	socket   os.FileInfo
}

func startTunnel(a userspaceArgs) (*tunnel, error) {
	namespace, err := netns.Open(a.namespace)
	if err != nil {
		return nil, fmt.Errorf("opening the mesh namespace: %w", err)
	}
	// The handle is kept: the device asks for its MTU through it as long as it lives.
	tun, err := openTUN(namespace, a.clone, a.name, a.mtu)
	if err != nil {
		_ = namespace.Close()
		return nil, err
	}
	dev := device.NewDevice(tun, newPatientBind(), newProcessLogger(os.Stderr))
	t := &tunnel{device: dev, path: socketPath(a.name)}
	if err := dev.Up(); err != nil {
		dev.Close()
		return nil, fmt.Errorf("bringing up WireGuard device %s: %w", a.name, err)
	}
	if err := t.listen(); err != nil {
		dev.Close()
		return nil, err
	}
	return t, nil
}

func (t *tunnel) listen() error {
	if err := os.MkdirAll(socketDir, 0o755); err != nil {
		return fmt.Errorf("creating the folder of WireGuard's sockets: %w", err)
	}
	old := unix.Umask(0o077) // who may open the socket may read the private key
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("listening for settings: %w", err)
	}
	// By hand in close, and only if it is ours: a successor may have put its own there.
	listener.SetUnlinkOnClose(false)
	t.listener = listener
	if t.socket, err = os.Lstat(t.path); err != nil {
		_ = listener.Close()
		return fmt.Errorf("listening for settings: %w", err)
	}
	return nil
}

func (t *tunnel) serve(ctx context.Context) error {
	defer t.close()
	accepted := make(chan error, 1)
	go func() { accepted <- t.accept() }()
	look := time.NewTicker(socketWatch)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.device.Wait():
			return nil
		case err := <-accepted:
			return fmt.Errorf("listening for settings: %w", err)
		case <-look.C:
			if !t.ownsSocket() {
				return nil
			}
		}
	}
}

func (t *tunnel) accept() error {
	for {
		conn, err := t.listener.Accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ECONNABORTED) {
			time.Sleep(tunBusyPause)
			continue
		}
		if err != nil {
			return err
		}
		go t.device.IpcHandle(conn)
	}
}

func (t *tunnel) ownsSocket() bool {
	now, err := os.Lstat(t.path)
	return err == nil && os.SameFile(t.socket, now)
}

func (t *tunnel) close() {
	if t.ownsSocket() {
		_ = os.Remove(t.path)
	}
	// Last, because connections that wait to be accepted end with it: to the agent that is the
	// sign that the port is free.
	t.device.Close()
	_ = t.listener.Close()
}
