package door

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
)

const (
	maxWaiting      = 16 // newcomers at a time
	maxWaitingPerIP = 4
	// An attempt at pairing is one guess at a code for who sits between. So they are few: pairEvery apart on average,
	// pairBurst at once; in PairTime a guesser has about one chance in 160,000.
	pairEvery = time.Second
	pairBurst = 8
)

// Waiting is a newcomer that has knocked without a token.
type Waiting struct {
	Name   string         // what it calls itself
	Code   string         // the pairing code, as the newcomer shows it
	Remote netip.AddrPort // where it comes from
	Since  time.Time
}

// guest is a newcomer in the waiting room.
type guest struct {
	Waiting
	source  netip.Prefix
	granted chan string   // capacity 1: the token's text
	sent    chan error    // capacity 1: whether it has been sent
	taken   bool          // somebody lets it in
	gone    chan struct{} // closed when it has left
}

// room is where newcomers without a token wait.
type room struct {
	mu     sync.Mutex // guards all below
	guests map[*guest]bool
	tokens float64   // attempts that may be made now
	filled time.Time // when tokens was true
}

// admits says whether one more attempt at pairing may be made.
func (r *room) admits(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.filled.IsZero() {
		r.tokens = pairBurst
	} else {
		r.tokens = min(pairBurst, r.tokens+float64(now.Sub(r.filled))/float64(pairEvery))
	}
	r.filled = now
	if r.tokens < 1 || len(r.guests) >= maxWaiting {
		return false
	}
	r.tokens--
	return true
}

// enter gives a guest a place, if there is one for its source.
func (r *room) enter(g *guest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := 0
	for other := range r.guests {
		if other.source == g.source {
			same++
		}
	}
	if len(r.guests) >= maxWaiting || same >= maxWaitingPerIP {
		return false
	}
	if r.guests == nil {
		r.guests = map[*guest]bool{}
	}
	r.guests[g] = true
	return true
}

func (r *room) leave(g *guest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.guests, g)
	close(g.gone)
}

// Waiting lists the newcomers that wait to be let in, those first that came first.
func (s *Server) Waiting() []Waiting {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	list := make([]Waiting, 0, len(s.room.guests))
	for g := range s.room.guests {
		list = append(list, g.Waiting)
	}
	slices.SortFunc(list, func(a, b Waiting) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Code, b.Code))
	})
	return list
}

// Grant gives a newcomer that waits a token, and returns once it has been sent. Code has to be the one that
// it shows. It returns ErrNobodyWaits if none of that name and code waits any more.
func (s *Server) Grant(ctx context.Context, name, code, token string) error {
	g := s.room.take(name, code)
	if g == nil {
		return ErrNobodyWaits
	}
	g.granted <- token // has room for one, and gets only one
	select {
	case err := <-g.sent:
		return err
	case <-g.gone:
		select {
		case err := <-g.sent: // both came at once
			return err
		default:
			return ErrNobodyWaits
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ErrNobodyWaits is returned by Grant.
var ErrNobodyWaits = fmt.Errorf("no host waits under that name with that code")

func (r *room) take(name, code string) *guest {
	r.mu.Lock()
	defer r.mu.Unlock()
	for g := range r.guests {
		if g.Name == name && !g.taken && subtle.ConstantTimeCompare([]byte(g.Code), []byte(code)) == 1 {
			g.taken = true
			return g
		}
	}
	return nil
}

// pair serves a newcomer without a token: it shows both sides a code, and waits until somebody lets it in.
func (s *Server) pair(ctx context.Context, conn *tls.Conn, first hello, creds Credentials, log *slog.Logger) {
	g, err := s.meet(conn, first, creds)
	if err != nil {
		log.Debug("a host that wanted to be paired was turned away", "error", err)
		return
	}
	if !s.room.enter(g) {
		_ = writeFrame(conn, pairGrant{Code: CodeBusy}, maxPairFrame) // if it still listens
		return
	}
	defer s.room.leave(g)
	log.Info("a host without a token waits to be let in: see meshd admit", "name", g.Name)
	ctx, cancel := context.WithTimeout(ctx, PairTime)
	defer cancel()
	go func() { // it says nothing more: that reading ends means that it has gone
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	select {
	case token := <-g.granted:
		err := conn.SetWriteDeadline(time.Now().Add(frameTime))
		if err == nil {
			err = writeFrame(conn, pairGrant{Token: token}, maxPairFrame)
		}
		g.sent <- err
	case <-ctx.Done():
	}
}

// meet goes through the protocol until both sides know the code.
func (s *Server) meet(conn *tls.Conn, first hello, creds Credentials) (*guest, error) {
	offer := pairOffer{Version: protocolVersion}
	switch {
	case first.Version != protocolVersion:
		offer.Code = CodeVersion
	case creds.Mesh == "":
		offer.Code = CodeNotMember
	case !creds.Signer:
		offer.Code, offer.Signers = CodeNoSigner, creds.Signers[:min(maxSigners, len(creds.Signers))]
	case !s.room.admits(time.Now()):
		offer.Code = CodeBusy
	default:
		offer.Nonce = newNonce()
	}
	if err := writeFrame(conn, offer, maxPairFrame); err != nil {
		return nil, err
	}
	if offer.Code != "" {
		return nil, &Error{Code: offer.Code}
	}
	var reveal pairReveal
	if err := readFrame(conn, &reveal, maxPairFrame); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(commitment(reveal.Nonce), first.Pair) != 1 {
		return nil, fmt.Errorf("%w: it opened another commitment than it made", ErrBadRequest)
	}
	if err := catalog.CheckName("host", reveal.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	binding, err := sessionBinding(conn)
	if err != nil {
		return nil, err
	}
	code, err := pairingCode(binding, creds.Key.Public().(ed25519.PublicKey), reveal.Nonce, offer.Nonce)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	remote := remoteOf(conn)
	return &guest{
		Waiting: Waiting{Name: reveal.Name, Code: code, Remote: remote, Since: now}, source: sourceOf(remote),
		granted: make(chan string, 1), sent: make(chan error, 1), gone: make(chan struct{}),
	}, conn.SetDeadline(now.Add(PairTime))
}
