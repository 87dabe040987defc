package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript string

// hostPrograms is what a machine takes from this one, with the libraries that they need. The rest
// is busybox's.
var hostPrograms = []string{
	"ip", "bridge", "nft", "iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore",
	"modprobe", "ping", "dash",
}

// moduleFolders is what of the kernel's modules a machine gets, below kernel/.
var moduleFolders = []string{
	"net/802", "net/bridge", "net/core", "net/ipv4", "net/ipv6", "net/llc", "net/netfilter",
	"drivers/char/hw_random", "drivers/char/virtio_console.ko", "drivers/net/net_failover.ko", "drivers/net/tun.ko",
	"drivers/net/veth.ko", "drivers/net/virtio_net.ko", "drivers/net/vxlan", "drivers/net/wireguard", "drivers/virtio",
	"arch/x86/crypto", "crypto", "lib",
}

// image is what a machine boots from.
type image struct {
	kernel string // path
	initrd string // path
}

// kernelDir is where scripts/deps unpacks the kernel's package.
const kernelDir = "/var/cache/meshd-test/kernel"

// buildImage writes the first root of a machine to dir: an unpacked one, for there is little that an
// emulated processor does more slowly than unpacking. programs are added to /usr/local/bin.
func buildImage(ctx context.Context, dir string, programs map[string]string) (image, error) {
	kernels, err := filepath.Glob(filepath.Join(kernelDir, "boot", "vmlinuz-*"))
	if err != nil {
		return image{}, err
	}
	if len(kernels) != 1 {
		return image{}, fmt.Errorf("%d kernels in %s instead of one: run: scripts/deps vm", len(kernels), kernelDir)
	}
	img := image{kernel: kernels[0], initrd: filepath.Join(dir, "initrd")}
	file, err := os.Create(img.initrd)
	if err != nil {
		return image{}, err
	}
	defer func() { _ = file.Close() }()
	a := newArchive(file)
	a.text("init", 0o755, initScript)
	a.text("etc/nsswitch.conf", 0o644, "hosts: files dns\n")
	a.text("etc/resolv.conf", 0o644, "nameserver 10.77.0.100\n")
	a.text("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")
	a.text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")
	a.text("etc/group", 0o644, "root:x:0:\n")
	a.file("usr/lib/modules-load.d/meshd.conf", "../../configs/modules-load.d/meshd.conf")
	a.file("usr/lib/sysctl.d/meshd.conf", "../../configs/sysctl.d/60-meshd.conf")
	for name, source := range programs {
		a.file("usr/local/bin/"+name, source)
	}
	version := strings.TrimPrefix(filepath.Base(img.kernel), "vmlinuz-")
	if err := errors.Join(addPrograms(ctx, a), addModules(a, version)); err != nil {
		return image{}, err
	}
	return img, errors.Join(a.close(), file.Close())
}

// addPrograms copies this machine's programs and their libraries.
func addPrograms(ctx context.Context, a *archive) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w: run: scripts/deps vm", err)
	}
	a.file("bin/busybox", busybox)
	a.link("bin/sh", "/usr/sbin/dash")            // not busybox, which would run its own ip
	a.link("sbin/modprobe", "/usr/sbin/modprobe") // where the kernel looks for it
	need := make([]string, 0, len(hostPrograms))
	for _, name := range hostPrograms {
		source, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("%w: run: scripts/deps vm", err)
		}
		if source, err = filepath.EvalSymlinks(source); err != nil {
			return err
		}
		// iptables is one program of many names.
		a.file("usr/sbin/"+filepath.Base(source), source)
		if base := filepath.Base(source); base != name {
			a.link("usr/sbin/"+name, base)
		}
		need = append(need, source)
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so") // of iptables: it opens them by name
	if err != nil {
		return err
	}
	for _, source := range extensions {
		a.file(source, source)
	}
	return addLibraries(ctx, a, append(need, extensions...))
}

// addLibraries copies what the programs are linked with, to where they look for it.
func addLibraries(ctx context.Context, a *archive, programs []string) error {
	out, err := exec.CommandContext(ctx, "ldd", programs...).Output()
	if err != nil {
		return fmt.Errorf("finding libraries: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") && !strings.HasSuffix(field, ":") {
				a.file(field, field)
			}
		}
	}
	return nil
}

// addModules copies modules and the lists by which modprobe finds them.
func addModules(a *archive, version string) error {
	root := "lib/modules/" + version
	lists, err := filepath.Glob(filepath.Join(kernelDir, root, "modules.*"))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(lists, func(l string) bool { return filepath.Base(l) == "modules.dep.bin" }) {
		return fmt.Errorf("%s is not complete: remove it and run: scripts/deps vm", kernelDir)
	}
	for _, list := range lists {
		a.file(filepath.Join(root, filepath.Base(list)), list)
	}
	for _, folder := range moduleFolders {
		err := filepath.WalkDir(filepath.Join(kernelDir, root, "kernel", folder), func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(kernelDir, file)
			a.file(name, file)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
