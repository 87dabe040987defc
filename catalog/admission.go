package catalog

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"
)

// Reasons why a node is not let in.
var (
	// ErrExpired is a token past its time.
	ErrExpired = errors.New("the token has expired; make a new one with: meshd token create")
	// ErrUsedUp is a token that has let in as many nodes as it may.
	ErrUsedUp = errors.New("the token has been used up; make a new one with: meshd token create")
	// ErrRevoked is a token that was taken back, or whose signer was evicted.
	ErrRevoked = errors.New("the token has been revoked; make a new one with: meshd token create")
	// ErrUnknownSigner is a token whose author this host does not know as a signer.
	ErrUnknownSigner = errors.New("the token was not made by a signer of this mesh that this host knows; make a new one with: meshd token create")
	// ErrInvite is a join request that the token's key did not sign for this node.
	ErrInvite = errors.New("the request is not signed with the token's key; copy the token again")
)

// Admission is a node's request to be let in.
type Admission struct {
	Token  Record            // the KindToken record
	Invite []byte            // signature of the token's key over InviteMessage(mesh, node)
	Node   ed25519.PublicKey // the node's identity key
	Now    Millis
}

// CheckAdmission says why a node may not be let in, or nil. The error is for people and
// wraps one of ErrExpired, ErrUsedUp, ErrRevoked, ErrUnknownSigner, ErrInvite,
// ErrEvicted, ErrOtherMesh, ErrSignature, ErrMalformed. A node that the token let in
// before may ask again, also when the token is used up.
func CheckAdmission(v *View, a Admission) error {
	if err := checkKey("node key", a.Node); err != nil {
		return fmt.Errorf("join request: %w: %w", ErrMalformed, err)
	}
	invite, err := Decode[Invite](a.Token)
	if err != nil {
		return err
	}
	if invite.Mesh != v.Mesh {
		return fmt.Errorf("token %s is of mesh %s, this is %s: %w", invite.ID, invite.Mesh, v.Mesh, ErrOtherMesh)
	}
	if err := a.Token.Verify(); err != nil {
		return err
	}
	signer, node := NodeIDOf(a.Token.Author), NodeIDOf(a.Node)
	again := v.usedBy[invite.ID][node]
	switch {
	case !v.signers[signer]:
		return fmt.Errorf("token %s of %s: %w", invite.ID, signer, ErrUnknownSigner)
	case !invite.admits(v.Mesh, a.Node, a.Invite):
		return fmt.Errorf("token %s: %w", invite.ID, ErrInvite)
	case v.evicted[node]:
		return fmt.Errorf("node %s: %w", node, ErrEvicted)
	case v.revoked[invite.ID] || v.evicted[signer]:
		return fmt.Errorf("token %s: %w", invite.ID, ErrRevoked)
	case invite.Expires != 0 && a.Now >= invite.Expires:
		return fmt.Errorf("token %s was good until %s, and here it is %s: %w", invite.ID,
			invite.Expires.Time().Format(time.RFC3339), a.Now.Time().Format(time.RFC3339), ErrExpired)
	case invite.Uses > 0 && len(v.usedBy[invite.ID]) >= invite.Uses && !again:
		return fmt.Errorf("token %s was good for %d: %w", invite.ID, invite.Uses, ErrUsedUp)
	}
	return nil
}

// Ack is a member's word that it has applied a document of mine.
type Ack struct {
	Version DocumentVersion `json:"version"` // of my document
	Own     DocumentVersion `json:"own"`     // of the member's own document at that time
}

// Unacknowledged returns the members believed alive that stand in the way of a claim made
// in version claim of my document; when there are none, the claim may be used. An
// acknowledgement counts if it is of that version or a later one and this view holds the
// acknowledger's document of that time, or a later one: a claim of its own that it had
// made by then is then known here. Those who are evicted or left do not count.
func (v *View) Unacknowledged(claim DocumentVersion, alive []NodeID, acks map[NodeID]Ack) []NodeID {
	var missing []NodeID
	for _, id := range alive {
		m, ok := v.Member(id)
		if ok && (m.Evicted || m.Left) {
			continue
		}
		ack, has := acks[id]
		if !ok || !m.Known || !has || ack.Version.Less(claim) || m.Version.Less(ack.Own) {
			missing = append(missing, id)
		}
	}
	return missing
}
