package syncer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meshd/meshd/catalog"
)

var (
	errTooManyRanges = fmt.Errorf("more than %d ranges in a frame", rangeCount)
	errOldProtocol   = errors.New("this member compares catalogs otherwise than meshd did before: upgrade the agent that asks")
)

// enqueue plans an exchange, unless one with that peer is planned or runs already.
func (s *Syncer) enqueue(peer Peer) {
	s.mu.Lock()
	skip := s.pending[peer.ID]
	s.pending[peer.ID] = true
	s.mu.Unlock()
	if skip {
		return
	}
	select {
	case s.queue <- peer:
	default:
		s.settled(peer.ID) // so many peers wait that this one's turn comes by chance
	}
}

func (s *Syncer) settled(id catalog.NodeID) {
	s.mu.Lock()
	delete(s.pending, id)
	s.mu.Unlock()
}

// work does what was planned.
func (s *Syncer) work() {
	defer s.wg.Done()
	for {
		select {
		case <-s.ctx.Done():
			return
		case peer := <-s.queue:
			err := s.exchange(s.ctx, peer)
			s.settled(peer.ID)
			if err != nil && s.ctx.Err() == nil {
				s.config.Logger.Debug("comparing catalogs failed; trying again", "peer", s.config.NameOf(peer.ID), "error", err)
			}
		}
	}
}

// exchange makes two catalogs equal. It goes down the ranges that differ until they are small,
// then says what this host holds there; the peer sends what this host lacks, and says what it
// lacks itself.
func (s *Syncer) exchange(ctx context.Context, peer Peer) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeLimit)
	defer cancel()
	l, err := s.linkTo(ctx, peer)
	if err != nil {
		return err
	}
	answer, err := l.request(ctx, &frame{Type: typeCompare, Digest: s.config.Store.Digest()})
	if err != nil || answer.Type == typeSame {
		return err
	}
	if answer.Type != typeSummary {
		return fmt.Errorf("the peer answered %s to a compare: it runs another version of meshd", answer.Type)
	}
	list, sent, err := s.descend(ctx, l, answer.Summaries)
	if err != nil {
		return err
	}
	for ranges := range slices.Chunk(list, rangeCount) {
		if sent, err = s.trade(ctx, l, ranges); err != nil {
			return err
		}
	}
	if sent { // what comes last has been merged once the peer answers
		_, err = l.request(ctx, &frame{Type: typeWant})
	}
	return err
}

// descend finds the smallest ranges that differ. What the peer has nothing of it sends at once.
func (s *Syncer) descend(ctx context.Context, l *link, summaries []catalog.Summary) (list []catalog.Prefix, sent bool, err error) {
	for len(summaries) > 0 {
		var found catalog.Differences
		var missing []catalog.Record
		s.config.Store.Look(func(h Holdings) {
			found = h.Differences(summaries)
			missing = h.MissingIn(found.Give, nil)
		})
		sent = sent || len(missing) > 0
		if err := s.sendRecords(ctx, l, missing); err != nil {
			return nil, sent, err
		}
		list = append(list, found.List...)
		summaries = nil
		for ranges := range slices.Chunk(found.Deeper, rangeCount) {
			answer, err := l.request(ctx, &frame{Type: typeCompare, Ranges: ranges})
			if err != nil {
				return nil, sent, err
			}
			for i, summary := range answer.Summaries {
				if i >= len(ranges) || summary.Prefix != ranges[i] {
					return nil, sent, fmt.Errorf("the peer describes range %q, which nobody asked for", summary.Prefix)
				}
			}
			summaries = append(summaries, answer.Summaries...)
		}
	}
	return list, sent, nil
}

// trade makes some ranges equal by saying what is in them. It says whether the last thing
// was to send records.
func (s *Syncer) trade(ctx context.Context, l *link, ranges []catalog.Prefix) (sent bool, err error) {
	var ours catalog.Vector
	s.config.Store.Look(func(h Holdings) { ours = h.VectorIn(ranges) })
	done, err := l.request(ctx, &frame{Type: typeWant, Ranges: ranges, Vector: ours})
	if err != nil || len(done.IDs) == 0 {
		return false, err
	}
	var records []catalog.Record
	s.config.Store.Look(func(h Holdings) { records = h.Select(done.IDs) })
	return true, s.sendRecords(ctx, l, records)
}

func (s *Syncer) sendRecords(ctx context.Context, l *link, records []catalog.Record) error {
	for _, batch := range batches(records) {
		if err := l.send(ctx, &frame{Type: typePush, Records: batch}); err != nil {
			return fmt.Errorf("sending records: %w", err)
		}
	}
	return nil
}

// read handles what comes in on a link until it closes.
func (s *Syncer) read(l *link) {
	defer l.close()
	for {
		err := s.readOne(l)
		if err == nil {
			continue
		}
		if !l.closed() {
			s.config.Logger.Debug("connection to a peer ended", "peer", s.config.NameOf(l.peer.ID), "error", err)
		}
		return
	}
}

func (s *Syncer) readOne(l *link) error {
	body, err := readFrame(l.conn)
	if err != nil {
		return err
	}
	s.parsing.Lock()
	f, err := decode(body)
	s.parsing.Unlock()
	if err != nil {
		return err
	}
	if len(f.Records) > 0 {
		s.receive(l, f)
	}
	switch f.Type {
	case typeSame, typeSummary, typeDone, typeAck:
		l.answered(f)
	case typePrune:
		s.setLazy(l.peer.ID, true)
	case typeHave:
		s.heard(l, f.Vector)
	case typeGraft:
		s.sendGrafted(l, f.IDs)
	case typeCompare:
		return s.serve(l, f, s.compare)
	case typeWant:
		return s.serve(l, f, s.want)
	case typeConfirm:
		return s.serve(l, f, s.acknowledge)
	}
	return nil
}

// serve answers a request without holding up what comes after it.
func (s *Syncer) serve(l *link, f *frame, handle func(context.Context, *link, *frame) (*frame, error)) error {
	select {
	case l.serving <- struct{}{}:
	default:
		return errTooMany
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer func() { <-l.serving }()
		answer, err := handle(l.ctx, l, f)
		if err != nil {
			answer = &frame{Type: typeDone, Error: err.Error()}
		}
		answer.ID = f.ID
		if err := l.send(l.ctx, answer); err != nil {
			l.close()
		}
	}()
	return nil
}

func (s *Syncer) compare(_ context.Context, _ *link, f *frame) (*frame, error) {
	if f.Protocol < 2 {
		return nil, errOldProtocol
	}
	ranges := f.Ranges
	switch {
	case len(ranges) > rangeCount:
		return nil, errTooManyRanges
	case len(ranges) == 0 && bytes.Equal(f.Digest, s.config.Store.Digest()):
		return &frame{Type: typeSame}, nil
	case len(ranges) == 0:
		ranges = []catalog.Prefix{""}
	}
	answer := &frame{Type: typeSummary}
	s.config.Store.Look(func(h Holdings) { answer.Summaries = h.Summaries(ranges) })
	return answer, nil
}

func (s *Syncer) want(ctx context.Context, l *link, f *frame) (*frame, error) {
	if f.Protocol < 2 {
		return nil, errOldProtocol
	}
	if len(f.Ranges) > rangeCount {
		return nil, errTooManyRanges
	}
	var missing []catalog.Record
	done := &frame{Type: typeDone}
	s.config.Store.Look(func(h Holdings) {
		missing, done.IDs = h.MissingIn(f.Ranges, f.Vector), h.Needs(f.Vector)
	})
	return done, s.sendRecords(ctx, l, missing)
}
