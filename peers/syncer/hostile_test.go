package syncer

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
)

// stream is a connection on which bytes come in, and then no more.
type stream struct {
	net.Conn
	bytes.Reader
}

func (s *stream) Read(b []byte) (int, error)      { return s.Reader.Read(b) }
func (s *stream) SetReadDeadline(time.Time) error { return nil }

// FuzzFrames is a peer that sends whatever it likes.
func FuzzFrames(f *testing.F) {
	for _, frame := range []*frame{
		{Type: typeCompare, ID: 1, Digest: []byte("digest")},
		{Type: typePush, Records: recordList{{Kind: catalog.KindDocument, Body: []byte("{}")}}},
		{Type: typeConfirm, ID: 1<<64 - 1, Version: &catalog.DocumentVersion{Epoch: 1, Sequence: 1}},
	} {
		body, err := encode(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add(binary.BigEndian.AppendUint32(nil, maxFrame+1))
	f.Add([]byte("\x00\x00\x00\x0e{\"records\":1} "))
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := &stream{}
		conn.Reset(data)
		for {
			body, err := readFrame(conn)
			if err != nil {
				return
			}
			got, err := decode(body)
			if err != nil {
				continue
			}
			again, err := encode(got)
			if err != nil {
				t.Fatalf("a frame that was read cannot be sent: %v", err)
			}
			if _, err := decode(again[4:]); err != nil {
				t.Fatalf("a frame that was sent cannot be read: %v", err)
			}
		}
	})
}
