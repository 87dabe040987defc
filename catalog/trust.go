package catalog

import (
	"cmp"
	"crypto/ed25519"
)

// trust is who may say what, as far as the accepted records show. It only ever
// grows, whatever the order in which records come, and that is what makes Merge
// commutative: a record that was accepted once stays accepted, and one that waits may
// only wait for something to be added.
//
// For the same reason no rule compares a record's time with the time of an
// eviction. Clocks differ by hours, so such a rule would throw out members for
// what was in order; and who would sign after being evicted would also put a false time.
// An evicted node is kept out by being cut off, not by judging its past.
//
//   - The mesh key makes signers; signers make signers. A certificate whose token says
//     so makes its node a signer.
//   - Signers make tokens and revocations.
//   - A certificate needs a token of a signer and a sponsor that is a member; a
//     signer may sponsor itself with its own token.
//   - Members write networks, services' settings and their own document; an evicted node has no document.
type trust struct {
	signers map[NodeID]bool
	members map[NodeID]member
	evicted map[NodeID]Revocation // the earliest; of several, the first by name
	revoked map[string]bool       // tokens
	shutOut map[RecordID]bool     // documents of evicted nodes
}

// member is a node and the certificate that speaks for it: the earliest.
type member struct {
	certificate Certificate
	entry       *entry
}

func newTrust() trust {
	return trust{
		signers: map[NodeID]bool{},
		members: map[NodeID]member{},
		evicted: map[NodeID]Revocation{},
		revoked: map[string]bool{},
		shutOut: map[RecordID]bool{},
	}
}

// need is what a record waits for: that some node becomes a signer or a member.
// The zero need is none.
type need struct {
	node   NodeID
	signer bool // else a member
}

func (t *trust) needSigner(node NodeID) need {
	if t.signers[node] {
		return need{}
	}
	return need{node, true}
}

func (t *trust) needMember(node NodeID) need {
	if _, ok := t.members[node]; ok {
		return need{}
	}
	return need{node, false}
}

// missing returns the first thing that e still needs to be accepted.
func (t *trust) missing(mesh MeshID, e *entry) need {
	switch body := e.body.(type) {
	case Signer:
		if MeshIDOf(e.record.Author) == mesh {
			return need{}
		}
		return t.needSigner(e.author)
	case Certificate:
		if n := t.needSigner(NodeIDOf(body.Token.Author)); n != (need{}) {
			return n
		}
		if body.founds(e.record.Author) {
			return need{}
		}
		return t.needMember(e.author)
	case Invite, Revocation:
		return t.needSigner(e.author)
	}
	return t.needMember(e.author)
}

// founds says whether a certificate needs no sponsor: a signer lets itself in.
func (c Certificate) founds(author ed25519.PublicKey) bool {
	return c.Node.Equal(author) && c.Token.Author.Equal(author)
}

// learn takes in an accepted record and returns what it settles for others.
func (t *trust) learn(e *entry) []need {
	switch body := e.body.(type) {
	case Signer:
		return t.addSigner(NodeIDOf(body.Key))
	case Certificate:
		return t.addMember(e, body)
	case Revocation:
		t.revoke(body)
	}
	return nil
}

func (t *trust) addSigner(node NodeID) []need {
	if t.signers[node] {
		return nil
	}
	t.signers[node] = true
	return []need{{node, true}}
}

func (t *trust) addMember(e *entry, c Certificate) []need {
	node := NodeIDOf(c.Node)
	var settled []need
	old, ok := t.members[node]
	if !ok {
		settled = append(settled, need{node, false})
	}
	if !ok || cmp.Or(cmp.Compare(c.Signed, old.certificate.Signed), cmp.Compare(e.id, old.entry.id)) < 0 {
		t.members[node] = member{c, e}
	}
	if invite, err := c.invite(); err == nil && invite.Signer {
		settled = append(settled, t.addSigner(node)...)
	}
	return settled
}

// invite reads the certificate's token without checking it again.
func (c Certificate) invite() (Invite, error) { return Decode[Invite](c.Token) }

func (t *trust) revoke(r Revocation) {
	if r.Token != "" {
		t.revoked[r.Token] = true
		return
	}
	first, ok := t.evicted[r.Node]
	if !ok || r.Issued < first.Issued || r.Issued == first.Issued && r.Name < first.Name {
		t.evicted[r.Node] = r
	}
	t.shutOut[documentID(r.Node)] = true
}
