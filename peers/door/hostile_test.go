package door_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
)

// Clients that are no joiners are turned away, and the door goes on.
func TestHostileClients(t *testing.T) {
	m, hasty := found(t), found(t)
	door.SetRequestTime(hasty.server, 2*time.Second)
	hasty.address = serve(t, hasty.server.Serve)
	length := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	type attack = func(t *testing.T, raw net.Conn)
	blunt := map[string]attack{ // a door that is slow turns them away all the same
		"says nothing":  func(*testing.T, net.Conn) {},
		"speaks HTTP":   func(_ *testing.T, raw net.Conn) { send(raw, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) },
		"sends garbage": func(_ *testing.T, raw net.Conn) { send(raw, []byte(strings.Repeat("\xff\x00\x16", 30000))) },
		"no protocol":   func(t *testing.T, raw net.Conn) { handshake(raw, func(c *tls.Config) { c.NextProtos = nil }) },
		"other protocol": func(t *testing.T, raw net.Conn) {
			handshake(raw, func(c *tls.Config) { c.NextProtos = []string{"h2"} })
		},
		"TLS 1.2": func(t *testing.T, raw net.Conn) {
			handshake(raw, func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 })
		},
		"stops after TLS":  func(t *testing.T, raw net.Conn) { handshake(raw, nil) },
		"huge hello":       func(t *testing.T, raw net.Conn) { send(handshake(raw, nil), length(1<<31)) },
		"hello not JSON":   func(t *testing.T, raw net.Conn) { send(handshake(raw, nil), append(length(3), "{{{"...)) },
		"hello of nothing": func(t *testing.T, raw net.Conn) { send(handshake(raw, nil), length(0)) },
	}
	knowing := map[string]attack{ // they are greeted first
		"half a request": func(t *testing.T, raw net.Conn) { send(greeted(t, m, raw), append(length(60<<10), "{"...)) },
		"huge request": func(t *testing.T, raw net.Conn) {
			send(greeted(t, m, raw), append(length(1<<30), strings.Repeat("x", 1<<20)...))
		},
		"deep request": func(t *testing.T, raw net.Conn) {
			send(greeted(t, m, raw), append(length(60000), strings.Repeat("[", 60000)...))
		},
		"empty request": func(t *testing.T, raw net.Conn) {
			_ = door.WriteFrame(greeted(t, m, raw), door.SignedRequest{Request: []byte("{}")}, door.MaxRequest)
		},
	}
	t.Run("all", func(t *testing.T) {
		for at, attacks := range map[*member]map[string]attack{hasty: blunt, m: knowing} {
			for name, attack := range attacks {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					raw, err := net.Dial("tcp", at.address)
					must(t, err)
					defer func() { _ = raw.Close() }()
					must(t, raw.SetDeadline(time.Now().Add(time.Minute)))
					attack(t, raw)
					// The door ends it, by a close or a reset, though we keep it open.
					if _, err := io.Copy(io.Discard, raw); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("the door keeps the connection")
					}
				})
			}
		}
	})
	for _, at := range []*member{hasty, m} {
		until(t, "the door is empty", func() bool { return door.Conns(at.server) == 0 })
		if at.admissions() != 0 {
			t.Error("somebody was let in")
		}
	}
	_, err := join(t, request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), m.address))
	must(t, err)
}

func send(w io.Writer, data []byte) { _, _ = w.Write(data) } // the door may have closed already

func handshake(raw net.Conn, change func(*tls.Config)) *tls.Conn {
	config := door.ClientTLS()
	if change != nil {
		change(config)
	}
	conn := tls.Client(raw, config)
	_ = conn.Handshake() // a test looks at what the door does
	return conn
}

