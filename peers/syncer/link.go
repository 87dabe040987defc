package syncer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshd/meshd/catalog"
)

const (
	queueFrames = 256
	writeLimit  = 10 * time.Second
	maxServing  = 16      // requests of one peer at a time
	pushRate    = 2 << 20 // bytes a second: after a push a link rests in proportion, at most pushRest
	pushRest    = 100 * time.Millisecond
)

var (
	errClosed  = errors.New("the connection was closed")
	errTooMany = errors.New("too many requests at a time")
)

// link is a connection to a peer. Both ends push, ask and answer on it.
type link struct {
	peer     Peer
	outgoing bool // we dialled
	made     time.Time
	conn     net.Conn
	queue    chan item
	queued   atomic.Int64 // items in queue
	fetch    func([]catalog.RecordID) []catalog.Record
	poked    chan struct{} // capacity 1: there is something to push
	serving  chan struct{}
	ctx      context.Context // ends when the link closes
	cancel   context.CancelFunc

	mu      sync.Mutex                // guards all below
	pending map[catalog.RecordID]bool // to push: whether it is passed on
	asked   uint64
	waiting map[uint64]chan *frame // who waits for an answer
}

// item is an encoded frame in the queue.
type item struct {
	body    []byte
	written chan struct{} // closed when it has been written; nil: nobody waits
}

// newLink makes a link of a connection. Fetch returns what there now is of some records.
func newLink(ctx context.Context, peer Peer, conn net.Conn, outgoing bool, fetch func([]catalog.RecordID) []catalog.Record) *link {
	ctx, cancel := context.WithCancel(ctx)
	return &link{
		peer:     peer,
		outgoing: outgoing,
		made:     time.Now(),
		conn:     conn,
		queue:    make(chan item, queueFrames),
		fetch:    fetch,
		poked:    make(chan struct{}, 1),
		pending:  map[catalog.RecordID]bool{},
		serving:  make(chan struct{}, maxServing),
		ctx:      ctx,
		cancel:   cancel,
		waiting:  map[uint64]chan *frame{},
	}
}

func (l *link) close() {
	l.cancel()
	_ = l.conn.Close() // it may be closed already
}

func (l *link) closed() bool { return l.ctx.Err() != nil }

// idle says whether nothing waits to be sent or answered.
func (l *link) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued.Load() == 0 && len(l.pending) == 0 && len(l.waiting) == 0 && len(l.serving) == 0
}

// offer has records pushed as soon as the connection takes them, each as it is then: what
// changes faster than the peer reads is sent in its last state alone, and nobody waits. A
// peer that reads nothing loses the connection.
func (l *link) offer(ids []catalog.RecordID, relayed bool) {
	l.mu.Lock()
	for _, id := range ids {
		l.pending[id] = relayed
	}
	l.mu.Unlock()
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// pushes takes what is to be pushed, in frames.
func (l *link) pushes() ([][]byte, error) {
	l.mu.Lock()
	ids := map[bool][]catalog.RecordID{} // by whether they are passed on
	for id, relayed := range l.pending {
		ids[relayed] = append(ids[relayed], id)
	}
	clear(l.pending)
	l.mu.Unlock()
	var bodies [][]byte
	for relayed, list := range ids {
		for _, batch := range batches(l.fetch(list)) {
			body, err := encode(&frame{Type: typePush, Records: batch, Relayed: relayed})
			if err != nil {
				return nil, err
			}
			bodies = append(bodies, body)
		}
	}
	return bodies, nil
}

// note queues a small frame that nobody waits for. A peer that is too slow to take it loses the
// connection.
func (l *link) note(body []byte) {
	l.queued.Add(1)
	select {
	case l.queue <- item{body: body}:
	default:
		l.close()
	}
}

// send queues a frame and waits until it has been written.
func (l *link) send(ctx context.Context, f *frame) error {
	body, err := encode(f)
	if err != nil {
		return err
	}
	written := make(chan struct{})
	l.queued.Add(1)
	select {
	case l.queue <- item{body: body, written: written}:
	case <-l.ctx.Done():
		return errClosed
	case <-ctx.Done():
		l.queued.Add(-1)
		return ctx.Err()
	}
	select {
	case <-written:
		return nil
	case <-l.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// request sends a frame and waits for the answer.
func (l *link) request(ctx context.Context, f *frame) (*frame, error) {
	answer := make(chan *frame, 1)
	l.mu.Lock()
	l.asked++
	f.ID = l.asked
	l.waiting[f.ID] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, f.ID)
		l.mu.Unlock()
	}()
	if err := l.send(ctx, f); err != nil {
		return nil, fmt.Errorf("sending %s: %w", f.Type, err)
	}
	select {
	case a := <-answer:
		if a.Error != "" {
			return nil, fmt.Errorf("%s: the peer says: %s", f.Type, a.Error)
		}
		return a, nil
	case <-l.ctx.Done():
		return nil, fmt.Errorf("waiting for the answer to %s: %w", f.Type, errClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the answer to %s: %w", f.Type, ctx.Err())
	}
}

// answered hands an answer to who waits for it.
func (l *link) answered(f *frame) {
	l.mu.Lock()
	waiting := l.waiting[f.ID]
	delete(l.waiting, f.ID)
	l.mu.Unlock()
	if waiting != nil {
		waiting <- f // has room for one, and gets only one
	}
}

// write empties the queue into the connection, and pushes, until that closes. A push goes out at
// once, the next only after a rest: a large document that changes all the time would
// else cost every host its processor.
func (l *link) write() {
	defer l.close()
	poked := l.poked // nil during a rest
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-rest.C:
			poked = l.poked
		case i := <-l.queue:
			if err := l.put(i.body); err != nil {
				return
			}
			l.queued.Add(-1)
			if i.written != nil {
				close(i.written)
			}
		case <-poked:
			size, err := l.push()
			if err != nil {
				return
			}
			poked = nil
			rest.Reset(min(pushRest, time.Duration(size)*time.Second/pushRate))
		}
	}
}

// push writes what is to be pushed, and returns how many bytes it was.
func (l *link) push() (size int, err error) {
	bodies, err := l.pushes()
	if err != nil {
		return 0, err // comparing will fail at it again, and say so
	}
	for _, body := range bodies {
		if err := l.put(body); err != nil {
			return 0, err
		}
		size += len(body)
	}
	return size, nil
}

func (l *link) put(body []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err := l.conn.Write(body)
	return err
}
