package catalog

import (
	"cmp"
	"crypto/sha256"
	"slices"
)

// Catalog is what one host holds of its mesh: the records it has accepted, and a
// bounded number of strays whose author it does not know yet. It is not safe for
// concurrent use; the views it hands out are.
type Catalog struct {
	mesh    MeshID
	entries map[RecordID]*entry
	held    map[[sha256.Size]byte]*entry // by sum, so that copies cost nothing
	digest  Digest
	shutout Digest // of the revocations alone
	next    uint64 // order of acceptance
	trust   trust
	strays  strays
	views   compiler
	pool    *Pool // nil: it shares with nobody
}

// entry is a record together with what was found out about it once. It never changes.
type entry struct {
	record  Record
	body    any // decoded
	id      RecordID
	version Version
	author  NodeID
	invite  string // of a certificate: the id of its token's
	sum     [sha256.Size]byte
	spot    spot // once it is accepted
	order   uint64
}

// New returns an empty catalog of a mesh.
func New(mesh MeshID) *Catalog {
	return &Catalog{
		mesh:    mesh,
		entries: map[RecordID]*entry{},
		held:    map[[sha256.Size]byte]*entry{},
		trust:   newTrust(),
		strays:  newStrays(),
		views:   newCompiler(),
	}
}

// Mesh returns the id of the catalog's mesh.
func (c *Catalog) Mesh() MeshID { return c.mesh }

// Records returns everything the catalog holds but strays, each record after those
// that it needs.
func (c *Catalog) Records() []Record {
	return c.collect(func(*entry) bool { return true })
}

// Digest stands for everything in Records. Two catalogs with equal digests hold the same.
func (c *Catalog) Digest() Digest { return c.digest }

// Shutout stands for the revocations among Records: who is shut out.
func (c *Catalog) Shutout() Digest { return c.shutout }

// Vector says what Records holds.
func (c *Catalog) Vector() Vector {
	v := make(Vector, len(c.entries))
	for id, e := range c.entries {
		v[id] = e.version
	}
	return v
}

// Describe is what Vector says of these records, so far as the catalog holds them.
func (c *Catalog) Describe(recs []Record) Vector {
	v := make(Vector, len(recs))
	for _, r := range recs {
		if e := c.held[r.sum()]; e != nil {
			v[e.id] = e.version
		}
	}
	return v
}

// Missing returns the records that the holder of v lacks, or has older, each after
// those that it needs.
func (c *Catalog) Missing(v Vector) []Record {
	return c.collect(func(e *entry) bool {
		theirs, ok := v[e.id]
		return !ok || theirs.Less(e.version)
	})
}

// Needs returns the ids of the records that the holder of v has and this catalog
// lacks, or has older, sorted. What it would refuse, it does not need.
func (c *Catalog) Needs(v Vector) []RecordID {
	var ids []RecordID
	for id, theirs := range v {
		e, ok := c.entries[id]
		if ok && !e.version.Less(theirs) || !ok && c.trust.shutOut[id] {
			continue
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Select returns the records of those ids that the catalog holds, each after those
// that it needs.
func (c *Catalog) Select(ids []RecordID) []Record {
	want := make(map[RecordID]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	return c.collect(func(e *entry) bool { return want[e.id] })
}

// Document returns what a node says of itself, and which version of it this is; false if its
// document is not here, or is not accepted.
func (c *Catalog) Document(node NodeID) (Document, DocumentVersion, bool) {
	e, ok := c.entries[documentID(node)]
	if !ok {
		return Document{}, DocumentVersion{}, false
	}
	return e.body.(Document), e.documentVersion(), true
}

// Certificate returns the record by which a node is a member: of several the
// earliest. A door answers with it when a member asks to be let in again.
func (c *Catalog) Certificate(node NodeID) (Record, bool) {
	m, ok := c.trust.members[node]
	if !ok {
		return Record{}, false
	}
	return m.entry.record, true
}

// Standing says whether a node was ever let in, and whether it was evicted. It costs the
// same however much has changed.
func (c *Catalog) Standing(node NodeID) (member, evicted bool) {
	_, member = c.trust.members[node]
	_, evicted = c.trust.evicted[node]
	return member, evicted
}

func (e *entry) documentVersion() DocumentVersion {
	return DocumentVersion{Epoch: e.version.Hi, Sequence: e.version.Lo, Hash: e.version.Tie}
}

// collect returns the records that keep wants. Signers and certificates come first, in
// the order in which they were accepted: each needs only earlier ones.
func (c *Catalog) collect(keep func(*entry) bool) []Record {
	var found []*entry
	for _, e := range c.entries {
		if keep(e) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, compareEntries)
	records := make([]Record, len(found))
	for i, e := range found {
		records[i] = e.record
	}
	return records
}

func compareEntries(a, b *entry) int {
	if n := cmp.Compare(rank(a.record.Kind), rank(b.record.Kind)); n != 0 {
		return n
	}
	if rank(a.record.Kind) == 0 {
		return cmp.Compare(a.order, b.order)
	}
	return cmp.Compare(a.id, b.id)
}

// rank is the order in which kinds are merged and passed on: trust before what is
// trusted, and revocations before what they forbid.
func rank(k Kind) int {
	switch k {
	case KindSigner, KindCertificate:
		return 0
	case KindRevocation:
		return 1
	case KindToken:
		return 2
	case KindNetwork:
		return 3
	case KindService:
		return 4
	}
	return 5
}

// View returns the mesh as the accepted records describe it. It is made anew only
// after a change.
func (c *Catalog) View() *View { return c.views.compile(c) }
