package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The stored form: a line that names format and version, the mesh id, the number of
// records, each record as four length-prefixed fields and a checksum of its own, and a
// checksum of all. Lengths are 32-bit, big-endian. The checksums only tell of damage;
// whom to believe is decided by signatures, again, on reading.
const (
	codecMagic = "meshd catalog 1\n"
	checkBytes = 8
)

// ErrCorrupt is a stored catalog that is damaged, cut off, or something else.
var ErrCorrupt = errors.New("the stored catalog is damaged")

// Marshal returns the stored form of all that the catalog holds but strays.
func (c *Catalog) Marshal() []byte {
	out := []byte(codecMagic)
	out = appendField(out, []byte(c.mesh))
	records := c.Records()
	out = binary.BigEndian.AppendUint32(out, uint32(len(records)))
	for _, r := range records {
		out = appendRecord(out, r)
	}
	return appendCheck(out, out)
}

func appendRecord(out []byte, r Record) []byte {
	start := len(out)
	for _, field := range [][]byte{[]byte(r.Kind), r.Body, r.Author, r.Signature} {
		out = appendField(out, field)
	}
	return appendCheck(out, out[start:])
}

func appendField(out, field []byte) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(field)))
	return append(out, field...)
}

func appendCheck(out, of []byte) []byte {
	sum := sha256.Sum256(of)
	return append(out, sum[:checkBytes]...)
}

// Unmarshal reads what Marshal wrote. Signatures are checked again; times are not, so that
// a host whose clock went back still believes what it did. The error wraps ErrCorrupt
// and says which record is damaged, counting from 1; nothing is read in part.
func Unmarshal(data []byte) (*Catalog, error) {
	mesh, records, err := parse(data)
	if err != nil {
		return nil, err
	}
	c := New(mesh)
	for i, r := range records {
		if _, rejected := c.Merge(endOfTime, r); len(rejected) > 0 {
			return nil, fmt.Errorf("%w: record %d of %d: %w", ErrCorrupt, i+1, len(records), rejected[0])
		}
	}
	return c, nil
}

// endOfTime is so late that nothing lies in its future.
var endOfTime = Millis(math.MaxInt64).Add(-MaxSkew)

func parse(data []byte) (MeshID, []Record, error) {
	rest, ok := bytes.CutPrefix(data, []byte(codecMagic))
	if !ok {
		return "", nil, fmt.Errorf("%w: it does not begin with %q; another version of meshd may have written it", ErrCorrupt, codecMagic)
	}
	r := reader{rest: rest}
	mesh := MeshID(r.field(idChars))
	count := r.number()
	var records []Record
	for i := uint32(0); i < count && !r.bad; i++ {
		rec, ok := r.record()
		if !ok {
			return "", nil, fmt.Errorf("%w: record %d of %d is cut off or changed", ErrCorrupt, i+1, count)
		}
		records = append(records, rec)
	}
	if !r.check(data) || len(r.rest) > 0 || !mesh.Valid() {
		return "", nil, fmt.Errorf("%w: its records are whole, but its start or end is cut off or changed", ErrCorrupt)
	}
	return mesh, records, nil
}

// reader takes apart the stored form. Once something is wrong all that follows is
// empty; no length that is read makes it allocate.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) number() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// field returns a copy, so that a record does not keep the whole file in memory.
func (r *reader) field(limit int) []byte {
	n := r.number()
	if n > uint32(limit) {
		r.bad = true
		return nil
	}
	return bytes.Clone(r.take(int(n)))
}

// record returns false if a record is cut off or changed.
func (r *reader) record() (Record, bool) {
	before := r.rest
	rec := Record{Kind: Kind(r.field(32)), Body: r.field(MaxDocument), Author: r.field(64), Signature: r.field(64)}
	return rec, r.check(before)
}

// check compares the checksum that comes next with that of what was read since before.
func (r *reader) check(before []byte) bool {
	sum := sha256.Sum256(before[:len(before)-len(r.rest)])
	got := r.take(checkBytes)
	return !r.bad && bytes.Equal(got, sum[:checkBytes])
}
