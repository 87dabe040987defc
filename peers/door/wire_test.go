package door

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/meshd/meshd/catalog"
)

func always() error { return nil }

func TestRecordsRoundTrip(t *testing.T) {
	var records []catalog.Record
	for i := range 3000 {
		records = append(records, catalog.Record{
			Kind: catalog.KindDocument, Body: bytes.Repeat([]byte{byte(i)}, 1000),
			Author: bytes.Repeat([]byte{1}, 32), Signature: bytes.Repeat([]byte{2}, 64),
		})
	}
	records[7].Body = make([]byte, catalog.MaxDocument) // one of the largest
	for _, want := range [][]catalog.Record{nil, records[:1], records} {
		var stream bytes.Buffer
		if err := sendRecords(&stream, want, always); err != nil {
			t.Fatal(err)
		}
		got, err := receiveRecords(&stream, always)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, got) {
			t.Fatalf("%d records came back as %d other ones", len(want), len(got))
		}
	}
}

func TestCatalogLimit(t *testing.T) {
	one := catalog.Record{Kind: catalog.KindDocument, Body: make([]byte, catalog.MaxDocument)}
	records := make([]catalog.Record, 60) // 84 MB in base64
	for i := range records {
		records[i] = one
	}
	if err := sendRecords(io.Discard, records, always); !errors.Is(err, errTooLarge) {
		t.Errorf("sending too much: %v", err)
	}
	line, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(line))), line...)
	if _, err := receiveRecords(&endless{data: frame}, always); !errors.Is(err, errTooLarge) {
		t.Errorf("receiving without end: %v", err)
	}
}

// endless repeats data for ever.
type endless struct {
	data []byte
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.at:])
	e.at = (e.at + n) % len(e.data)
	return n, nil
}

// A length that somebody promises costs no memory.
func TestPromisedLength(t *testing.T) {
	promise := binary.BigEndian.AppendUint32(nil, maxWelcome)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, err := readRaw(bytes.NewReader(promise), maxWelcome); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 100*16<<10 {
		t.Errorf("100 promises of 4 MiB cost %d bytes", used)
	}
}

func TestSplitAddress(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":         "192.0.2.7:7946",
		"192.0.2.7:80":      "192.0.2.7:80",
		"2001:db8::7":       "[2001:db8::7]:7946",
		"[2001:db8::7]":     "[2001:db8::7]:7946",
		"[2001:db8::7]:80":  "[2001:db8::7]:80",
		"fe80::1%eth0":      "[fe80::1%eth0]:7946",
		"db1.example.org":   "db1.example.org:7946",
		"db1.example.org:1": "db1.example.org:1",
		"":                  "", ":7946": "", "x:": "", "x:0": "", "x:65536": "", "x:http": "", "[x": "", "x]:1": "",
		"[2001:db8::7": "", "2001:db8::7]": "", "http://x/": "", "a b": "", "user@x": "", "1:2:3": "",
	} {
		got, err := splitAddress(address)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("splitAddress(%q) = %q, %v; want %q", address, got, err, want)
		}
	}
}

func TestListenSaysWhoHasThePort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, err = Listen(context.Background(), taken.Addr().String())
	want := fmt.Sprintf("process %d (door.test)", os.Getpid())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "join.listen") {
		t.Errorf("error %v does not name %s and join.listen", err, want)
	}
	if _, err := Listen(context.Background(), "localhost:x"); err == nil || !strings.Contains(err.Error(), "join.listen") {
		t.Errorf("a malformed address: %v", err)
	}
}

// Every way in which a connection fails is told with what to look at.
func TestStageTexts(t *testing.T) {
	timeout := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	for _, test := range []struct {
		stage stage
		err   error
		want  string
	}{
		{stageDial, syscall.ECONNREFUSED, "is `meshd agent` running there"},
		{stageDial, timeout, "firewall"},
		{stageDial, syscall.EHOSTUNREACH, "routes"},
		{stageDial, &net.DNSError{IsNotFound: true}, "no such host name"},
		{stageDial, &net.DNSError{Err: "server misbehaving"}, "server misbehaving"},
		{stageTLS, timeout, "says nothing"},
		{stageTLS, io.EOF, "too many hosts"},
		{stageTLS, errNotADoor, "not meshd"},
		{stageTalk, timeout, "stopped answering"},
		{stageTalk, syscall.ECONNRESET, "before it had answered"},
		{stageTalk, errMalformed, "not meshd"},
	} {
		err := &stageError{test.stage, test.err}
		if !strings.Contains(err.Error(), test.want) || !errors.Is(err, test.err) {
			t.Errorf("stage %d, %v: %q does not say %q", test.stage, test.err, err, test.want)
		}
	}
}

func TestForeignTextIsPlain(t *testing.T) {
	err := &Error{Code: "x\x1b[31m", Detail: "a\nb\x00" + strings.Repeat("long", 1000)}
	if text := err.Error(); strings.ContainsAny(text, "\x1b\n\x00") || len(text) > 400 {
		t.Errorf("the text is %q", text)
	}
}

func FuzzOpenRequest(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	binding := make([]byte, bindingSize)
	valid, err := json.Marshal(Request{Node: key.Public().(ed25519.PublicKey)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		signed := signedRequest{Request: body, Proof: ed25519.Sign(key, proofMessage(binding, body))}
		_, err := openRequest(signed, binding, "x")
		var refused *Error
		if !errors.As(err, &refused) {
			t.Fatalf("error %v is no refusal", err)
		}
	})
}

func FuzzReceiveRecords(f *testing.F) {
	var stream bytes.Buffer
	if err := sendRecords(&stream, []catalog.Record{{Kind: catalog.KindToken, Body: []byte("{}")}}, always); err != nil {
		f.Fatal(err)
	}
	f.Add(stream.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = receiveRecords(bytes.NewReader(data), always) // it must come back
	})
}

// FuzzGreeting is a door that says whatever it likes of whose it is.
func FuzzGreeting(f *testing.F) {
	mesh := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	host := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
	id := catalog.MeshIDOf(mesh.Public().(ed25519.PublicKey))
	signer, err := catalog.Sign(mesh, catalog.KindSigner, catalog.Signer{Mesh: id, Key: host.Public().(ed25519.PublicKey)})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(welcome{Version: 1, Chain: []catalog.Record{signer, signer}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"chain":[{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var framed bytes.Buffer
		if err := writeRaw(&framed, body, maxWelcome); err != nil {
			return
		}
		var greeting welcome
		if err := readFrame(&framed, &greeting, maxWelcome); err != nil {
			return
		}
		if err := verifyMember(id, host.Public().(ed25519.PublicKey), greeting.Chain, 1); err == nil {
			t.Fatal("a host without a certificate is taken for a member")
		}
	})
}
