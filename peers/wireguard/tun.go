package wireguard

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/meshd/meshd/internal/netns"
)

const (
	defaultTUN = "/dev/net/tun"
	// tunBusyPatience is how long a predecessor that is about to end may keep the TUN device.
	tunBusyPatience = 5 * time.Second
	tunBusyPause    = 50 * time.Millisecond
)

// meshTUN is a TUN device in the mesh namespace, served from the host's.
type meshTUN struct {
	tun.Device
	namespace *netns.Handle
	events    chan tun.Event
}

// openTUN makes the TUN device name in the namespace, or takes over the one that a
// dead predecessor left there. The device is persistent: addresses, and VXLAN devices that
// use it, outlive the process that serves it.
func openTUN(namespace *netns.Handle, clone, name string, mtu int) (*meshTUN, error) {
	var device tun.Device
	err := namespace.Do(func() error {
		file, err := attachTUN(clone, name)
		if err != nil {
			return err
		}
		if device, err = tun.CreateTUNFromFile(file, mtu); err != nil {
			_ = file.Close()
			return fmt.Errorf("setting up TUN device %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t := &meshTUN{Device: device, namespace: namespace, events: make(chan tun.Event, 1)}
	go t.passEvents()
	return t, nil
}

// attachTUN opens the clone device and attaches it to the interface name of the
// calling thread's namespace, with the flags that wireguard-go expects.
func attachTUN(clone, name string) (*os.File, error) {
	fd, err := unix.Open(clone, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainTUN(clone, err)
	}
	if err := claimTUN(fd, name); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// Before os.NewFile looks at it, so that Go polls it.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("setting TUN device %s non-blocking: %w", name, err)
	}
	return os.NewFile(uintptr(fd), clone), nil
}

func claimTUN(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("naming TUN device %q: %w", name, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	for end := time.Now().Add(tunBusyPatience); ; time.Sleep(tunBusyPause) {
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("TUN device %s is held by another process: end it", name)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("creating TUN device %s: %w: run meshd as root (it needs CAP_NET_ADMIN)", name, err)
	case err != nil:
		return fmt.Errorf("creating TUN device %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keeping TUN device %s: %w", name, err)
	}
	return nil
}

// explainTUN says why the clone device cannot be opened and what to do about it.
func explainTUN(clone string, err error) error {
	const container = "in a container, start it with --device /dev/net/tun and CAP_NET_ADMIN"
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("userspace WireGuard needs %s, which is not there: "+
			"load the module (modprobe tun) or make the device (mkdir -p /dev/net; mknod /dev/net/tun c 10 200); %s: %w", clone, container, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("userspace WireGuard needs %s, and this kernel has no TUN driver for it: "+
			"load the module (modprobe tun): %w", clone, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("userspace WireGuard may not open %s: run meshd as root; %s: %w", clone, container, err)
	default:
		return fmt.Errorf("opening %s for userspace WireGuard: %w", clone, err)
	}
}

// MTU reads the MTU where the device is: wireguard-go would look in the process's own namespace.
func (t *meshTUN) MTU() (int, error) {
	var mtu int
	err := t.namespace.Do(func() error {
		var err error
		mtu, err = t.Device.MTU()
		return err
	})
	return mtu, err
}

// Events holds changes of the MTU only. The tunnel is up as long as its process lives: whether
// its port can be bound must not depend on the moment the interface is set up, when nobody could be told.
func (t *meshTUN) Events() <-chan tun.Event { return t.events }

func (t *meshTUN) passEvents() {
	defer close(t.events)
	for event := range t.Device.Events() {
		if event&tun.EventMTUUpdate == 0 {
			continue
		}
		select {
		case t.events <- tun.EventMTUUpdate:
		default: // one is waiting already
		}
	}
}
