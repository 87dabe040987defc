package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// RecordID names what a record is about. Documents, networks and services' settings are registers: of two
// records with one id the higher Version stands. All others are a set that only
// grows: their id holds the hash of what they say, and their Version is zero.
type RecordID string

func documentID(node NodeID) RecordID { return RecordID(string(KindDocument) + "/" + string(node)) }

// identify returns a record's id and version. Body is r's, decoded.
func identify(r Record, body any) (RecordID, Version) {
	sum := sha256.Sum256(r.Body)
	switch b := body.(type) {
	case Document:
		return documentID(NodeIDOf(r.Author)), documentVersion(b, r.Body).version()
	case NetworkRecord:
		return RecordID(string(KindNetwork) + "/" + b.Name), b.version(r)
	case ServiceRecord:
		return RecordID(string(KindService) + "/" + b.Network + "/" + b.Service), b.version(r)
	}
	return RecordID(string(r.Kind) + "/" + idOf(append(r.Author[:len(r.Author):len(r.Author)], sum[:]...))), Version{}
}

// version is that of the record which holds the register.
func (g Register) version(r Record) Version {
	sum := sha256.Sum256(r.Body)
	return Version{g.Revision, uint64(g.Stamp), string(NodeIDOf(r.Author)) + hex.EncodeToString(sum[:8])}
}

// Version orders the records of one id: by Hi, Lo, Tie.
type Version struct {
	Hi, Lo uint64 // epoch and sequence, or revision and stamp
	Tie    string // lower-case letters and digits
}

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	if v.Hi != w.Hi {
		return v.Hi < w.Hi
	}
	if v.Lo != w.Lo {
		return v.Lo < w.Lo
	}
	return v.Tie < w.Tie
}

// String is the text form: HI.LO.TIE, or nothing for the zero Version.
func (v Version) String() string {
	if v == (Version{}) {
		return ""
	}
	return strconv.FormatUint(v.Hi, 10) + "." + strconv.FormatUint(v.Lo, 10) + "." + v.Tie
}

// MarshalText returns the text form.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the text form.
func (v *Version) UnmarshalText(text []byte) error {
	*v = Version{}
	if len(text) == 0 {
		return nil
	}
	parts := strings.Split(string(text), ".")
	if len(parts) != 3 || len(parts[2]) > 64 {
		return fmt.Errorf("version %.80q is not HI.LO.TIE", text)
	}
	hi, err1 := strconv.ParseUint(parts[0], 10, 64)
	lo, err2 := strconv.ParseUint(parts[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("version %.80q is not HI.LO.TIE", text)
	}
	*v = Version{hi, lo, parts[2]}
	return nil
}

// Vector says which records somebody holds, and how new each is. It is small beside
// the records: about 60 bytes each in JSON.
type Vector map[RecordID]Version

// Digest stands for everything a catalog holds: equal digests mean equal records.
type Digest [sha256.Size]byte

// String returns the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText returns the digest in hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a digest in hex.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(d) {
		return fmt.Errorf("digest %.80q is not %d bytes in hex", text, len(d))
	}
	copy(d[:], b)
	return nil
}

// toggle adds a record to the digest, or takes it out: the digest is the exclusive
// or of the marks of all, so that a change costs the same however many there are.
func (d *Digest) toggle(mark Digest) {
	for i := range d {
		d[i] ^= mark[i]
	}
}

func documentVersion(d Document, body []byte) DocumentVersion {
	sum := sha256.Sum256(body)
	return DocumentVersion{Epoch: d.Epoch, Sequence: d.Sequence, Hash: hex.EncodeToString(sum[:])}
}

func (v DocumentVersion) version() Version { return Version{v.Epoch, v.Sequence, v.Hash} }

// Less says whether v is older than w.
func (v DocumentVersion) Less(w DocumentVersion) bool { return v.version().Less(w.version()) }

// IDOf returns what a record is about, and its version among the records of that id. The
// error wraps ErrMalformed. Whether the record may be believed is not looked at.
func IDOf(r Record) (RecordID, Version, error) {
	body, err := r.open()
	if err != nil {
		return "", Version{}, err
	}
	id, version := identify(r, body)
	return id, version, nil
}

// VersionOf returns the version of a document record.
func VersionOf(r Record) (DocumentVersion, error) {
	d, err := Decode[Document](r)
	if err != nil {
		return DocumentVersion{}, err
	}
	return documentVersion(d, r.Body), nil
}
