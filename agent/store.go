package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/syncer"
)

// store is the one catalog of this agent: shared between the door, the syncer, the
// API and the loop, kept on disk, and the only writer of this node's document.
type store struct {
	mesh  catalog.MeshID
	self  catalog.NodeID
	key   ed25519.PrivateKey
	log   *slog.Logger
	dirty chan struct{} // capacity 1: the catalog differs from what is on disk
	// overtaken has capacity 1: a later document of ours came from elsewhere, and has to be
	// written anew, with what is true.
	overtaken chan struct{}

	// Both are set before anything else runs, and called without the lock.
	changed func()                 // after every change
	spread  func([]catalog.Record) // with what this host has to tell the others

	saving sync.Mutex   // one write to disk at a time; held during it
	file   *catalogFile // guarded by saving

	mu      sync.Mutex // guards all below
	catalog *catalog.Catalog
	author  *claims.Author
	fresh   []catalog.Record // what changed the catalog since the last write to disk, in that order
	written error            // of the last write to disk
	saved   catalog.Digest   // of what is on disk; zero if that is not known
	passed  int              // how often a later document of ours came from elsewhere
	// nodes finds members by address. It only grows: a node's address follows from its id.
	nodes  map[netip.Addr]catalog.NodeID
	future error     // the last record that was refused for its time
	since  time.Time // when that was
}

// newStore reads the catalog of the host with this key from disk, or begins an empty one.
func newStore(path string, mesh catalog.MeshID, key ed25519.PrivateKey, log *slog.Logger) (*store, error) {
	s := &store{
		file: &catalogFile{path: path}, mesh: mesh, self: catalog.NodeIDOf(key.Public().(ed25519.PublicKey)), key: key, log: log,
		dirty: make(chan struct{}, 1), overtaken: make(chan struct{}, 1), nodes: make(map[netip.Addr]catalog.NodeID), changed: func() {}, spread: func([]catalog.Record) {},
	}
	var err error
	s.catalog, err = readCatalog(path, log)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.catalog = catalog.New(s.mesh)
	case err != nil:
		return nil, err
	case s.catalog.Mesh() != mesh:
		return nil, fmt.Errorf("%s is of mesh %s, and this host is in mesh %s: restore the right one from a backup", path, s.catalog.Mesh(), mesh)
	}
	s.author = claims.NewAuthor(s.catalog, key, newInstance())
	return s, nil
}

// Merge takes records from elsewhere and returns those that were news.
func (s *store) Merge(recs ...catalog.Record) ([]catalog.Record, []error) {
	s.mu.Lock()
	news, rejected := s.catalog.Merge(now(), recs...)
	s.fresh = append(s.fresh, news...)
	s.takeOverOwnLocked()
	s.noteFutureLocked(rejected)
	s.mu.Unlock()
	if len(news) > 0 {
		wake(s.dirty)
		s.changed()
	}
	return news, rejected
}

// Spread merges records of this host's making, or that came in at its door, and sends
// them on.
func (s *store) Spread(recs ...catalog.Record) error {
	news, rejected := s.Merge(recs...)
	if len(rejected) > 0 {
		return errors.Join(rejected...)
	}
	s.spread(news)
	return nil
}

// takeOverOwnLocked follows our own document when peers hold one that we did not write, as
// after our disk was rolled back.
func (s *store) takeOverOwnLocked() {
	if s.author.TakeOver(s.catalog) {
		s.passed++
		wake(s.overtaken)
	}
}

// Rival says whether another running host was seen to write this host's document.
func (s *store) Rival() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.author.Rival()
}

// Overtaken is how often a later document of ours came from elsewhere.
func (s *store) Overtaken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed
}

// noteFutureLocked remembers that a clock is wrong, for status to say.
func (s *store) noteFutureLocked(rejected []error) {
	for _, err := range rejected {
		if errors.Is(err, catalog.ErrFuture) {
			s.future, s.since = err, time.Now()
		}
	}
}

// futureMemory is how long a refused record is remembered. The others offer it again
// every few seconds.
const futureMemory = time.Minute

// ClockError is what a record was refused for lately because its time is too far ahead, or nil.
func (s *store) ClockError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.future == nil || time.Since(s.since) > futureMemory {
		return nil
	}
	return s.future
}

