package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
)

// UnconfirmedError says which nodes have not confirmed a document in time, and why as far as
// is known.
type UnconfirmedError struct {
	Nodes   []catalog.NodeID // sorted
	Reasons []error          // of Nodes
}

func (e *UnconfirmedError) Error() string {
	var parts []string
	for i, node := range e.Nodes {
		parts = append(parts, fmt.Sprintf("%s (%v)", node, e.Reasons[i]))
	}
	return "not confirmed by " + strings.Join(parts, ", ")
}

// Unwrap returns the reasons.
func (e *UnconfirmedError) Unwrap() []error { return e.Reasons }

const (
	confirmFirst = 100 * time.Millisecond // pause before asking again
	confirmMax   = 2 * time.Second
	confirming   = 256 // nodes asked at a time: most of the time each of them waits
)

// errBehind: an acknowledgement does not count yet.
var errBehind = errors.New("the two catalogs are not equal yet")

// Confirm waits until each of the nodes has applied this host's document of at least this
// version, and this host holds the document that the node had then. It keeps asking those that do
// not answer until ctx ends; then it returns an *UnconfirmedError. The document is
// in the Store already.
func (s *Syncer) Confirm(ctx context.Context, version catalog.DocumentVersion, nodes []catalog.NodeID) error {
	var mu sync.Mutex // guards failed
	failed := map[catalog.NodeID]error{}
	slots := make(chan struct{}, confirming)
	var wg sync.WaitGroup
	for _, node := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := s.confirmBy(ctx, version, node, slots); err != nil {
				mu.Lock()
				failed[node] = err
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if len(failed) == 0 {
		return nil
	}
	e := &UnconfirmedError{}
	for node := range failed {
		e.Nodes = append(e.Nodes, node)
	}
	slices.Sort(e.Nodes)
	for _, node := range e.Nodes {
		e.Reasons = append(e.Reasons, failed[node])
	}
	return e
}

// confirmBy asks one node until it has confirmed.
func (s *Syncer) confirmBy(ctx context.Context, version catalog.DocumentVersion, node catalog.NodeID, slots chan struct{}) error {
	reason := errors.New("not asked yet")
	for pause := confirmFirst; ; pause = min(2*pause, confirmMax) {
		select {
		case slots <- struct{}{}:
			err := s.ask(ctx, version, node)
			<-slots
			if err == nil {
				return nil
			}
			if ctx.Err() == nil { // else the reason before says more
				reason = err
			}
		case <-ctx.Done():
		}
		timer := time.NewTimer(jitter(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ctx.Err(), reason)
		case <-s.ctx.Done():
			timer.Stop()
			return errClosed
		}
	}
}

// ask asks a node once, and brings the two catalogs together if the one lacks what the
// other talks about.
func (s *Syncer) ask(ctx context.Context, version catalog.DocumentVersion, node catalog.NodeID) error {
	peer, ok := s.find(node)
	if !ok {
		return errors.New("it is not alive")
	}
	ack, err := s.askOnce(ctx, peer, version)
	if err != nil {
		return err
	}
	if ack.Lacking {
		if err := s.exchange(ctx, peer); err != nil {
			return err
		}
		if ack, err = s.askOnce(ctx, peer, version); err != nil {
			return err
		}
		if ack.Lacking {
			return errors.New("it does not take this host's document; its log says why")
		}
	}
	if s.counts(node, version, ack) {
		return nil
	}
	if err := s.exchange(ctx, peer); err != nil {
		return err
	}
	if ack, err = s.askOnce(ctx, peer, version); err != nil {
		return err
	}
	if !s.counts(node, version, ack) {
		return errBehind
	}
	return nil
}

func (s *Syncer) counts(node catalog.NodeID, version catalog.DocumentVersion, ack *frame) bool {
	return !ack.Lacking && ack.Ack != nil && s.config.Store.Counts(node, version, *ack.Ack)
}

func (s *Syncer) askOnce(ctx context.Context, peer Peer, version catalog.DocumentVersion) (*frame, error) {
	l, err := s.linkTo(ctx, peer)
	if err != nil {
		return nil, err
	}
	ack, err := l.request(ctx, &frame{Type: typeConfirm, Version: &version})
	if err != nil {
		return nil, err
	}
	if ack.Type != typeAck {
		return nil, fmt.Errorf("the peer answered %s to a confirm", ack.Type)
	}
	return ack, nil
}

func (s *Syncer) find(node catalog.NodeID) (Peer, bool) {
	for _, p := range s.config.Alive() {
		if p.ID == node {
			return p, true
		}
	}
	return Peer{}, false
}

// holds says whether a node's document is here in at least this version.
func (s *Syncer) holds(node catalog.NodeID, version catalog.DocumentVersion) bool {
	held, ok := s.config.Store.Version(node)
	return ok && !held.Less(version)
}

// acknowledge answers a confirm: once the peer's document is here and applied, with what
// this host holds after that, because applying may have changed its own document.
func (s *Syncer) acknowledge(ctx context.Context, l *link, f *frame) (*frame, error) {
	if f.Version == nil {
		return nil, errors.New("a confirm without a version")
	}
	if !s.holds(l.peer.ID, *f.Version) {
		return &frame{Type: typeAck, Lacking: true}, nil
	}
	if err := s.config.Applied(ctx); err != nil {
		return nil, fmt.Errorf("not applied: %w", err)
	}
	ack := s.config.Store.Acknowledge(l.peer.ID)
	return &frame{Type: typeAck, Ack: &ack}, nil
}
