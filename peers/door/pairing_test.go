package door_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
)

// signing opens a door of m at which newcomers may wait.
func signing(t *testing.T, m *member) {
	t.Helper()
	m.open(t, func() door.Credentials {
		creds := m.credentials()
		creds.Signer = true
		return creds
	})
}

func pair(t *testing.T, name string, addresses ...string) (*door.Pairing, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	p, err := door.Pair(ctx, addresses, name)
	if err == nil {
		t.Cleanup(p.Close)
	}
	return p, err
}

func waiting(m *member) (names []string) {
	for _, w := range m.server.Waiting() {
		names = append(names, w.Name)
	}
	return names
}

// A newcomer without a token waits; who compares the codes lets it in; and it joins.
func TestPairing(t *testing.T) {
	m := found(t)
	signing(t, m)
	p, err := pair(t, "newcomer", "127.0.0.1:1", m.address)
	must(t, err)
	until(t, "it waits", func() bool { return len(m.server.Waiting()) == 1 })
	w := m.server.Waiting()[0]
	if w.Code != p.Code || w.Name != "newcomer" || w.Remote.Addr().String() != "127.0.0.1" {
		t.Fatalf("the signer shows %+v, the newcomer %q", w, p.Code)
	}
	text, err := m.token(t, identity.TokenRequest{Uses: 1}).Text()
	must(t, err)
	for _, wrong := range [][2]string{{"newcomer", "0000-0000"}, {"other", p.Code}, {"newcomer", ""}} {
		if err := m.server.Grant(t.Context(), wrong[0], wrong[1], text); !errors.Is(err, door.ErrNobodyWaits) {
			t.Errorf("letting %q in: %v", wrong, err)
		}
	}
	got := make(chan string, 1)
	go func() {
		token, err := p.Wait(t.Context())
		if err != nil {
			token = err.Error()
		}
		got <- token
	}()
	must(t, m.server.Grant(t.Context(), w.Name, w.Code, text))
	if token := <-got; token != text {
		t.Fatalf("it was given %q", token)
	}
	token, err := identity.ParseToken(text)
	must(t, err)
	_, err = join(t, request(t, newIdentity(t), token, p.Address))
	must(t, err)
	until(t, "nobody waits", func() bool { return len(m.server.Waiting()) == 0 })
	if err := m.server.Grant(t.Context(), w.Name, w.Code, text); !errors.Is(err, door.ErrNobodyWaits) {
		t.Errorf("letting it in twice: %v", err)
	}
}

// One who sits between, with a session to each, makes both sides show a code; not the same one.
func TestPairingShowsWhoSitsBetween(t *testing.T) {
	m := found(t)
	signing(t, m)
	stranger := newIdentity(t)
	cert, err := door.SelfSigned(stranger.Key())
	must(t, err)
	address := serve(t, func(_ context.Context, listener net.Listener) error {
		raw, err := listener.Accept()
		if err != nil {
			return nil
		}
		newcomer := tls.Server(raw, door.ServerTLS(cert))
		t.Cleanup(func() { _ = raw.Close() })
		raw, err = net.Dial("tcp", m.address)
		if err != nil {
			return err
		}
		signer := tls.Client(raw, door.ClientTLS())
		t.Cleanup(func() { _ = raw.Close() })
		// It passes everything on as it is: the numbers are the same at both ends.
		var first door.Hello
		var offer door.PairOffer
		var reveal door.PairReveal
		return errors.Join(
			door.ReadFrame(newcomer, &first, 1<<10), door.WriteFrame(signer, first, 1<<10),
			door.ReadFrame(signer, &offer, 1<<12), door.WriteFrame(newcomer, offer, 1<<12),
			door.ReadFrame(newcomer, &reveal, 1<<12), door.WriteFrame(signer, reveal, 1<<12))
	})
	p, err := pair(t, "newcomer", address)
	must(t, err)
	until(t, "somebody waits", func() bool { return len(m.server.Waiting()) == 1 })
	if w := m.server.Waiting()[0]; w.Code == p.Code { // fails once in 10^8 runs
		t.Errorf("both show %s", p.Code)
	}
}

