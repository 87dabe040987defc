package syncer

import (
	"sync"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
)

// Shared is a catalog that others use as well, under a lock: all of a [Store] that follows from it. Who embeds it adds Merge.
type Shared struct {
	Lock    sync.Locker // guards what Catalog holds
	Catalog *catalog.Catalog
	Self    catalog.NodeID // whose catalog it is
}

// Digest is Store's.
func (s Shared) Digest() []byte {
	s.Lock.Lock()
	defer s.Lock.Unlock()
	digest := s.Catalog.Digest()
	return digest[:]
}

// Look is Store's.
func (s Shared) Look(f func(Holdings)) {
	s.Lock.Lock()
	defer s.Lock.Unlock()
	f(s.Catalog)
}

// Version is Store's.
func (s Shared) Version(node catalog.NodeID) (catalog.DocumentVersion, bool) {
	s.Lock.Lock()
	defer s.Lock.Unlock()
	_, version, ok := s.Catalog.Document(node)
	return version, ok
}

// Acknowledge is Store's.
func (s Shared) Acknowledge(peer catalog.NodeID) claims.Ack {
	s.Lock.Lock()
	defer s.Lock.Unlock()
	return claims.Acknowledge(s.Catalog, s.Self, peer)
}

// Counts is Store's.
func (s Shared) Counts(peer catalog.NodeID, asked catalog.DocumentVersion, ack claims.Ack) bool {
	s.Lock.Lock()
	defer s.Lock.Unlock()
	return claims.Counts(s.Catalog, s.Self, peer, asked, ack)
}
