package catalog

import (
	"bytes"
	"fmt"
)

// The stored form of changes, to be kept beside a stored catalog: a line that names format and version, the mesh id, a
// checksum of both; then records, in the order in which they were merged, each as in a stored catalog. Merging one twice does no
// harm, so the two files need not be of one moment.
const changesMagic = "meshd changes 1\n"

// ChangesHead is the stored form of no changes to a catalog of a mesh. What [AppendChanges] returns goes behind it.
func ChangesHead(mesh MeshID) []byte {
	out := appendField([]byte(changesMagic), []byte(mesh))
	return appendCheck(out, out)
}

// AppendChanges appends the stored form of records, in the order in which they were merged.
func AppendChanges(out []byte, recs ...Record) []byte {
	for _, r := range recs {
		out = appendRecord(out, r)
	}
	return out
}

// Replay merges stored changes. Power that goes in a write may leave any part of it, so they end where one is cut off or changed,
// and lost is how many bytes come after that. Each record is believed or refused as if it came from another host, but for its time.
// The error wraps ErrCorrupt if these are no changes, or ErrOtherMesh.
func (c *Catalog) Replay(data []byte) (lost int, err error) {
	rest, ok := bytes.CutPrefix(data, []byte(changesMagic))
	if !ok {
		return 0, fmt.Errorf("%w: it does not begin with %q; another version of meshd may have written it", ErrCorrupt, changesMagic)
	}
	r := reader{rest: rest}
	mesh := MeshID(r.field(idChars))
	switch {
	case !r.check(data):
		return 0, fmt.Errorf("%w: its start is cut off or changed", ErrCorrupt)
	case mesh != c.mesh:
		return 0, fmt.Errorf("changes of mesh %s: %w", mesh, ErrOtherMesh)
	}
	for len(r.rest) > 0 {
		left := len(r.rest)
		rec, ok := r.record()
		if !ok {
			return left, nil
		}
		c.Merge(endOfTime, rec)
	}
	return 0, nil
}
