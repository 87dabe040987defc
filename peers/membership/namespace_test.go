package membership

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
		linktest.Must(t, path, "ip addr add "+addressOf(i).String()+"/128 dev lo nodad")
	}
	return path
}

func TestInNamespace(t *testing.T) {
	const patience = time.Minute // in real time
	path := testNamespace(t, 5)
	c := newCluster(t, 5, func(netip.Addr) meshnet.Network { return meshnet.InNamespace(path) })
	t.Logf("all see all after %s", await(t, patience, "join", c.allAlive))

	c.stop(1)
	t.Logf("failure seen by all after %s", await(t, patience, "failure", func() bool { return c.allSee(c.others(1), 1, Failed) }))
	c.start(1)
	t.Logf("return seen by all after %s", await(t, patience, "return", c.allAlive))

	start := time.Now()
	if err := c.nodes[0].Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("leaving took %s", time.Since(start))
	await(t, patience, "leave", func() bool { return c.allSee(c.others(0), 0, Left) })
	t.Logf("leave seen by all after %s", time.Since(start))
}
