package syncer

import (
	"maps"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
)

// Along which links records travel: in full only along those by which nobody hears twice, which make
// a tree: who is sent what it has already asks the sender to leave that ("prune"). The other links carry but the names of records,
// a little later ("have"); who does not have one by then asks for it, and the link is part of the
// tree again ("want again": typeGraft). So each host is sent each record about once, and what a link or a host that went
// takes with it is missed for a fraction of a second.
//
// This is the idea of Plumtree (Leitão, Pereira, Rodrigues: Epidemic Broadcast Trees, SRDS 2007).
const (
	haveEvery   = 50 * time.Millisecond  // names are told in batches
	havePatient = 100 * time.Millisecond // how long what was named may take to come by the tree
	askAgain    = 50 * time.Millisecond  // before another link is asked for the same
)

// isLazy says whether a peer is only told the names of records. The caller holds mu.
func (s *Syncer) isLazy(id catalog.NodeID) bool { return s.lazy[id] }

func (s *Syncer) setLazy(id catalog.NodeID, lazy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lazy {
		s.lazy[id] = true
	} else {
		delete(s.lazy, id)
	}
}

// prune asks a peer that sent nothing new not to pass on to this host any more.
func (s *Syncer) prune(l *link) {
	s.setLazy(l.peer.ID, true)
	s.tell(l, &frame{Type: typePrune})
}

// tell sends a frame that is not answered, and never waits.
func (s *Syncer) tell(l *link, f *frame) {
	body, err := encode(f)
	if err != nil {
		s.config.Logger.Error("message cannot be sent", "error", err)
		return
	}
	l.note(body)
}

// name tells links of records by their names, with the next batch. The caller does not hold mu.
func (s *Syncer) name(links []*link, records []catalog.Record) {
	if len(links) == 0 {
		return
	}
	described := s.describe(records)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.named) == 0 && !s.ended {
		s.wg.Add(1)
		time.AfterFunc(haveEvery, func() {
			defer s.wg.Done()
			s.tellNames()
		})
	}
	for _, l := range links {
		if s.named[l] == nil {
			s.named[l] = catalog.Vector{}
		}
		maps.Copy(s.named[l], described)
	}
}

func (s *Syncer) tellNames() {
	s.mu.Lock()
	named := s.named
	s.named = map[*link]catalog.Vector{}
	s.mu.Unlock()
	for l, vector := range named {
		if !l.closed() {
			s.tell(l, &frame{Type: typeHave, Vector: vector})
		}
	}
}

// heard is what a peer says that it has: what this host lacks after a while, it asks for.
func (s *Syncer) heard(l *link, vector catalog.Vector) {
	if len(s.lacking(vector)) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.wg.Add(1)
	time.AfterFunc(havePatient, func() {
		defer s.wg.Done()
		s.graft(l, vector)
	})
}

func (s *Syncer) lacking(vector catalog.Vector) (ids []catalog.RecordID) {
	s.config.Store.Look(func(h Holdings) { ids = h.Needs(vector) })
	return ids
}

// graft asks a peer for what it named, unless that has come, or another was asked just now.
func (s *Syncer) graft(l *link, vector catalog.Vector) {
	ids := s.lacking(vector)
	if len(ids) == 0 || l.closed() {
		return
	}
	now := time.Now()
	s.mu.Lock()
	for id, at := range s.grafted {
		if now.Sub(at) > askAgain {
			delete(s.grafted, id)
		}
	}
	ids = slices.DeleteFunc(ids, func(id catalog.RecordID) bool {
		_, asked := s.grafted[id]
		s.grafted[id] = now
		return asked
	})
	s.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	s.setLazy(l.peer.ID, false)
	s.tell(l, &frame{Type: typeGraft, IDs: ids})
}

// grafted sends what a peer asks for, and passes on to it in full from now on.
func (s *Syncer) sendGrafted(l *link, ids []catalog.RecordID) {
	s.setLazy(l.peer.ID, false)
	l.offer(ids, false)
}

// mend makes all links carry records in full again, after one that did has closed: there may have been no
// other way. What that brings twice is pruned with the next record.
func (s *Syncer) mend() {
	s.mu.Lock()
	var named []*link
	for id := range s.lazy {
		if l := s.newest(id); l != nil {
			named = append(named, l)
		}
	}
	clear(s.lazy)
	s.mu.Unlock()
	for _, l := range named {
		s.tell(l, &frame{Type: typeGraft})
	}
}
