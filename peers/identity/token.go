package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/meshd/meshd/catalog"
)

// Limits of a token's life. The shortest is for tests and scripts.
const (
	MinTTL     = time.Second
	MaxTTL     = 365 * 24 * time.Hour
	DefaultTTL = 24 * time.Hour
)

// ErrNotSigner is returned by [Identity.NewToken] on a node that is no signer.
var ErrNotSigner = errors.New("this host is no signer")

// Token is an admission token: the record that every member can check, and the
// invite's secret. Neither fmt nor slog prints the secret; [Token.Text] does.
type Token struct {
	Record    catalog.Record // KindToken
	Invite    catalog.Invite // Record's body
	Addresses []string       // doors to try, HOST or HOST:PORT; may be empty
	secret    ed25519.PrivateKey
}

// TokenRequest describes a token to be made.
type TokenRequest struct {
	Now       catalog.Millis
	TTL       time.Duration // MinTTL to MaxTTL; 0 is DefaultTTL
	Uses      int           // 0: any number
	Signer    bool          // who joins with it becomes a signer
	Addresses []string      // put into the text, at most 8
}

// NewToken makes a token. It returns ErrNotSigner, with the names of those who
// could, if this node is no signer in view.
func (id *Identity) NewToken(view *catalog.View, req TokenRequest) (Token, error) {
	var signers []string
	for _, member := range view.Members {
		if !member.Signer || member.Evicted || member.Left {
			continue
		}
		if member.ID == id.ID() {
			return id.invite(view.Mesh, req)
		}
		signers = append(signers, member.Name)
	}
	return Token{}, fmt.Errorf("%w: run the command on one that is: %s", ErrNotSigner, strings.Join(signers, ", "))
}

func (id *Identity) invite(mesh catalog.MeshID, req TokenRequest) (Token, error) {
	ttl := req.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return Token{}, fmt.Errorf("a token cannot live for %s: choose a time from %s to %d days", req.TTL, MinTTL, MaxTTL/(24*time.Hour))
	}
	if req.Uses < 0 {
		return Token{}, fmt.Errorf("a token cannot be used %d times: choose 1 or more, or 0 for any number", req.Uses)
	}
	if err := checkAddresses(req.Addresses); err != nil {
		return Token{}, fmt.Errorf("making a token: %w", err)
	}
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Token{}, fmt.Errorf("making a token: %w", err)
	}
	invite := catalog.Invite{
		ID: catalog.InviteIDOf(public), Mesh: mesh, Key: public,
		Created: req.Now, Expires: req.Now.Add(ttl),
		Uses: req.Uses, Signer: req.Signer,
	}
	record, err := catalog.Sign(id.key, catalog.KindToken, invite)
	if err != nil {
		return Token{}, fmt.Errorf("signing a token: %w", err)
	}
	return Token{Record: record, Invite: invite, Addresses: req.Addresses, secret: secret}, nil
}

// SignInvite is what the token's holder shows to be let in as node: a signature
// that is worth nothing to any other node. The secret itself stays here.
func (t Token) SignInvite(node ed25519.PublicKey) []byte {
	return ed25519.Sign(t.secret, catalog.InviteMessage(t.Invite.Mesh, node))
}

// Mesh is the mesh that the token lets into.
func (t Token) Mesh() catalog.MeshID { return t.Invite.Mesh }

// String names the token, without its secret.
func (t Token) String() string { return "token " + t.Invite.ID }

// GoString keeps %#v from printing the secret.
func (t Token) GoString() string { return t.String() }

// LogValue keeps slog from printing the secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }
