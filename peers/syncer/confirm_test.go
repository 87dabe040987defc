package syncer

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
)

func TestConfirmWaitsUntilApplied(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 4)
		within(t, 10*time.Second, "equal", c.equal)
		release := make(chan struct{})
		var applying atomic.Bool
		c.nodes[2].onApplied(func(ctx context.Context) error {
			applying.Store(true)
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		c.publish(0, document(peerOf(0).ID, 2, 0))
		done := make(chan error, 1)
		go func() { done <- c.nodes[0].Confirm(context.Background(), versionOf(2), ids(1, 2, 3)) }()
		within(t, time.Second, "applying", applying.Load)
		select {
		case err := <-done:
			t.Fatalf("confirmed before it was applied: %v", err)
		default:
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Applying may make the other fence and change its own document: an acknowledgement counts
// only when that has come here.
func TestConfirmPullsTheAckersDocument(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 3)
		within(t, 10*time.Second, "equal", c.equal)
		c.nodes[1].onApplied(func(context.Context) error {
			c.nodes[1].store.Merge([]catalog.Record{document(peerOf(1).ID, 7, 0)}) // and does not publish it
			return nil
		})
		c.nodes[0].store.Merge([]catalog.Record{document(peerOf(0).ID, 2, 0)}) // not published either
		if err := c.nodes[0].Confirm(context.Background(), versionOf(2), ids(1, 2)); err != nil {
			t.Fatal(err)
		}
		if !c.have([]int{0}, 1, 7) {
			t.Error("confirmed by a node whose current document is not here")
		}
		if !c.have([]int{1, 2}, 0, 2) {
			t.Error("confirmed by a node that does not hold the document")
		}
	})
}

func TestConfirmNamesTheMissing(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 5)
		within(t, 10*time.Second, "equal", c.equal)
		c.stop(1)
		errDisk := errors.New("disk full")
		c.nodes[2].onApplied(func(context.Context) error { return errDisk })
		c.change(func() { c.dead[4] = true })
		c.publish(0, document(peerOf(0).ID, 2, 0))
		limit := 4 * time.Second
		if raceEnabled { // real time, all of which this takes
			limit = 20 * time.Second
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err := c.nodes[0].Confirm(ctx, versionOf(2), ids(1, 2, 3, 4))
		var unconfirmed *UnconfirmedError
		if !errors.As(err, &unconfirmed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if !slices.Equal(unconfirmed.Nodes, ids(1, 2, 4)) {
			t.Errorf("missing %v", unconfirmed.Nodes)
		}
		t.Log(err)
	})
}

func TestConfirmOutlivesARestart(t *testing.T) {
	virtual(t, func(t *testing.T) {
		c := newCluster(t, 2)
		within(t, 10*time.Second, "equal", c.equal)
		store := c.nodes[1].store
		c.stop(1)
		c.publish(0, document(peerOf(0).ID, 2, 0))
		done := make(chan error, 1)
		go func() { done <- c.nodes[0].Confirm(context.Background(), versionOf(2), ids(1)) }()
		c.start(1, store)
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(stretch(20 * time.Second)):
			t.Error("not confirmed after the restart")
		}
	})
}

func ids(numbers ...int) []catalog.NodeID {
	var list []catalog.NodeID
	for _, i := range numbers {
		list = append(list, peerOf(i).ID)
	}
	return list
}

func (n *testNode) onApplied(f func(context.Context) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied = f
}
