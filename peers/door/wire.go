package door

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/meshd/meshd/catalog"
)

// DefaultPort is the door's TCP port where none is given.
const DefaultPort = 7946

const (
	protocolVersion = 1
	// alpn (RFC 7301) tells a door from any other TLS server.
	alpn = "meshd-join/1"
	// exporterLabel names the value of the TLS session that requests are bound to.
	exporterLabel = "EXPORTER-meshd-join-v1"
	bindingSize   = 32
)

// Limits of frames, in bytes.
const (
	maxHello   = 1 << 10
	maxWelcome = 4 << 20
	maxRequest = 64 << 10
	maxAnswer  = 64 << 10
	maxRecords = 2 << 20  // one frame of records: a record of the largest kind fits
	maxCatalog = 64 << 20 // all of them together
	fillFrame  = 64 << 10 // a frame of records is sent when it is larger than that
)

var errTooLarge = errors.New("it is larger than it may be")

// hello is the client's first frame. It must never change: it tells the versions.
type hello struct {
	Version int            `json:"version"`
	Mesh    catalog.MeshID `json:"mesh"`
	Pair    []byte         `json:"pair,omitempty"` // instead of a mesh: the commitment of one without a token
}

type welcome struct {
	Code    Code             `json:"code,omitempty"` // empty: go on
	Version int              `json:"version"`
	Time    catalog.Millis   `json:"time"`
	Chain   []catalog.Record `json:"chain,omitempty"`
}

// signedRequest holds the very bytes of the Request that Proof is over.
type signedRequest struct {
	Request []byte `json:"request"`
	Proof   []byte `json:"proof"`
}

type answer struct {
	Code        Code           `json:"code,omitempty"` // empty: let in, and records follow
	Detail      string         `json:"detail,omitempty"`
	Time        catalog.Millis `json:"time"`
	Certificate catalog.Record `json:"certificate"`
	Observed    netip.AddrPort `json:"observed"`
}

// Request is what a host sends that wants to join.
type Request struct {
	Node     ed25519.PublicKey `json:"node"`     // its identity key
	Token    catalog.Record    `json:"token"`    // KindToken
	Invite   []byte            `json:"invite"`   // by the token's key over catalog.InviteMessage
	Document catalog.Record    `json:"document"` // KindDocument: the node's first
}

// Response is what a host gets that was let in.
type Response struct {
	Certificate catalog.Record   // the joiner's
	Records     []catalog.Record // the catalog, the certificate among them
	Observed    netip.AddrPort   // where the member saw the joiner; the server sets it
	Sponsor     catalog.NodeID   // the member whose door it was; the client sets it
	Ahead       time.Duration    // of the joiner's clock; 0 if it differs by no more than a minute; the client sets it
}

// proofMessage is what the joiner signs: its request, in this TLS session.
func proofMessage(binding, request []byte) []byte {
	sum := sha256.Sum256(request)
	message := []byte("meshd join request v1\x00")
	message = append(message, binding...)
	return append(message, sum[:]...)
}

// sessionBinding is a value that only the two ends of this TLS session know.
func sessionBinding(conn *tls.Conn) ([]byte, error) {
	state := conn.ConnectionState()
	binding, err := state.ExportKeyingMaterial(exporterLabel, nil, bindingSize)
	if err != nil {
		return nil, fmt.Errorf("binding the request to the session: %w", err)
	}
	return binding, nil
}

// writeFrame sends value as one frame.
func writeFrame(w io.Writer, value any, limit int) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	return writeRaw(w, data, limit)
}

func writeRaw(w io.Writer, data []byte, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("sending a frame of %d bytes: %w", len(data), errTooLarge)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(data)), uint32(len(data)))
	if _, err := w.Write(append(frame, data...)); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// readRaw receives a frame of at most limit bytes. Memory grows with what arrives,
// not with what the length promises.
func readRaw(r io.Reader, limit int) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, fmt.Errorf("receiving: %w", err)
	}
	length := int64(binary.BigEndian.Uint32(header[:]))
	if length > int64(limit) {
		return nil, fmt.Errorf("receiving a frame of %d bytes: %w", length, errTooLarge)
	}
	var data bytes.Buffer
	if _, err := io.CopyN(&data, r, length); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("receiving: %w", err)
	}
	return data.Bytes(), nil
}

// readFrame receives a frame into value. Fields that are not known are passed over,
// so that versions may add some.
func readFrame(r io.Reader, value any, limit int) error {
	data, err := readRaw(r, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return nil
}

var errMalformed = errors.New("malformed frame")

// sendRecords streams records in frames and ends them with an empty one. before is
// called before each frame, to move the deadline.
func sendRecords(w io.Writer, records []catalog.Record, before func() error) error {
	var batch bytes.Buffer
	flush := func() error {
		if err := before(); err != nil {
			return err
		}
		defer batch.Reset()
		return writeRaw(w, batch.Bytes(), maxRecords)
	}
	total := 0
	for _, record := range records {
		line, err := json.Marshal(record)
		if err != nil {
			return fmt.Errorf("encoding a record: %w", err)
		}
		if total += len(line) + 1; total > maxCatalog {
			return fmt.Errorf("sending the catalog: %w: at most %d bytes", errTooLarge, maxCatalog)
		}
		if batch.Len() > 0 && batch.Len()+len(line) > fillFrame {
			if err := flush(); err != nil {
				return err
			}
		}
		batch.Write(line)
		batch.WriteByte('\n')
	}
	if batch.Len() > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	return flush() // empty: the end
}

// receiveRecords is the other end of sendRecords.
func receiveRecords(r io.Reader, before func() error) ([]catalog.Record, error) {
	var records []catalog.Record
	for total := 0; ; {
		if err := before(); err != nil {
			return nil, err
		}
		data, err := readRaw(r, maxRecords)
		if err != nil {
			return nil, err
		}
		if len(data) == 0 {
			return records, nil
		}
		if total += len(data); total > maxCatalog {
			return nil, fmt.Errorf("receiving the catalog: %w: at most %d bytes", errTooLarge, maxCatalog)
		}
		for lines := json.NewDecoder(bytes.NewReader(data)); ; {
			var record catalog.Record
			err := lines.Decode(&record)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errMalformed, err)
			}
			records = append(records, record)
		}
	}
}
