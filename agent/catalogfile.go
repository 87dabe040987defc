package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/atomicfile"
)

// A catalogFile is the catalog on disk: a whole one, and beside it what has changed since. So a change costs the disk what it
// says, and not what there is; when the changes have become as large as the whole, that is written anew. A process that starts
// begins with that too. Its methods may be called by one goroutine at a time.
type catalogFile struct {
	path string

	whole   int // bytes of the catalog that was written last; 0: none was, or it is not known what is there
	changes int // bytes of the changes since
}

// fewChanges is how many bytes of changes are never too many: they are read in a fraction of a second.
const fewChanges = 256 << 10

func catalogPath(stateDir string) string { return filepath.Join(stateDir, "catalog") }

// previousPath is where the catalog is kept that was replaced last. Without any, a host would know nobody to get it back from.
func previousPath(path string) string { return path + ".previous" }

// changesPath is where the changes are kept.
func changesPath(path string) string { return path + ".changes" }

// WantsWhole says whether the next write has to be that of a whole catalog.
func (f *catalogFile) WantsWhole() bool { return f.whole == 0 || f.changes > max(fewChanges, f.whole) }

// Replace writes a catalog whole and atomically, and keeps the one before it.
func (f *catalogFile) Replace(mesh catalog.MeshID, whole []byte) error {
	*f = catalogFile{path: f.path}
	if err := keepPrevious(f.path); err != nil {
		return err
	}
	if err := atomicfile.Write(f.path, whole, 0o600); err != nil {
		return err
	}
	// Until this is done the old changes are there too, which does no harm.
	if err := atomicfile.Write(changesPath(f.path), catalog.ChangesHead(mesh), 0o600); err != nil {
		return err
	}
	f.whole = len(whole)
	return nil
}

// Append writes what has changed since the last write. After an error it is not known how much of it is there.
func (f *catalogFile) Append(fresh []catalog.Record) (err error) {
	defer func() {
		if err != nil {
			f.whole = 0
		}
	}()
	data := catalog.AppendChanges(nil, fresh...)
	file, err := os.OpenFile(changesPath(f.path), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", changesPath(f.path), err)
	}
	f.changes += len(data)
	return nil
}

// keepPrevious keeps the file that is about to be replaced.
func keepPrevious(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil // what is kept already is all there is
	}
	if err := os.Remove(previousPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(path, previousPath(path))
}

// readCatalog reads the catalog at path, or the one before it. It returns fs.ErrNotExist if there is none.
func readCatalog(path string, log *slog.Logger) (*catalog.Catalog, error) {
	c, err := readWhole(path)
	if errors.Is(err, fs.ErrNotExist) {
		if c, err = readWhole(previousPath(path)); err == nil {
			log.Warn("the catalog is missing: going on from the one before it; the rest comes back from the other hosts", "file", path)
		}
	}
	if err != nil {
		return nil, err
	}
	path = changesPath(path)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the catalog: %w: %s", err, changesAdvice)
	}
	lost, err := c.Replay(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): %s", path, err, changesAdvice)
	}
	if lost > 0 {
		log.Warn("the last write to disk was cut short: going on from what was written before it", "file", path, "bytes", lost)
	}
	return c, nil
}

const (
	catalogAdvice = "move it away and start the agent again; meshd goes on from the one before it"
	changesAdvice = "move it away and start the agent again; what it held comes back from the other hosts"
)

func readWhole(path string) (*catalog.Catalog, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("reading the catalog: %w: %s", err, catalogAdvice)
	}
	c, err := catalog.Unmarshal(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): %s", path, err, catalogAdvice)
	}
	return c, nil
}
