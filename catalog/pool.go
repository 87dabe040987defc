package catalog

import "crypto/sha256"

// Locker is sync.Locker.
type Locker interface {
	Lock()
	Unlock()
}

// Pool has catalogs of one process hold the records that they have in common once: a simulated mesh of
// a thousand hosts would not fit into memory otherwise. What was opened and found to be
// signed well is not opened and checked again by the other catalogs.
type Pool struct {
	mu      Locker // guards entries
	entries map[[sha256.Size]byte]entry
}

// NewPool returns an empty pool. The lock is its own, and held for a moment.
func NewPool(lock Locker) *Pool { return &Pool{mu: lock, entries: map[[sha256.Size]byte]entry{}} }

// Join has the catalog share its records with the others of the pool from now on.
func (p *Pool) Join(c *Catalog) { c.pool = p }

func (p *Pool) get(sum [sha256.Size]byte) (*entry, bool) {
	if p == nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[sum]
	return &e, ok
}

// put keeps a copy of an entry whose signature is good.
func (p *Pool) put(e *entry) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[e.sum] = *e
}
