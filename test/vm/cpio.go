package vm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// archive writes files in the format that the kernel unpacks as its first root: "newc", see
// Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
type archive struct {
	out     *bufio.Writer
	inode   int
	written map[string]bool // paths
	err     error           // the first
}

func newArchive(w io.Writer) *archive {
	return &archive{out: bufio.NewWriterSize(w, 1<<20), written: make(map[string]bool)}
}

const (
	typeFile = 0o100000
	typeDir  = 0o040000
	typeLink = 0o120000
)

// entry writes one, after the directories that it is in.
func (a *archive) entry(name string, mode int, data []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if a.err != nil || a.written[name] {
		return
	}
	a.written[name] = true
	if dir := path.Dir(name); dir != "." {
		a.entry(dir, typeDir|0o755, nil)
	}
	a.write(name, mode, data)
}

func (a *archive) write(name string, mode int, data []byte) {
	a.inode++
	links := 1
	// magic, inode, mode, user, group, links, time, size, four device numbers, length of the name, no checksum
	_, err := fmt.Fprintf(a.out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.note(err)
	a.pad(110 + len(name) + 1)
	_, err = a.out.Write(data)
	a.note(err)
	a.pad(len(data))
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad(n int) {
	_, err := a.out.WriteString("\x00\x00\x00"[:(4-n%4)%4])
	a.note(err)
}

func (a *archive) note(err error) {
	if a.err == nil {
		a.err = err
	}
}

// text adds a file of a text.
func (a *archive) text(name string, mode fs.FileMode, text string) {
	a.entry(name, typeFile|int(mode), []byte(text))
}

// link adds a symbolic link.
func (a *archive) link(name, target string) { a.entry(name, typeLink|0o777, []byte(target)) }

// file adds a copy of a file of this machine.
func (a *archive) file(name, source string) {
	info, err := os.Stat(source)
	if err != nil {
		a.note(err)
		return
	}
	data, err := os.ReadFile(source)
	a.note(err)
	a.entry(name, typeFile|int(info.Mode().Perm()), data)
}

// close ends the archive, and returns the first error of all.
func (a *archive) close() error {
	a.write("TRAILER!!!", 0, nil)
	a.note(a.out.Flush())
	return a.err
}
