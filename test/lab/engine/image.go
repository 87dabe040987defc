package engine

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// Image is a container image made of files of this machine: nothing is downloaded.
type Image struct {
	Name string
	// Files maps paths in the image to files of this machine.
	Files map[string]string
	// Programs are programs of this machine, by name or path. They are put in the same
	// place, with the libraries that they are linked with.
	Programs []string
	// Links maps paths in the image to what they are symbolic links to.
	Links map[string]string
	// Dirs are empty directories that everybody may write to.
	Dirs []string
	// Config is instructions of a Dockerfile: CMD, ENTRYPOINT, HEALTHCHECK, STOPSIGNAL, EXPOSE.
	Config []string
}

// Load makes the image on an engine.
func (e *Engine) Load(ctx context.Context, image Image) error {
	args := []string{"import"}
	for _, c := range image.Config {
		args = append(args, "--change", c)
	}
	cmd := e.Host.Command(ctx, client(), append(args, "-", image.Name)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	written := image.write(stdin)
	if err := errors.Join(written, stdin.Close(), cmd.Wait()); err != nil {
		return fmt.Errorf("making image %s on %s: %w: %s", image.Name, e.Host.Name, err, stderr.String())
	}
	return nil
}

// write writes the image's files as a tar archive.
func (image Image) write(out io.Writer) error {
	files, err := image.all()
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	for _, dir := range append([]string{"/tmp"}, image.Dirs...) {
		header := &tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o1777}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
	}
	for name, target := range image.Links {
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: name[1:], Linkname: target, Mode: 0o777}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
	}
	for name, source := range files {
		if err := writeFile(archive, name, source); err != nil {
			return err
		}
	}
	return archive.Close()
}

func writeFile(archive *tar.Writer, name, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Size: info.Size(), Mode: int64(info.Mode().Perm())}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}

// all is the image's files, those of its programs too.
func (image Image) all() (map[string]string, error) {
	files := make(map[string]string)
	for name, source := range image.Files {
		files[name] = source
	}
	for _, program := range image.Programs {
		found, err := exec.LookPath(program)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w: run: make deps", image.Name, err)
		}
		files[found] = found
		needs, err := libraries(found)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image.Name, err)
		}
		for _, library := range needs {
			files[library] = library
		}
	}
	return files, nil
}

// libraries is the loader and the shared libraries that a program needs, at the paths where its loader
// finds them. A static program has none.
func libraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", program, err)
	}
	needed, err := file.ImportedLibraries()
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", program, err)
	}
	if len(needed) == 0 {
		return nil, nil
	}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	var found []string
	for line := range strings.SplitSeq(string(out), "\n") {
		// "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"
		fields := strings.Fields(line)
		i := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "/") })
		if i >= 0 {
			found = append(found, path.Clean(fields[i]))
		}
	}
	return found, nil
}

// Peer is the image of the tests: busybox, and labpeer at the path given, which serves as "peer"
// on port 80 where no other command is given.
func Peer(labpeer string) (Image, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return Image{}, fmt.Errorf("%w: run: make deps", err)
	}
	image := Image{
		Name:     "peer",
		Files:    map[string]string{"/labpeer": labpeer},
		Programs: []string{busybox},
		Links:    make(map[string]string),
		Config:   []string{`CMD ["/labpeer", "web", "peer", "80"]`},
	}
	for _, applet := range []string{"sh", "sleep", "cat", "ip", "nslookup", "ping", "kill", "touch", "rm", "env", "hostname", "date"} {
		image.Links["/bin/"+applet] = busybox
	}
	return image, nil
}
