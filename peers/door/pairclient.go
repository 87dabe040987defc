package door

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Pairing is a newcomer that waits at a signer's door.
type Pairing struct {
	Code    string // to be compared with what the signer shows
	Address string // of the door
	Expires time.Time

	conn *tls.Conn
}

// Pair knocks at the doors one after the other, without a token, until a signer's lets this host
// wait. A member that is none names signers, which are asked after those that were given: whoever sits behind an address, the
// codes tell. Name is what the host calls itself. The error is one line, as Join's is. The caller closes the Pairing.
func Pair(ctx context.Context, addresses []string, name string) (*Pairing, error) {
	var targets []string
	for _, address := range addresses {
		target, err := splitAddress(address)
		if err != nil {
			return nil, fmt.Errorf("joining: %w", err)
		}
		targets = append(targets, target)
	}
	given := len(targets)
	var failed JoinError
	for i := 0; i < len(targets); i++ { // it may grow
		p, err := knock(ctx, targets[i], name)
		if err == nil {
			return p, nil
		}
		failed = append(failed, AddressError{targets[i], err})
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ctx.Err(), failed)
		}
		var other *otherDoors
		if i < given && errors.As(err, &other) {
			targets = withDoors(targets, other.signers, given+maxSigners)
		}
	}
	return nil, failed
}

// otherDoors is a refusal by a member that names others.
type otherDoors struct{ signers []netip.AddrPort }

func (e *otherDoors) Error() string { return ErrNoSigner.Error() }
func (e *otherDoors) Unwrap() error { return ErrNoSigner }

// withDoors adds the doors that are not there yet, up to a number.
func withDoors(targets []string, doors []netip.AddrPort, most int) []string {
	for _, d := range doors {
		if target := d.String(); d.IsValid() && d.Port() != 0 && len(targets) < most && !slices.Contains(targets, target) {
			targets = append(targets, target)
		}
	}
	return targets
}

func knock(ctx context.Context, target, name string) (*Pairing, error) {
	raw, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, &stageError{stageDial, err}
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	p, err := greetSigner(ctx, raw, name)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close() // the pairing failed
		return nil, err
	}
	p.Address = target
	return p, nil
}

// greetSigner goes through the protocol until both sides know the code.
func greetSigner(ctx context.Context, raw net.Conn, name string) (*Pairing, error) {
	if err := raw.SetDeadline(time.Now().Add(exchangeTime)); err != nil {
		return nil, &stageError{stageTLS, err}
	}
	conn := tls.Client(raw, clientTLS())
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, &stageError{stageTLS, err}
	}
	key, err := doorKey(conn.ConnectionState())
	if err != nil {
		return nil, &stageError{stageTLS, err}
	}
	nonce := newNonce()
	if err := writeFrame(conn, hello{Version: protocolVersion, Pair: commitment(nonce)}, maxHello); err != nil {
		return nil, &stageError{stageTalk, err}
	}
	var offer pairOffer
	if err := readFrame(conn, &offer, maxPairFrame); err != nil {
		return nil, &stageError{stageTalk, err}
	}
	if offer.Code == CodeNoSigner {
		return nil, &otherDoors{offer.Signers}
	}
	if offer.Code != "" {
		return nil, &Error{Code: offer.Code}
	}
	if len(offer.Nonce) != nonceSize { // before ours is known to anybody
		return nil, &stageError{stageTalk, errMalformed}
	}
	if err := writeFrame(conn, pairReveal{Nonce: nonce, Name: name}, maxPairFrame); err != nil {
		return nil, &stageError{stageTalk, err}
	}
	binding, err := sessionBinding(conn)
	if err != nil {
		return nil, err
	}
	code, err := pairingCode(binding, key, nonce, offer.Nonce)
	if err != nil {
		return nil, err
	}
	expires := time.Now().Add(PairTime)
	return &Pairing{Code: code, Expires: expires, conn: conn}, conn.SetDeadline(expires)
}

// ErrNotLetIn is why a pairing ended without a token.
var ErrNotLetIn = errors.New("nobody let this host in: run the command again, and `meshd admit` on the signer")

// Wait waits until this host is let in, and returns the token's text with which it joins at Address.
func (p *Pairing) Wait(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.NetConn().Close() })
	defer stop()
	var grant pairGrant
	err := readFrame(p.conn, &grant, maxPairFrame)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case isTimeout(err):
		return "", ErrNotLetIn
	case err != nil:
		return "", JoinError{{p.Address, &stageError{stageTalk, err}}}
	case grant.Code != "":
		return "", JoinError{{p.Address, &Error{Code: grant.Code}}}
	}
	return grant.Token, nil
}

// Close ends the waiting. It may be called again.
func (p *Pairing) Close() { _ = p.conn.NetConn().Close() }
