package catalog

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxSkew is how far into the future a record's time may lie. Clocks that are wrong
// by a day or by a time zone do no harm, as times decide ties only; the bound keeps a
// record from being the newest for ever because its author's clock said 2106.
const MaxSkew = 28 * time.Hour

var (
	// ErrOtherMesh is a record of another mesh.
	ErrOtherMesh = errors.New("it belongs to another mesh")
	// ErrFuture is a record from more than MaxSkew ahead: its author's clock is wrong, or this host's.
	ErrFuture = errors.New("its time is more than 28 hours ahead: compare the clock of this host with its author's")
	// ErrEvicted is a document, or an admission, of a node that has been evicted.
	ErrEvicted = errors.New("the node has been evicted from this mesh; make a new identity to join again")
)

// Merge takes in records from anywhere, in any order, any number of times. News are the
// records that changed what the catalog holds, which is what to pass on; rejected
// says why others were refused (ErrMalformed, ErrSignature, ErrOtherMesh, ErrFuture,
// ErrEvicted). Records that are known, superseded, or wait for others to be
// believed are neither.
//
// Once two catalogs have been given the same records, they are equal. Now only
// refuses records of the far future; revocations are never refused for their time.
func (c *Catalog) Merge(now Millis, recs ...Record) (news []Record, rejected []error) {
	// Trust first: then what needs it rarely has to wait.
	sorted := slices.Clone(recs)
	slices.SortStableFunc(sorted, func(a, b Record) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
	m := merge{catalog: c, now: now}
	for _, r := range sorted {
		if err := m.take(r); err != nil {
			rejected = append(rejected, err)
		}
	}
	c.strays.trim()
	return m.result(), rejected
}

// merge is one call of Merge.
type merge struct {
	catalog *Catalog
	now     Millis
	news    []*entry
}

// result leaves out what was superseded, or shut out, by a later record of the same call.
func (m *merge) result() []Record {
	var news []Record
	for _, e := range m.news {
		if m.catalog.entries[e.id] == e {
			news = append(news, e.record)
		}
	}
	return news
}

func (m *merge) take(r Record) error {
	c := m.catalog
	sum := r.sum()
	if _, waits := c.strays.all[sum]; waits || c.held[sum] != nil {
		return nil
	}
	e, known := c.pool.get(sum)
	if !known {
		var err error
		if e, err = m.open(r, sum); err != nil {
			return err
		}
	}
	if old := c.entries[e.id]; old != nil && !old.version.Less(e.version) {
		return nil
	}
	if !known {
		if err := e.record.Verify(); err != nil {
			return err
		}
		c.pool.put(e)
	}
	if c.trust.shutOut[e.id] {
		return fmt.Errorf("document of %s: %w", e.author, ErrEvicted)
	}
	m.settle(e)
	return nil
}

// open decodes r and checks what can be checked cheaply.
func (m *merge) open(r Record, sum [sha256.Size]byte) (*entry, error) {
	body, err := r.open()
	if err != nil {
		return nil, err
	}
	author := NodeIDOf(r.Author)
	mesh, stamp := origin(body)
	if mesh != m.catalog.mesh {
		return nil, fmt.Errorf("%s record of %s: %w", r.Kind, author, ErrOtherMesh)
	}
	if stamp > m.now.Add(MaxSkew) {
		return nil, fmt.Errorf("%s record of %s: %w", r.Kind, author, ErrFuture)
	}
	e := &entry{record: r, body: body, author: author, sum: sum}
	e.id, e.version = identify(r, body)
	if c, ok := body.(Certificate); ok {
		invite, err := c.invite()
		if err != nil {
			return nil, err
		}
		e.invite = invite.ID
	}
	return e, nil
}

// settle accepts e and all that waited for it, or lets it wait.
func (m *merge) settle(e *entry) {
	c := m.catalog
	for queue := []*entry{e}; len(queue) > 0; queue = queue[1:] {
		e := queue[0]
		if n := c.trust.missing(c.mesh, e); n != (need{}) {
			c.strays.add(e, n)
			continue
		}
		if !c.accept(e) {
			continue
		}
		m.news = append(m.news, e)
		for _, n := range c.trust.learn(e) {
			queue = append(queue, c.strays.release(n)...)
		}
		if r, ok := e.body.(Revocation); ok {
			c.remove(documentID(r.Node))
		}
	}
}

// accept stores e unless what is there is as new, or e is shut out.
func (c *Catalog) accept(e *entry) bool {
	old := c.entries[e.id]
	if c.trust.shutOut[e.id] || old != nil && !old.version.Less(e.version) {
		return false
	}
	c.remove(e.id)
	c.next++
	e.order = c.next
	c.entries[e.id] = e
	c.held[e.sum] = e
	e.spot = spot{place(e.id), mark(e.id, e.version)}
	c.digest.toggle(e.spot.mark)
	if e.record.Kind == KindRevocation {
		c.shutout.toggle(e.spot.mark)
	}
	c.views.dirt.changed(e)
	return true
}

func (c *Catalog) remove(id RecordID) {
	e, ok := c.entries[id]
	if !ok {
		return
	}
	delete(c.entries, id)
	delete(c.held, e.sum)
	c.digest.toggle(e.spot.mark)
	c.views.dirt.changed(e)
}

// sum tells copies of a record from others: it covers all four parts.
func (r Record) sum() [sha256.Size]byte {
	h := sha256.New()
	// Hash writes never fail. Lengths keep the parts apart.
	_, _ = fmt.Fprintf(h, "%d %d %d ", len(r.Kind), len(r.Body), len(r.Author))
	for _, part := range [][]byte{[]byte(r.Kind), r.Body, r.Author, r.Signature} {
		_, _ = h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// origin returns the mesh of a body and the time that MaxSkew bounds.
func origin(body any) (MeshID, Millis) {
	switch b := body.(type) {
	case Signer:
		return b.Mesh, b.Issued
	case Invite:
		return b.Mesh, b.Created
	case Certificate:
		return b.Mesh, b.Signed
	case Document:
		return b.Mesh, b.Stamp
	case NetworkRecord:
		return b.Mesh, max(b.Stamp, b.Created)
	case ServiceRecord:
		return b.Mesh, b.Stamp
	case Revocation:
		return b.Mesh, 0
	}
	return "", 0
}
