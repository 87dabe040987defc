package door_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
)

func TestJoin(t *testing.T) {
	first := found(t)
	token := first.token(t, identity.TokenRequest{})
	// A second through the first, a third through the second, a fourth through the third:
	// its chain leads over all of them.
	at := first
	for range 3 {
		id := newIdentity(t)
		response, err := join(t, request(t, id, token, at.address))
		must(t, err)
		if response.Sponsor != at.id.ID() || response.Observed.Addr().String() != "127.0.0.1" {
			t.Errorf("sponsor %s, observed %s", response.Sponsor, response.Observed)
		}
		if !slices.Contains(at.observed, response.Observed) {
			t.Errorf("the joiner is told %s, the member saw %v", response.Observed, at.observed)
		}
		next := grown(t, id, token.Mesh(), response)
		view := next.catalog.View()
		i := slices.IndexFunc(view.Members, func(m catalog.Member) bool { return m.ID == id.ID() })
		if i < 0 || view.Members[i].Sponsor != at.id.ID() || !view.Members[i].Known {
			t.Fatalf("members %+v lack the joiner", view.Members)
		}
		at = next
	}
	if got := len(at.catalog.View().Members); got != 4 {
		t.Errorf("%d members, want 4", got)
	}
}

func TestSignerTokenMakesSigners(t *testing.T) {
	first := found(t)
	token := first.token(t, identity.TokenRequest{Signer: true, Uses: 1, Addresses: []string{first.address}})
	id := newIdentity(t)
	response, err := join(t, request(t, id, token)) // by the token's address
	must(t, err)
	second := grown(t, id, token.Mesh(), response)
	response, err = join(t, request(t, newIdentity(t), second.token(t, identity.TokenRequest{}), second.address))
	must(t, err)
	if response.Sponsor != id.ID() {
		t.Errorf("sponsor %s, want %s", response.Sponsor, id.ID())
	}
}

// A host that did not get the answer asks again, and a token for one use is enough.
func TestJoinAgain(t *testing.T) {
	first := found(t)
	token := first.token(t, identity.TokenRequest{Uses: 1})
	id := newIdentity(t)
	one, err := join(t, request(t, id, token, first.address))
	must(t, err)
	two, err := join(t, request(t, id, token, first.address))
	must(t, err)
	if string(one.Certificate.Signature) != string(two.Certificate.Signature) {
		t.Error("the second certificate is another one")
	}
	if _, err := join(t, request(t, newIdentity(t), token, first.address)); !errors.Is(err, door.ErrUsedUp) {
		t.Errorf("a second host with the token: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, m *member, req *door.JoinRequest)
		want    *door.Error
		says    string
	}{
		"expired": {func(t *testing.T, m *member, req *door.JoinRequest) {
			m.now = func() catalog.Millis { return now.Add(25 * time.Hour) }
			req.Now = m.now
		}, door.ErrExpired, "meshd token create"},
		"clocks differ": {func(t *testing.T, m *member, req *door.JoinRequest) {
			m.now = func() catalog.Millis { return now.Add(25 * time.Hour) }
		}, door.ErrExpired, "here it is 2025-11-24 16:00 UTC, at the member 2025-11-25 17:00 UTC"},
		"clock far ahead": {func(t *testing.T, m *member, req *door.JoinRequest) {
			m.now = func() catalog.Millis { return now.Add(-30 * time.Hour) }
			req.Token = m.token(t, identity.TokenRequest{Now: m.now()})
		}, door.ErrClock, "the clocks differ: here it is 2025-11-24 16:00 UTC, at the member 2025-11-23 10:00 UTC"},
		"used up": {func(t *testing.T, m *member, req *door.JoinRequest) {
			req.Token = m.token(t, identity.TokenRequest{Uses: 1})
			_, err := join(t, request(t, newIdentity(t), req.Token, m.address))
			must(t, err)
		}, door.ErrUsedUp, "as often as it may"},
		"revoked": {func(t *testing.T, m *member, req *door.JoinRequest) {
			m.revoke(t, catalog.Revocation{Token: req.Token.Invite.ID})
		}, door.ErrRevoked, "taken back"},
		"evicted": {func(t *testing.T, m *member, req *door.JoinRequest) {
			_, err := join(t, *req)
			must(t, err)
			m.revoke(t, catalog.Revocation{Node: req.Identity.ID()})
		}, door.ErrEvicted, "as a new node"},
		"wrong mesh": {func(t *testing.T, m *member, req *door.JoinRequest) {
			*req = request(t, req.Identity, found(t).token(t, identity.TokenRequest{}), m.address)
		}, door.ErrWrongMesh, "another mesh"},
		"not a member": {func(t *testing.T, m *member, req *door.JoinRequest) {
			idle := &member{id: m.id, now: clock}
			idle.open(t, func() door.Credentials { return door.Credentials{} })
			req.Addresses = []string{idle.address}
		}, door.ErrNotMember, "run `meshd init` or `meshd join` there first"},
		"signer unknown here": {func(t *testing.T, m *member, req *door.JoinRequest) {
			// m has not heard of the second signer yet, and the joiner comes with its token.
			id := newIdentity(t)
			response, err := join(t, request(t, id, m.token(t, identity.TokenRequest{Signer: true}), m.address))
			must(t, err)
			second := grown(t, id, req.Token.Mesh(), response)
			req.Token = second.token(t, identity.TokenRequest{})
			m.mu.Lock()
			defer m.mu.Unlock()
			records := slices.DeleteFunc(m.catalog.Records(), func(r catalog.Record) bool {
				c, err := catalog.Decode[catalog.Certificate](r)
				return err == nil && catalog.NodeIDOf(c.Node) == id.ID()
			})
			m.catalog = catalog.New(m.catalog.Mesh())
			m.catalog.Merge(now, records...)
		}, door.ErrUnknownSigner, "does not know who signed"},
		"foreign document": {func(t *testing.T, m *member, req *door.JoinRequest) {
			req.Document = document(t, newIdentity(t).Key(), req.Token.Mesh())
		}, door.ErrBadRequest, "meshd version"},
		"large document": {func(t *testing.T, m *member, req *door.JoinRequest) {
			req.Token.Record.Body = append(req.Token.Record.Body, strings.Repeat(" ", 30<<10)...)
		}, door.ErrBadRequest, "meshd version"},
	} {
		t.Run(name, func(t *testing.T) {
			m := found(t)
			req := request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), m.address)
			test.prepare(t, m, &req)
			before := m.admissions()
			_, err := join(t, req)
			if !errors.Is(err, test.want) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			text := err.Error()
			if !strings.Contains(text, test.says) || !strings.Contains(text, req.Addresses[0]) || strings.Contains(text, "\n") {
				t.Errorf("error %q does not say %q and the address in one line", text, test.says)
			}
			if m.admissions() != before {
				t.Error("the host was let in")
			}
		})
	}
}

