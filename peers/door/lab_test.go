package door_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
)

const now = catalog.Millis(1_764_000_000_000)

func clock() catalog.Millis { return now }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newIdentity(t *testing.T) *identity.Identity {
	t.Helper()
	dir, err := identity.Open(filepath.Join(t.TempDir(), "state"))
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	id, err := dir.Create()
	must(t, err)
	return id
}

// member is a node of a mesh with a catalog and a door, as an agent would be.
type member struct {
	id      *identity.Identity
	now     func() catalog.Millis
	server  *door.Server
	address string

	mu       sync.Mutex // guards what follows
	catalog  *catalog.Catalog
	admitted []catalog.NodeID
	observed []netip.AddrPort
}

// Admit is what an agent does: check, countersign, merge, answer.
func (m *member) Admit(_ context.Context, req door.Request, remote netip.AddrPort) (door.Response, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	certificate, err := door.Sponsor(m.catalog, m.id.Key(), req, m.now())
	if err != nil {
		return door.Response{}, err
	}
	if _, rejected := m.catalog.Merge(m.now(), req.Token, certificate, req.Document); rejected != nil {
		return door.Response{}, fmt.Errorf("merging: %w", rejected[0])
	}
	m.admitted = append(m.admitted, catalog.NodeIDOf(req.Node))
	m.observed = append(m.observed, remote)
	return door.Response{Certificate: certificate, Records: m.catalog.Records()}, nil
}

func (m *member) credentials() door.Credentials {
	m.mu.Lock()
	defer m.mu.Unlock()
	return door.Credentials{
		Key: m.id.Key(), Mesh: m.catalog.Mesh(),
		Chain: door.Chain(m.catalog.Records(), m.id.ID()),
	}
}

func (m *member) merge(t *testing.T, records ...catalog.Record) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, rejected := m.catalog.Merge(m.now(), records...); rejected != nil {
		t.Fatalf("rejected: %v", rejected)
	}
}

func (m *member) admissions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.admitted)
}

// found makes a mesh with one member, whose door is open.
func found(t *testing.T) *member {
	t.Helper()
	m := &member{id: newIdentity(t), now: clock}
	founding, err := m.id.Found(now)
	must(t, err)
	m.catalog = catalog.New(founding.Mesh)
	m.merge(t, founding.Records...)
	m.open(t, m.credentials)
	return m
}

// grown makes a member of a host that has joined.
func grown(t *testing.T, id *identity.Identity, mesh catalog.MeshID, response door.Response) *member {
	t.Helper()
	m := &member{id: id, now: clock, catalog: catalog.New(mesh)}
	m.merge(t, response.Records...)
	m.open(t, m.credentials)
	return m
}

func (m *member) open(t *testing.T, credentials func() door.Credentials) {
	t.Helper()
	m.server = door.NewServer(door.Options{
		Credentials: credentials, Admitter: m, Now: func() catalog.Millis { return m.now() },
		Logger: slog.New(slog.DiscardHandler),
	})
	m.address = serve(t, m.server.Serve)
}

// serve runs fn on a loopback listener until the test ends, and returns its address.
func serve(t *testing.T, fn func(context.Context, net.Listener) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return listener.Addr().String()
}

func (m *member) token(t *testing.T, req identity.TokenRequest) identity.Token {
	t.Helper()
	if req.Now == 0 {
		req.Now = now
	}
	m.mu.Lock()
	view := m.catalog.View()
	m.mu.Unlock()
	token, err := m.id.NewToken(view, req)
	must(t, err)
	text, err := token.Text()
	must(t, err)
	token, err = identity.ParseToken(text) // as it comes to another host
	must(t, err)
	return token
}

func document(t *testing.T, key ed25519.PrivateKey, mesh catalog.MeshID) catalog.Record {
	t.Helper()
	record, err := catalog.Sign(key, catalog.KindDocument, catalog.Document{
		Mesh: mesh, Epoch: 1, Sequence: 1, Stamp: now, Name: "joiner", Version: "test", MTU: 1420,
	})
	must(t, err)
	return record
}

func request(t *testing.T, id *identity.Identity, token identity.Token, addresses ...string) door.JoinRequest {
	t.Helper()
	return door.JoinRequest{
		Addresses: addresses, Token: token, Identity: id,
		Document: document(t, id.Key(), token.Mesh()), Now: clock,
	}
}

func join(t *testing.T, req door.JoinRequest) (door.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return door.Join(ctx, req)
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}