// greeted goes as far as anybody comes who knows the mesh's id.
func greeted(t *testing.T, m *member, raw net.Conn) *tls.Conn {
	t.Helper()
	conn := handshake(raw, nil)
	must(t, door.WriteFrame(conn, door.Hello{Version: 1, Mesh: m.catalog.Mesh()}, 1<<10))
	var greeting door.Welcome
	must(t, door.ReadFrame(conn, &greeting, 1<<20))
	if greeting.Code != "" || len(greeting.Chain) == 0 {
		t.Fatalf("the door said %q", greeting.Code)
	}
	return conn
}

// Whoever does not know the mesh's id, or speaks another version, learns nothing.
func TestStrangersLearnNothing(t *testing.T) {
	m := found(t)
	for _, first := range []door.Hello{{Version: 1}, {Version: 1, Mesh: "x"}, {Version: 2, Mesh: m.catalog.Mesh()}} {
		raw, err := net.Dial("tcp", m.address)
		must(t, err)
		defer func() { _ = raw.Close() }()
		conn := handshake(raw, nil)
		must(t, door.WriteFrame(conn, first, 1<<10))
		var greeting door.Welcome
		must(t, door.ReadFrame(conn, &greeting, 1<<20))
		if greeting.Code == "" || len(greeting.Chain) != 0 {
			t.Errorf("to %+v the door answered %+v", first, greeting)
		}
	}
}

// One source cannot take all places, and what it leaves is free again.
func TestPlacesOfOneSource(t *testing.T) {
	m := found(t)
	door.SetRequestTime(m.server, time.Hour) // guests who say nothing stay
	m.address = serve(t, m.server.Serve)
	var guests []net.Conn
	for range door.MaxConnsPerIP {
		conn, err := net.Dial("tcp", m.address)
		must(t, err)
		defer func() { _ = conn.Close() }()
		guests = append(guests, conn)
	}
	until(t, "all places are taken", func() bool { return door.Conns(m.server) == len(guests) })
	one, err := net.Dial("tcp", m.address)
	must(t, err)
	defer func() { _ = one.Close() }()
	must(t, one.SetDeadline(time.Now().Add(time.Minute)))
	if _, err := one.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one too many: %v, want it closed at once", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), relay(t, m.address, func(conn int) {
		if conn == 2 { // the joiner has understood that the first was refused
			cancel()
		}
	}))
	_, err = door.Join(ctx, req)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "too many hosts join there right now") {
		t.Errorf("joining at a full door: %v", err)
	}
	for _, guest := range guests {
		must(t, guest.Close())
	}
	_, err = join(t, req)
	must(t, err)
}

// relay passes connections on to a door until the test ends, and tells which one comes before it does.
func relay(t *testing.T, door string, comes func(conn int)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			comes(n)
			go pass(conn, door)
		}
	}()
	return listener.Addr().String()
}

// pass passes on what two say until one of them has no more to say.
func pass(conn net.Conn, door string) {
	defer func() { _ = conn.Close() }()
	far, err := net.Dial("tcp", door)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(far, conn) // the end of either ends both
		_ = far.Close()
	}()
	_, _ = io.Copy(conn, far)
}

// captured is a member that keeps what joiners send it. It is certified, so joiners
// trust it.
func captured(t *testing.T, m *member) (address string, requests <-chan door.SignedRequest) {
	t.Helper()
	taken := make(chan door.SignedRequest, 1)
	creds := m.credentials()
	cert, err := door.SelfSigned(creds.Key)
	must(t, err)
	return serve(t, func(ctx context.Context, listener net.Listener) error {
		raw, err := listener.Accept()
		if err != nil {
			return nil
		}
		defer func() { _ = raw.Close() }()
		conn := tls.Server(raw, door.ServerTLS(cert))
		var first door.Hello
		var signed door.SignedRequest
		if err := errors.Join(
			door.ReadFrame(conn, &first, 1<<10),
			door.WriteFrame(conn, door.Welcome{Version: 1, Time: now, Chain: creds.Chain}, 1<<20),
			door.ReadFrame(conn, &signed, 1<<20),
		); err != nil {
			return err
		}
		taken <- signed
		return nil
	}), taken
}

