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
	const patience = time.Minute // in real time
	path := testNamespace(t, 4)
	c := newClusterOn(t, 4, nil, func(netip.Addr) meshnet.Network { return meshnet.InNamespace(path) })
	await(t, patience, "links", c.linked)
	await(t, patience, "equal", c.equal)
	last, made, pushed, slowest := uint64(1), 0, 0, time.Duration(0)
	for start := time.Now(); made < 20 || pushed < made/2; made++ {
		if time.Since(start) > patience {
			t.Fatalf("only %d of %d changes came by push", pushed, made)
		}
		last++
		c.publish(0, document(peerOf(0).ID, last, 2000))
		took := await(t, patience, "a change everywhere", func() bool { return c.have(c.all(), 0, last) })
		// Comparing finds one too, mostly later; a busy machine may be late with some for a while.
		if slowest = max(slowest, took); took < compareEvery/10 {
			pushed++
		}
	}
	t.Logf("%d of %d changes came by push; the slowest reached all after %s", pushed, made, slowest)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	start := time.Now()
	if err := c.nodes[0].Confirm(ctx, versionOf(last), ids(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	t.Logf("confirmed by three after %s", time.Since(start))

	store := c.nodes[1].store
	c.stop(1)
	c.publish(0, document(peerOf(0).ID, last+1, 2000))
	c.start(1, store)
	t.Logf("a restarted node was up to date after %s",
		await(t, patience, "restart", func() bool { return c.have(c.all(), 0, last+1) }))
}
