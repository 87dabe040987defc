package syncer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
)

// A frame is a length, 4 bytes, big-endian, and that many bytes of JSON. Unknown
// types and fields are ignored, so that newer members can say more. Each frame says which
// protocol its sender speaks; one that cannot be answered is refused in words.
const (
	protocol   = 2         // 2: comparing by ranges
	maxFrame   = 16 << 20  // bytes
	maxRecords = 16384     // in one frame: parsed, an empty one takes 30 times its bytes
	batchBytes = 512 << 10 // of record bodies that we put into one frame
	batchCount = 1000
	rangeCount = 256              // ranges in one frame
	readLimit  = 30 * time.Second // for a frame that has begun
)

type frameType string

const (
	typePush    frameType = "push"    // records
	typeCompare frameType = "compare" // digest → same, or a summary of everything; or ranges → summaries
	typeSame    frameType = "same"
	typeSummary frameType = "summary"
	typeWant    frameType = "want"    // ranges and a vector of them → pushes, and then done
	typeDone    frameType = "done"    // all that was wanted has been sent; ids is what the peer wants in return
	typeConfirm frameType = "confirm" // version of the sender's document → ack, once it has been applied
	typeAck     frameType = "ack"
	typePrune   frameType = "prune" // only name what you pass on
	typeHave    frameType = "have"  // vector of records that the sender has
	typeGraft   frameType = "graft" // ids → push, and pass on in full again
)

type frame struct {
	Type      frameType                `json:"type"`
	Protocol  int                      `json:"protocol,omitempty"`
	ID        uint64                   `json:"id,omitempty"` // of a request, and of its answer
	Records   recordList               `json:"records,omitempty"`
	Relayed   bool                     `json:"relayed,omitempty"` // nobody asked for the records: they may have come by another link
	Digest    []byte                   `json:"digest,omitempty"`
	Ranges    []catalog.Prefix         `json:"ranges,omitempty"`
	Summaries []catalog.Summary        `json:"summaries,omitempty"`
	Vector    catalog.Vector           `json:"vector,omitempty"`
	IDs       []catalog.RecordID       `json:"ids,omitempty"`
	Version   *catalog.DocumentVersion `json:"version,omitempty"`
	Ack       *claims.Ack              `json:"ack,omitempty"`
	Lacking   bool                     `json:"lacking,omitempty"` // the document to confirm is not here yet
	Error     string                   `json:"error,omitempty"`
}

// recordList bounds what a frame can make of itself.
type recordList []catalog.Record

var errTooManyRecords = fmt.Errorf("more than %d records in a frame", maxRecords)

// UnmarshalJSON reads at most maxRecords records.
func (l *recordList) UnmarshalJSON(b []byte) error {
	*l = nil
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return errors.New("records are no list")
	}
	for d.More() {
		if len(*l) == maxRecords {
			return errTooManyRecords
		}
		var r catalog.Record
		if err := d.Decode(&r); err != nil {
			return err
		}
		*l = append(*l, r)
	}
	return nil
}

// batches cuts records into frames of moderate size, revocations first, the rest in the
// order given.
func batches(records []catalog.Record) []recordList {
	sorted := slices.Clone(records)
	slices.SortStableFunc(sorted, func(a, b catalog.Record) int { return cmp.Compare(urgency(a), urgency(b)) })
	var list []recordList
	var batch recordList
	size := 0
	for _, r := range sorted {
		if len(batch) > 0 && (size+len(r.Body) > batchBytes || len(batch) == batchCount) {
			list = append(list, batch)
			batch, size = nil, 0
		}
		batch = append(batch, r)
		size += len(r.Body)
	}
	if len(batch) > 0 {
		list = append(list, batch)
	}
	return list
}

func urgency(r catalog.Record) int {
	if r.Kind == catalog.KindRevocation {
		return 0
	}
	return 1
}

func encode(f *frame) ([]byte, error) {
	f.Protocol = protocol
	body, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encoding a %s frame: %w", f.Type, err)
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("a %s frame of %d bytes is too large, the limit is %d", f.Type, len(body), maxFrame)
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...), nil
}

// readFrame waits for a frame for as long as it takes, but once one has begun it has
// to come. Its memory grows with what has really arrived.
func readFrame(conn net.Conn) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size == 0 || size > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes, the limit is %d", size, maxFrame)
	}
	if err := conn.SetReadDeadline(time.Now().Add(readLimit)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(conn, int64(size)))
	if err != nil {
		return nil, err
	}
	if len(body) != int(size) {
		return nil, io.ErrUnexpectedEOF
	}
	return body, conn.SetReadDeadline(time.Time{})
}

// decode parses a frame.
func decode(body []byte) (*frame, error) {
	var f frame
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, fmt.Errorf("parsing a frame: %w", err)
	}
	return &f, nil
}