// What a bad sponsor gets it can show to no other door.
func TestCapturedRequestIsWorthNothing(t *testing.T) {
	m := found(t)
	id := newIdentity(t)
	address, requests := captured(t, m)
	req := request(t, id, m.token(t, identity.TokenRequest{}), address)
	if _, err := join(t, req); err == nil {
		t.Fatal("a door that does not answer let somebody in")
	}
	stolen := <-requests
	raw, err := net.Dial("tcp", m.address)
	must(t, err)
	defer func() { _ = raw.Close() }()
	conn := greeted(t, m, raw)
	must(t, door.WriteFrame(conn, stolen, door.MaxRequest))
	var head door.Answer
	must(t, door.ReadFrame(conn, &head, 1<<20))
	if head.Code != door.CodeBadRequest || head.Detail != "" || m.admissions() != 0 {
		t.Errorf("the answer to a stolen request: %+v, %d admitted", head, m.admissions())
	}
	req.Addresses = []string{m.address}
	if _, err := join(t, req); err != nil {
		t.Errorf("the joiner itself: %v", err)
	}
}

// Servers that are not the mesh's members get no request.
func TestImpostors(t *testing.T) {
	m := found(t)
	stranger := newIdentity(t)
	evicted := newIdentity(t)
	response, err := join(t, request(t, evicted, m.token(t, identity.TokenRequest{}), m.address))
	must(t, err)
	kept := grown(t, evicted, m.catalog.Mesh(), response)
	m.revoke(t, catalog.Revocation{Node: evicted.ID()})
	other := found(t)
	for name, creds := range map[string]door.Credentials{
		"another's chain":  {Key: stranger.Key(), Mesh: m.catalog.Mesh(), Chain: m.credentials().Chain},
		"no chain":         {Key: m.id.Key(), Mesh: m.catalog.Mesh()},
		"own mesh's chain": {Key: other.id.Key(), Mesh: m.catalog.Mesh(), Chain: other.credentials().Chain},
		"evicted":          {Key: evicted.Key(), Mesh: m.catalog.Mesh(), Chain: door.Chain(m.catalog.Records(), evicted.ID())},
	} {
		t.Run(name, func(t *testing.T) {
			impostor := &member{id: stranger, now: clock, catalog: kept.catalog}
			impostor.open(t, func() door.Credentials { return creds })
			_, err := join(t, request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), impostor.address))
			if err == nil || !strings.Contains(err.Error(), "cannot prove that it is a member") {
				t.Errorf("joining at an impostor: %v", err)
			}
			if impostor.admissions() != 0 {
				t.Error("it got a request")
			}
		})
	}
}

func TestNotADoor(t *testing.T) {
	m := found(t)
	other := func(config *tls.Config) func(net.Conn) {
		return func(raw net.Conn) { _ = tls.Server(raw, config).Handshake() }
	}
	cert, err := door.SelfSigned(m.id.Key())
	must(t, err)
	for name, server := range map[string]func(net.Conn){
		"SSH":            func(raw net.Conn) { send(raw, []byte("SSH-2.0-OpenSSH_9.9\r\n")) },
		"HTTP":           func(raw net.Conn) { send(raw, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"TLS without":    other(&tls.Config{Certificates: []tls.Certificate{cert}}),
		"TLS of another": other(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}),
		"TLS 1.2":        other(&tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}),
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, func(_ context.Context, listener net.Listener) error {
				raw, err := listener.Accept()
				if err != nil {
					return nil
				}
				defer func() { _ = raw.Close() }()
				server(raw)
				_, _ = io.Copy(io.Discard, raw)
				return nil
			})
			_, err := join(t, request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), address))
			if err == nil || !strings.Contains(err.Error(), "not meshd's join door") || !strings.Contains(err.Error(), "join.listen") {
				t.Errorf("error %v", err)
			}
		})
	}
}
