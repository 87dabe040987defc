package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// separateMounts keeps our mounts from the host. The host's still come to us: were they cut off, a disk that
// the host unmounts would stay busy for as long as the command runs.
func separateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separating the command's mounts from the host's: %w", err)
	}
	return nil
}

// forgetNamespaces drops our copies of the daemon's namespaces: each would keep a network
// namespace alive that the daemon removes while the command runs.
func forgetNamespaces(runtime string) error {
	if runtime == "" {
		return nil
	}
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("reading mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	paths, err := namespaceMounts(file, runtime)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // gone by now
			return fmt.Errorf("dropping the copy of %s: %w", path, err)
		}
	}
	return nil
}

// namespaceMounts are the nsfs mounts below a directory, from mountinfo (proc_pid_mountinfo(5)).
func namespaceMounts(mountinfo io.Reader, below string) ([]string, error) {
	var paths []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		mount, source, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if !ok || len(fields) < 5 || !strings.HasPrefix(source, "nsfs ") {
			continue
		}
		if path := unescape.Replace(fields[4]); strings.HasPrefix(path, below+"/") {
			paths = append(paths, path)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading mounts: %w", err)
	}
	return paths, nil
}

// hideHostResolvers hides the sockets of the host's resolver services. glibc asks them
// (nss-resolve, nscd) before it reads resolv.conf, and they know the host's names only.
func hideHostResolvers() error {
	for _, dir := range []string{"/run/systemd/resolve", "/run/nscd"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k")
		if err != nil {
			return fmt.Errorf("hiding the host's resolver in %s: %w", dir, err)
		}
	}
	return nil
}

// bindResolvConf puts a resolv.conf over the host's, for this mount namespace only.
func bindResolvConf(nameserver string, search []string) error {
	target, err := os.Readlink(resolvConf)
	if err == nil && strings.Contains(target, "run/systemd/resolve/") {
		// It leads into a directory that is ours now, and empty.
		if err := os.WriteFile(resolvConf, []byte(resolvText(nameserver, search)), 0o644); err != nil { //nolint:gosec // everybody reads it
			return fmt.Errorf("writing %s: %w", resolvConf, err)
		}
		return nil
	}
	file, err := os.CreateTemp("", "meshd-resolv-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", resolvConf, err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // the mount keeps what it needs of it
	_, err = file.WriteString(resolvText(nameserver, search))
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", resolvConf, err)
	}
	if err := unix.Mount(file.Name(), resolvConf, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", resolvConf, err)
	}
	return nil
}