// Update changes this node's document, signs it, and merges it. It returns the version
// that others have to acknowledge. A change that changes nothing writes nothing.
func (s *store) Update(change func(*catalog.Document)) (catalog.DocumentVersion, error) {
	version, news, err := s.update(change)
	if err != nil || len(news) == 0 {
		return version, err
	}
	if err := s.save(); err != nil {
		s.log.Warn("state is kept in memory only until the disk takes it", "err", err)
		wake(s.dirty)
	}
	s.changed()
	s.spread(news)
	return version, nil
}

func (s *store) update(change func(*catalog.Document)) (catalog.DocumentVersion, []catalog.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.author.Document()
	change(&next)
	next.Mesh = s.mesh
	current, version, held := s.catalog.Document(s.self)
	if held && sameContent(current, next) {
		return version, nil, nil
	}
	rec, version, err := s.author.Write(s.catalog, now(), change)
	if err != nil {
		return version, nil, err
	}
	s.fresh = append(s.fresh, rec)
	return version, []catalog.Record{rec}, nil
}

// sameContent says whether two documents say the same, whenever they were written.
func sameContent(a, b catalog.Document) bool {
	b.Sequence, b.Stamp = a.Sequence, a.Stamp
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// Publish signs a record of this node's and merges it.
func (s *store) Publish(kind catalog.Kind, body any) error {
	rec, err := catalog.Sign(s.key, kind, body)
	if err != nil {
		return fmt.Errorf("signing a %s record: %w", kind, err)
	}
	if err := s.Spread(rec); err != nil {
		return fmt.Errorf("writing a %s record: %w", kind, err)
	}
	return nil
}

// View is the mesh as this host sees it now.
func (s *store) View() *catalog.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catalog.View()
}

// Standing says whether a node was ever let in, and whether it was shut out again. It is
// cheap, however much has just changed.
func (s *store) Standing(id catalog.NodeID) (member, evicted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catalog.Standing(id)
}

// NodeAt finds the member with a mesh address, evicted or not.
func (s *store) NodeAt(address netip.Addr) (catalog.NodeID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.nodes[address]; ok {
		return id, true
	}
	for _, m := range s.catalog.View().Members {
		s.nodes[m.Address] = m.ID
	}
	id, ok := s.nodes[address]
	return id, ok
}

// Own is this node's document as it was last written.
func (s *store) Own() catalog.Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.author.Document()
}

// ClaimsOf is the claims of a node, as far as they are known here.
func (s *store) ClaimsOf(id catalog.NodeID) []catalog.Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, _, _ := s.catalog.Document(id)
	return doc.Claims
}

// Records is everything, for a newcomer.
func (s *store) Records() []catalog.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catalog.Records()
}

// settle has what was merged before the call on disk, if it is not there yet. The error is the
// disk's: what it did not take must not be acknowledged, though the mesh goes on from memory.
func (s *store) settle() error {
	s.mu.Lock()
	same := s.saved == s.catalog.Digest()
	s.mu.Unlock()
	if same {
		return nil
	}
	err := s.save()
	if err != nil {
		s.log.Warn("state is kept in memory only until the disk takes it", "err", err)
		wake(s.dirty)
	}
	return err
}

// save has on disk what the catalog holds. Of several callers that wait for the disk, the next writes for all.
func (s *store) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	if s.written == nil && s.saved == s.catalog.Digest() {
		s.mu.Unlock()
		return nil
	}
	write := s.writeLocked()
	digest := s.catalog.Digest()
	s.mu.Unlock()
	err := write()
	s.mu.Lock()
	s.written = err
	if err == nil {
		s.saved = digest
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("saving the catalog: %w", err)
	}
	return nil
}

// writeLocked takes what is to be written, and returns how.
func (s *store) writeLocked() func() error {
	fresh := s.fresh
	s.fresh = nil
	if !s.file.WantsWhole() {
		return func() error { return s.file.Append(fresh) }
	}
	whole := s.catalog.Marshal()
	return func() error { return s.file.Replace(s.mesh, whole) }
}

// DiskError is what the last write to disk failed with, or nil.
func (s *store) DiskError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written
}

// wake pokes a channel of capacity 1 that means "look again".
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Sponsor makes the certificate of a newcomer whose token is good.
func (s *store) Sponsor(req door.Request) (catalog.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return door.Sponsor(s.catalog, s.key, req, now())
}

// syncStore is the store as the syncer sees it.
type syncStore struct {
	syncer.Shared
	store *store
}

func (s *store) forSyncer() syncStore {
	return syncStore{syncer.Shared{Lock: &s.mu, Catalog: s.catalog, Self: s.self}, s}
}

func (s syncStore) Merge(recs []catalog.Record) ([]catalog.Record, []error) {
	return s.store.Merge(recs...)
}
