package dns

import (
	"encoding/binary"
	"io"
)

func sendDatagram(w io.Writer, msg []byte) error {
	_, err := w.Write(msg)
	return err
}

func receiveDatagram(r io.Reader) ([]byte, error) {
	buf := make([]byte, 4096)
	n, err := r.Read(buf)
	return buf[:n], err
}

// writeMessage and readMessage put a length before each message (RFC 1035, 4.2.2).
func writeMessage(w io.Writer, msg []byte) error {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	_, err := w.Write(append(framed, msg...)) // in one piece: one segment
	return err
}

func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// answers says whether msg is an answer to query: same id, same question.
func answers(msg, query []byte) bool {
	end := questionEnd(query)
	return len(msg) >= end && msg[0] == query[0] && msg[1] == query[1] &&
		msg[2]&0xf8 == 0x80 && // an answer, to a standard query
		binary.BigEndian.Uint16(msg[4:]) == 1 &&
		sameName(msg[headerSize:end-4], query[headerSize:end-4]) &&
		string(msg[end-4:end]) == string(query[end-4:end])
}

// questionEnd is where the question of a query that we encoded ends.
func questionEnd(query []byte) int {
	end := headerSize
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	return end + 1 + 4
}

func truncated(msg []byte) bool { return msg[2]&0x02 != 0 }

// refusal says whether msg is the bare header that some servers send when they
// want nothing of a client.
func refusal(msg, query []byte) (rcode int, ok bool) {
	ok = len(msg) >= headerSize && msg[0] == query[0] && msg[1] == query[1] &&
		msg[2]&0xf8 == 0x80 && binary.BigEndian.Uint16(msg[4:]) == 0 && msg[3]&0xf != 0
	if !ok {
		return 0, false
	}
	return int(msg[3] & 0xf), true
}

// sameName compares encoded names, in which letters of ASCII have no case.
func sameName(a, b []byte) bool {
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
