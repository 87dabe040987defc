package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/meshd/meshd/catalog"
)

// Founding is a new mesh with one node.
type Founding struct {
	Membership                    // the founder's
	Records      []catalog.Record // the first of the catalog, the founder's certificate among them
	RecoveryCode string           // the mesh private key, see [DecodeRecoveryCode]: shown once, stored nowhere
}

// foundingTokenTTL is how long the token lives that the founder lets itself in with. Its
// secret is forgotten when Found returns.
const foundingTokenTTL = time.Minute

// Found makes a mesh: its key, and with it the founder's signer record, an
// invite for the founder itself, and its certificate. now is the time of all
// of them. Nothing is stored; see [Dir.SaveMembership].
func (id *Identity) Found(now catalog.Millis) (Founding, error) {
	meshPublic, meshKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Founding{}, fmt.Errorf("making the mesh key: %w", err)
	}
	mesh := catalog.MeshIDOf(meshPublic)
	signer, err := catalog.Sign(meshKey, catalog.KindSigner, catalog.Signer{Mesh: mesh, Key: id.Public(), Issued: now})
	if err != nil {
		return Founding{}, fmt.Errorf("certifying the first signer: %w", err)
	}
	token, err := id.invite(mesh, TokenRequest{Now: now, TTL: foundingTokenTTL, Uses: 1})
	if err != nil {
		return Founding{}, err
	}
	certificate, err := catalog.Sign(id.key, catalog.KindCertificate, catalog.Certificate{
		Mesh: mesh, Node: id.Public(), Token: token.Record,
		Invite: ed25519.Sign(token.secret, catalog.InviteMessage(mesh, id.Public())),
		Signed: now,
	})
	if err != nil {
		return Founding{}, fmt.Errorf("certifying the founder: %w", err)
	}
	return Founding{
		Membership:   Membership{Mesh: mesh, Certificate: certificate},
		Records:      []catalog.Record{signer, token.Record, certificate},
		RecoveryCode: EncodeRecoveryCode(meshKey),
	}, nil
}