func (m *member) revoke(t *testing.T, r catalog.Revocation) {
	t.Helper()
	r.Mesh, r.Issued = m.catalog.Mesh(), now
	record, err := catalog.Sign(m.id.Key(), catalog.KindRevocation, r)
	must(t, err)
	m.merge(t, record)
}

// Clocks that differ by an hour let a host in, which is told.
func TestClockIsNoted(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour, 2 * time.Second} {
		m := found(t)
		req := request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), m.address)
		req.Now = func() catalog.Millis { return now.Add(ahead) }
		response, err := join(t, req)
		must(t, err)
		if want := ahead.Truncate(time.Minute); response.Ahead != want {
			t.Errorf("ahead by %s: noted %s, want %s", ahead, response.Ahead, want)
		}
	}
}

// A clock far behind makes all records look as if they came from the future.
func TestClockFarBehind(t *testing.T) {
	m := found(t)
	req := request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), m.address)
	req.Now = func() catalog.Millis { return 0 }
	_, err := join(t, req)
	if err == nil || !strings.Contains(err.Error(), "the clocks differ: here it is 1970-01-01 00:00 UTC") {
		t.Errorf("error %v does not speak of the clock", err)
	}
}

func TestManyJoinAtOnce(t *testing.T) {
	m := found(t)
	token := m.token(t, identity.TokenRequest{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	errs := make(chan error, 2*door.MaxConnsPerIP)
	for range cap(errs) {
		req := request(t, newIdentity(t), token, m.address)
		all.Go(func() {
			var err error
			for again := true; again; { // whoever finds the door full each time tries anew
				_, err = door.Join(ctx, req)
				again = err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "too many hosts join there right now")
			}
			errs <- err
		})
	}
	all.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestOtherAddressesAreTried(t *testing.T) {
	m := found(t)
	other := found(t)
	const nobody = "127.0.0.1:1"
	req := request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), nobody, other.address, m.address)
	_, err := join(t, req)
	must(t, err)

	req.Addresses = req.Addresses[:2]
	_, err = join(t, req)
	var failed door.JoinError
	if !errors.As(err, &failed) || len(failed) != 2 || !errors.Is(err, door.ErrWrongMesh) {
		t.Fatalf("error %v, want one for each address", err)
	}
	if !strings.Contains(err.Error(), "connection refused: is `meshd agent` running there") {
		t.Errorf("error %v does not say what to do", err)
	}
}

func TestJoinWithoutUsableAddress(t *testing.T) {
	m := found(t)
	req := request(t, newIdentity(t), m.token(t, identity.TokenRequest{}))
	if _, err := join(t, req); err == nil || !strings.Contains(err.Error(), "add the address of any member") {
		t.Errorf("without addresses: %v", err)
	}
	req.Addresses = []string{"http://x/"}
	if _, err := join(t, req); err == nil || !strings.Contains(err.Error(), "write HOST or HOST:PORT") {
		t.Errorf("with a malformed one: %v", err)
	}
}

// What ends the agent ends joins and the door at once.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	silent := serve(t, func(serving context.Context, listener net.Listener) error {
		conn, err := listener.Accept()
		cancel()
		<-serving.Done()
		if err == nil {
			_ = conn.Close()
		}
		return nil
	})
	m := found(t)
	conn, err := net.Dial("tcp", m.address)
	must(t, err)
	defer func() { _ = conn.Close() }()
	until(t, "the door has a guest", func() bool { return door.Conns(m.server) == 1 })
	_, err = door.Join(ctx, request(t, newIdentity(t), m.token(t, identity.TokenRequest{}), silent))
	if !errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded) { // not after the silence has lasted too long
		t.Errorf("%v, want canceled", err)
	}
	// The door's end, with a guest in it, is waited for by serve's cleanup.
}
