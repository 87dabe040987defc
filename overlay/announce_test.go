package overlay_test

import (
	"strings"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
)

// TestAddressIsUsedAgain: an address goes from one endpoint to another, on this host or another one. Who had it in its
// neighbour table reaches the new one at once, and not when the entry has aged.
func TestAddressIsUsedAgain(t *testing.T) {
	for name, host := range map[string]int{"on the client's host": 0, "on another host": 1} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.network("red", 0x101)
			l.endpoint(t, "client", 0, 0, 11)
			empty := [2][]int{}
			for i := range l.cfg {
				empty[i] = []int{len(l.cfg[i].Networks[0].Ports), len(l.cfg[i].Networks[0].Neighbors)}
			}
			l.endpoint(t, "before", host, 0, 12)
			l.apply(t)
			for _, address := range []string{"10.50.0.12", "fd50::c"} {
				linktest.Ping(t, l.nodes["client"], address, 100)
			}
			for i := range l.cfg { // its end, and then another's beginning
				n := &l.cfg[i].Networks[0]
				n.Ports, n.Neighbors = n.Ports[:empty[i][0]], n.Neighbors[:empty[i][1]]
			}
			l.apply(t)
			l.endpoint(t, "after", host, 0, 12)
			here, there := &l.cfg[host].Networks[0], &l.cfg[1-host].Networks[0]
			here.Ports[len(here.Ports)-1].MAC[2] = 0x77
			there.Neighbors[len(there.Neighbors)-1].MAC = here.Ports[len(here.Ports)-1].MAC
			l.apply(t)
			for _, address := range []string{"10.50.0.12", "fd50::c"} {
				// By itself Linux would find out more than 5 s after the client has sent something, and it sends nothing.
				linktest.Eventually(t, address+" has its new MAC in the client's table", func() bool {
					return strings.Contains(linktest.Must(t, l.nodes["client"], "ip neigh show to "+address), " lladdr 02:50:77:")
				})
				linktest.Ping(t, l.nodes["client"], address, 100)
			}
		})
	}
}
