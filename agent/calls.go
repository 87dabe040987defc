package agent

import (
	"context"
	"sync"
)

// calls is what a session is being asked: the calls under way. A session that ends has them
// end first, so that none works on what is being taken away. The zero value is open.
type calls struct {
	mu      sync.Mutex // guards all below
	closed  bool
	cancels map[*context.CancelFunc]bool
	running sync.WaitGroup // added to only while open
}

// begin announces a call. Its context ends with ctx, or when the session does; done
// must be called at its end. It is false if the session ends already.
func (c *calls) begin(ctx context.Context) (_ context.Context, done func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	if c.cancels == nil {
		c.cancels = make(map[*context.CancelFunc]bool)
	}
	key := &cancel
	c.cancels[key] = true
	c.running.Add(1)
	return ctx, func() {
		cancel()
		c.mu.Lock()
		delete(c.cancels, key)
		c.mu.Unlock()
		c.running.Done()
	}, true
}

// close ends the calls under way, waits for them, and admits no more. It may be repeated.
func (c *calls) close() {
	c.mu.Lock()
	c.closed = true
	for cancel := range c.cancels {
		(*cancel)()
	}
	c.mu.Unlock()
	c.running.Wait()
}
