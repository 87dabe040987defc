package syncer

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/peers/meshnet"
)

// testNamespace has the addresses of size nodes on its loopback, usable at once.
func testNamespace(t *testing.T, size int) string {
	t.Helper()
	path := linktest.Namespace(t, "mesh")
	for i := range size {
		linktest.Must(t, path, "ip addr add "+peerOf(i).Address.String()+"/128 dev lo nodad")
	}
	return path
}

func TestInNamespace(t *testing.T) {
	path := testNamespace(t, 4)
	c := newClusterOn(t, 4, nil, func(netip.Addr) meshnet.Network { return meshnet.InNamespace(path) })
	within(t, 5*time.Second, "links", c.linked)
	within(t, 10*time.Second, "equal", c.equal)
	pushed, slowest := 0, time.Duration(0)
	for seq := uint64(2); seq < 22; seq++ {
		c.publish(0, document(peerOf(0).ID, seq, 2000))
		took := within(t, 20*time.Second, "a change everywhere", func() bool { return c.have(c.all(), 0, seq) })
		if slowest = max(slowest, took); took < compareEvery/2 {
			pushed++
		}
	}
	t.Logf("the slowest of 20 changes reached all after %s", slowest)
	if pushed < 10 { // comparing finds one too, seconds later; a busy machine may be late with some
		t.Errorf("only %d of 20 changes came by push", pushed)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	start := time.Now()
	if err := c.nodes[0].Confirm(ctx, versionOf(21), ids(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	t.Logf("confirmed by three after %s", time.Since(start))

	store := c.nodes[1].store
	c.stop(1)
	c.publish(0, document(peerOf(0).ID, 30, 2000))
	c.start(1, store)
	t.Logf("a restarted node was up to date after %s",
		within(t, 5*time.Second, "restart", func() bool { return c.have(c.all(), 0, 30) }))
}
