package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshd/meshd/test/lab"
)

const (
	hierarchies = "/sys/fs/cgroup"
	ownGroups   = "meshd-lab" // all labs' control groups are below this one
)

// groupsOf is the control group that the containers of a host's engine are in: /meshd-lab/LAB/HOST.
func groupsOf(h *lab.Host) string {
	return path.Join("/", ownGroups, filepath.Base(filepath.Dir(h.Dir)), h.Name)
}

// removeGroups ends what is left in a control group and removes it, in every hierarchy.
func removeGroups(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := lab.WaitFor(ctx, func() error {
		var errs []error
		for _, root := range groupDirs(group) {
			errs = append(errs, killGroup(root), removeGroup(root))
		}
		return errors.Join(errs...)
	})
	for _, above := range []string{path.Dir(group), path.Dir(path.Dir(group))} {
		for _, dir := range groupDirs(above) {
			_ = syscall.Rmdir(dir) // refused while others have something in it
		}
	}
	return err
}

// groupDirs is where a control group is: below each hierarchy of version 1, or at the one place of version 2.
func groupDirs(group string) []string {
	found, _ := filepath.Glob(filepath.Join(hierarchies, "*", group)) // the pattern is ours
	if dir := filepath.Join(hierarchies, group); exists(dir) {
		found = append(found, dir)
	}
	return found
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// killGroup kills the processes of a control group and of those below it.
func killGroup(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return ignoreGone(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return ignoreGone(err)
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended
			}
		}
		return nil
	})
}

// removeGroup removes a control group and those below it, the deepest first. Their files go with them.
func removeGroup(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		if entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	for _, dir := range dirs {
		err = errors.Join(err, ignoreGone(syscall.Rmdir(dir)))
	}
	return err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// Sweep removes the control groups of labs that are gone, as they are after Close, or when they were
// killed and lab.New has swept their files.
func Sweep() {
	for _, root := range groupDirs("/" + ownGroups) {
		entries, err := os.ReadDir(root)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if entry.IsDir() && !exists(filepath.Join(filepath.Dir(lab.Dir("")), entry.Name())) {
				_ = removeGroup(filepath.Join(root, entry.Name())) // the next sweep finds it again
			}
		}
		_ = syscall.Rmdir(root) // refused while another lab has something in it
	}
}