// A number that was not committed to, and a name that would garble a terminal, are turned away.
func TestPairingTakesNoOtherNumber(t *testing.T) {
	m := found(t)
	signing(t, m)
	nonce := []byte(strings.Repeat("n", 32))
	for name, reveal := range map[string]door.PairReveal{
		"another number": {Nonce: []byte(strings.Repeat("m", 32)), Name: "newcomer"},
		"no number":      {Name: "newcomer"},
		"no name":        {Nonce: nonce},
		"a bad name":     {Nonce: nonce, Name: "new\x1b[31mcomer"},
	} {
		raw, err := net.Dial("tcp", m.address)
		must(t, err)
		defer func() { _ = raw.Close() }()
		conn := handshake(raw, nil)
		must(t, door.WriteFrame(conn, door.Hello{Version: 1, Pair: door.Commitment(nonce)}, 1<<10))
		var offer door.PairOffer
		must(t, door.ReadFrame(conn, &offer, 1<<12))
		if offer.Code != "" || len(offer.Nonce) != 32 {
			t.Fatalf("%s: offered %+v", name, offer)
		}
		must(t, door.WriteFrame(conn, reveal, 1<<12))
		must(t, raw.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := raw.Read(make([]byte, 1<<12)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		if got := waiting(m); len(got) != 0 {
			t.Errorf("%s: %v waits", name, got)
		}
	}
}

// A member that is no signer names signers, and the newcomer waits at the door of one; what else is named harms nobody.
func TestPairingThroughAnyMember(t *testing.T) {
	signer, other, circle := found(t), found(t), found(t)
	signing(t, signer)
	naming := func(m *member) *atomic.Pointer[[]netip.AddrPort] {
		var doors atomic.Pointer[[]netip.AddrPort]
		doors.Store(new([]netip.AddrPort))
		m.open(t, func() door.Credentials {
			creds := m.credentials()
			creds.Signers = *doors.Load()
			return creds
		})
		return &doors
	}
	at := netip.MustParseAddrPort
	named, round := naming(other), naming(circle)
	named.Store(&[]netip.AddrPort{{}, at("127.0.0.1:1"), at(signer.address)})
	p, err := pair(t, "newcomer", other.address)
	must(t, err)
	if p.Address != signer.address {
		t.Errorf("it waits at %s, want %s", p.Address, signer.address)
	}
	// Members that are none and name one another come to an end.
	many := slices.Repeat([]netip.AddrPort{at(circle.address), at(other.address)}, 20)
	round.Store(&many)
	named.Store(&[]netip.AddrPort{at(circle.address), at("127.0.0.1:1")})
	if _, err := pair(t, "newcomer", circle.address); !errors.Is(err, door.ErrNoSigner) {
		t.Errorf("in a circle: %v", err)
	}
}

// Who may not let anybody in says so.
func TestPairingRefusals(t *testing.T) {
	m := found(t) // it does not say that it is a signer
	if _, err := pair(t, "newcomer", m.address); !errors.Is(err, door.ErrNoSigner) || !strings.Contains(err.Error(), "signer") {
		t.Errorf("at a member that is no signer: %v", err)
	}
	idle := &member{id: m.id, now: clock}
	idle.open(t, func() door.Credentials { return door.Credentials{} })
	if _, err := pair(t, "newcomer", idle.address); !errors.Is(err, door.ErrNotMember) {
		t.Errorf("at no member: %v", err)
	}
	if _, err := pair(t, "newcomer", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("at nobody: %v", err)
	}
}

// Nobody can guess often.
func TestPairingAttemptsAreFew(t *testing.T) {
	var room door.Room
	start := time.Unix(0, 0)
	attempts := 0
	for passed := time.Duration(0); passed < door.PairTime; passed += 10 * time.Millisecond {
		if door.Admits(&room, start.Add(passed)) {
			attempts++
		}
	}
	if want := int(door.PairTime/time.Second) + door.PairBurst; attempts < want-2 || attempts > want {
		t.Errorf("%d attempts in %s, want %d", attempts, door.PairTime, want)
	}
}

// One source cannot fill the room, and who gives up leaves.
func TestPairingIsBounded(t *testing.T) {
	m := found(t)
	signing(t, m)
	var guests []*door.Pairing
	for range door.PairBurst {
		p, err := pair(t, "crowd", m.address)
		must(t, err)
		guests = append(guests, p)
	}
	until(t, "the room is as full as one source can make it", func() bool { return len(m.server.Waiting()) == door.MaxWaitingPerIP })
	var inside []*door.Pairing
	for _, p := range guests {
		if slices.ContainsFunc(m.server.Waiting(), func(w door.Waiting) bool { return w.Code == p.Code }) {
			inside = append(inside, p)
			continue
		}
		if _, err := p.Wait(t.Context()); !errors.Is(err, door.ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
	}
	if len(inside) != door.MaxWaitingPerIP {
		t.Errorf("%d guests wait", len(inside))
	}
	for _, p := range inside {
		p.Close()
	}
	until(t, "all have left", func() bool { return len(m.server.Waiting()) == 0 && door.Conns(m.server) == 0 })
}

// A newcomer that gives up stops waiting at once.
func TestPairingGivenUp(t *testing.T) {
	m := found(t)
	signing(t, m)
	p, err := pair(t, "newcomer", m.address)
	must(t, err)
	until(t, "it waits", func() bool { return len(m.server.Waiting()) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Wait(ctx)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	until(t, "it has left", func() bool { return len(m.server.Waiting()) == 0 })
}
