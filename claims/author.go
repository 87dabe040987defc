package claims

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/meshd/meshd/catalog"
)

// ErrRival is returned once another running host was seen to write this node's document:
// a copy of its state directory is in use. From then on nothing is written here.
var ErrRival = errors.New("another host runs with a copy of this host's identity: end one of the two for good, and have it join anew with: meshd leave; meshd join")

// Author writes a node's document. There is one for each node, for as long as its agent
// runs. It is not safe for concurrent use.
type Author struct {
	key      ed25519.PrivateKey
	self     catalog.NodeID
	mesh     catalog.MeshID
	instance string // of this run of the agent
	rival    bool

	doc       catalog.Document
	version   catalog.DocumentVersion // of doc; zero before the first
	inherited []catalog.Claim         // those that this run did not make
}

// NewAuthor goes on from the document that c holds of the node, if it holds one. Instance
// is random, and never used again by another run of the agent.
func NewAuthor(c *catalog.Catalog, key ed25519.PrivateKey, instance string) *Author {
	a := &Author{key: key, self: catalog.NodeIDOf(key.Public().(ed25519.PublicKey)), mesh: c.Mesh(), instance: instance}
	if doc, version, ok := c.Document(a.self); ok {
		a.follow(doc, version)
		a.inherited = slices.Clone(doc.Claims)
	}
	return a
}

// follow goes on from a document that this run did not write.
func (a *Author) follow(doc catalog.Document, version catalog.DocumentVersion) {
	a.doc, a.version = clone(doc), version
	a.doc.Follows, a.doc.Instance = doc.Instance, a.instance
}

// Document is the node's document as it was last written.
func (a *Author) Document() catalog.Document { return clone(a.doc) }

// Write changes the document, signs it, and merges it into c. It returns the record, to
// pass on, and its version, which others have to acknowledge.
func (a *Author) Write(c *catalog.Catalog, now catalog.Millis, change func(*catalog.Document)) (catalog.Record, catalog.DocumentVersion, error) {
	if a.rival {
		return catalog.Record{}, catalog.DocumentVersion{}, ErrRival
	}
	next := clone(a.doc)
	change(&next)
	next.Mesh, next.Instance, next.Sequence, next.Stamp = a.mesh, a.instance, a.doc.Sequence+1, now
	rec, err := catalog.Sign(a.key, catalog.KindDocument, next)
	if err != nil {
		return catalog.Record{}, catalog.DocumentVersion{}, fmt.Errorf("signing this host's document: %w", err)
	}
	if _, rejected := c.Merge(now, rec); len(rejected) > 0 {
		return catalog.Record{}, catalog.DocumentVersion{}, fmt.Errorf("writing this host's document: %w", errors.Join(rejected...))
	}
	version, err := catalog.VersionOf(rec)
	if err != nil {
		return catalog.Record{}, catalog.DocumentVersion{}, err
	}
	a.doc, a.version = next, version
	return rec, version, nil
}

// TakeOver looks at the node's document in c after a merge. If it is not the one that was
// written here, peers remember what this host forgot, as after its disk was rolled back.
// Then the author goes on from there, in a later epoch, and returns true: the document
// has to be written anew, with the endpoints that there really are.
//
// Of claims the later document counts, as a claim that it gave back may be another's by
// now; those that this run has made stay.
func (a *Author) TakeOver(c *catalog.Catalog) bool {
	doc, version, ok := c.Document(a.self)
	if !ok || version == a.version || a.rival {
		return false
	}
	if doc.Follows == a.instance || doc.Instance == a.instance {
		a.rival = true // who wrote this has read what this very run wrote, or is a copy of it in full
		return false
	}
	mine, fresh := a.doc, a.version == (catalog.DocumentVersion{})
	a.follow(doc, version)
	if fresh { // a newcomer's, as the door heard it, or nothing is remembered
		a.inherited = slices.Clone(doc.Claims)
		return false
	}
	a.doc.Epoch++
	a.doc.Sequence = 0
	for _, claim := range mine.Claims {
		if !slices.Contains(a.inherited, claim) {
			a.doc.Claims = Add(a.doc.Claims, claim)
		}
	}
	a.inherited = slices.Clone(doc.Claims)
	// What the host is like now is known better here.
	a.doc.Name, a.doc.Version, a.doc.WireGuard = mine.Name, mine.Version, mine.WireGuard
	a.doc.Candidates, a.doc.MTU, a.doc.Left = mine.Candidates, mine.MTU, mine.Left
	return true
}

// Rival says whether another running host has this node's identity. Its endpoints have
// to be taken off their networks then: both hand out the same addresses.
func (a *Author) Rival() bool { return a.rival }

// Add adds a claim in order, unless there is one on that block.
func Add(claims []catalog.Claim, c catalog.Claim) []catalog.Claim {
	at, found := slices.BinarySearchFunc(claims, c, compare)
	if found {
		return claims
	}
	return slices.Insert(claims, at, c)
}

// Remove removes the claim on a block.
func Remove(claims []catalog.Claim, network string, block uint32) []catalog.Claim {
	return slices.DeleteFunc(claims, func(c catalog.Claim) bool { return c.Network == network && c.Block == block })
}

func clone(d catalog.Document) catalog.Document {
	d.Candidates = slices.Clone(d.Candidates)
	d.Claims = slices.Clone(d.Claims)
	d.Endpoints = slices.Clone(d.Endpoints)
	for i := range d.Endpoints {
		d.Endpoints[i].Attachments = slices.Clone(d.Endpoints[i].Attachments)
	}
	return d
}
