package syncer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
)

// accept takes connections of members. The source address says who it is.
func (s *Syncer) accept() {
	defer s.wg.Done()
	defer s.cancel()
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files; it passes
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		peer, ok := s.identify(conn)
		if !ok {
			s.config.Logger.Debug("refused a connection from an address that is no member's", "address", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		if _, err := s.add(peer, conn, false); err != nil {
			return
		}
	}
}

func (s *Syncer) identify(conn net.Conn) (Peer, bool) {
	source, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return Peer{}, false
	}
	address := source.AddrPort().Addr().Unmap()
	id, ok := s.config.PeerOf(address)
	return Peer{ID: id, Address: address}, ok
}

// add makes a connection a link and starts it. It takes the place of an older one in
// the same direction: the peer has started anew.
func (s *Syncer) add(peer Peer, conn net.Conn, outgoing bool) (*link, error) {
	l := newLink(s.ctx, peer, conn, outgoing, s.fetch)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		l.close()
		return nil, errClosed
	}
	var replaced []*link
	s.links[peer.ID] = slices.DeleteFunc(s.links[peer.ID], func(old *link) bool {
		if old.outgoing == outgoing {
			replaced = append(replaced, old)
			return true
		}
		return false
	})
	s.links[peer.ID] = append(s.links[peer.ID], l)
	delete(s.lazy, peer.ID)
	s.wg.Add(2)
	s.mu.Unlock()
	for _, old := range replaced {
		old.close()
	}
	go func() {
		defer s.wg.Done()
		l.write()
	}()
	go func() {
		defer s.wg.Done()
		s.read(l)
		s.forget(l)
	}()
	return l, nil
}

// forget takes a closed link off the list.
func (s *Syncer) forget(l *link) {
	s.mu.Lock()
	left := slices.DeleteFunc(s.links[l.peer.ID], func(other *link) bool { return other == l })
	carried := len(left) == 0 && !s.isLazy(l.peer.ID)
	if len(left) == 0 {
		delete(s.links, l.peer.ID)
		delete(s.lazy, l.peer.ID)
	} else {
		s.links[l.peer.ID] = left
	}
	s.mu.Unlock()
	if s.ctx.Err() == nil {
		if carried {
			s.mend()
		}
		s.PeersChanged() // there may be a neighbour to replace
	}
}

// newest returns the newest open link to a peer, or nil. The caller holds mu.
func (s *Syncer) newest(id catalog.NodeID) *link {
	links := s.links[id]
	for i := len(links) - 1; i >= 0; i-- {
		if !links[i].closed() {
			return links[i]
		}
	}
	return nil
}

// allLinks returns every link. The caller holds mu.
func (s *Syncer) allLinks() []*link {
	var all []*link
	for _, links := range s.links {
		all = append(all, links...)
	}
	return all
}

// linkTo returns a link to a peer, the one that there is or a new one. Of several
// callers one dials.
func (s *Syncer) linkTo(ctx context.Context, peer Peer) (*link, error) {
	for {
		s.mu.Lock()
		l, dialing := s.newest(peer.ID), s.dialing[peer.ID]
		if l == nil && dialing == nil {
			s.dialing[peer.ID] = make(chan struct{})
		}
		s.mu.Unlock()
		if l != nil {
			return l, nil
		}
		if dialing == nil {
			return s.dial(ctx, peer)
		}
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Syncer) dial(ctx context.Context, peer Peer) (*link, error) {
	defer func() {
		s.mu.Lock()
		close(s.dialing[peer.ID])
		delete(s.dialing, peer.ID)
		s.mu.Unlock()
	}()
	if id, ok := s.config.PeerOf(peer.Address); !ok || id != peer.ID {
		return nil, fmt.Errorf("%s is no member's address", peer.Address)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := s.config.Network.Dial(ctx, s.config.Address, netip.AddrPortFrom(peer.Address, Port))
	if err != nil {
		return nil, err
	}
	return s.add(peer, conn, true)
}

// look acts on who is alive: it compares with those that became alive, or some of them if they are many, closes the links
// to those that are not any more, and keeps the number of links in bounds.
func (s *Syncer) look() {
	peers := s.config.Alive()
	now := make(map[catalog.NodeID]bool, len(peers))
	for _, p := range peers {
		now[p.ID] = true
	}
	s.mu.Lock()
	before := s.alive
	s.alive = now
	open := s.allLinks()
	s.mu.Unlock()

	for _, l := range open {
		id, member := s.config.PeerOf(l.peer.Address)
		if !member || id != l.peer.ID || s.outlived(l, before, now) {
			l.close()
		}
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	fresh := 0
	for _, p := range peers {
		if !before[p.ID] && fresh < manyFresh {
			s.enqueue(p)
			fresh++
		}
	}
	s.fill(peers)
	s.trim(neighbors)
}

// outlived says whether a link is left over from the time when its peer was believed alive. A dial may succeed just after
// that has ended, so ours are of no use however they came about; but a peer that dials us may be alive without our knowing it yet.
func (s *Syncer) outlived(l *link, before, now map[catalog.NodeID]bool) bool {
	if now[l.peer.ID] {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return before[l.peer.ID] || l.outgoing && s.catchups[l.peer.ID] == 0
}

// fill compares with peers in the order given until there are enough links. Comparing
// makes a link, and begins it with equal catalogs.
func (s *Syncer) fill(peers []Peer) {
	s.mu.Lock()
	need := neighbors
	var candidates []Peer
	for _, p := range peers {
		if s.newest(p.ID) != nil || s.pending[p.ID] {
			need--
		} else {
			candidates = append(candidates, p)
		}
	}
	s.mu.Unlock()
	for _, p := range candidates[:min(max(need, 0), len(candidates))] {
		s.enqueue(p)
	}
}

// trim closes the oldest links that we dialled and that are not in use, beyond the
// number to keep. As every comparison makes a link, the neighbours of a node in a large
// mesh change slowly and at random, which keeps the mesh of links connected.
func (s *Syncer) trim(keep int) {
	s.mu.Lock()
	var ours []*link
	for _, l := range s.allLinks() {
		if l.outgoing && !l.closed() {
			ours = append(ours, l)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(ours, func(a, b *link) int { return a.made.Compare(b.made) })
	for i := 0; i < len(ours)-keep; i++ {
		if ours[i].idle() {
			ours[i].close()
		}
	}
}
