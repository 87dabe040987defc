package catalog

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// busy is a mesh whose hosts say all sorts of things, many of which stand in each other's way.
type busy struct {
	*world
	rng      *rand.Rand
	sequence uint64
	revision uint64
}

var busyNetworks = []string{"n", "m", IngressNetwork}

func (b *busy) pick(list ...string) string { return list[b.rng.IntN(len(list))] }

// something is a record that a member of the mesh may have written.
func (b *busy) something() Record {
	switch b.rng.IntN(14) {
	case 0:
		b.revision++
		return b.network(b.pick("a", "b"), b.pick(busyNetworks...), func(n *NetworkRecord) {
			n.Revision, n.Deleted = b.revision, b.rng.IntN(3) == 0
			n.VNI = uint32(7 + b.rng.IntN(2))
			if b.rng.IntN(2) == 0 {
				n.Subnet4 = prefix("10.2.0.0/24")
			}
		})
	case 1:
		return b.join("a", b.pick("b", "c", "d", "e"))[0]
	case 2, 3:
		b.revision++
		return b.service(b.pick("a", "b"), b.pick(busyNetworks...), b.pick("db", "web", "new"), func(s *ServiceRecord) {
			s.Revision, s.Deleted = b.revision, b.rng.IntN(3) == 0
			s.Affinity = AffinityClientIP
			if b.rng.IntN(2) == 0 {
				s.Publish = []Publish{{uint16(80 + b.rng.IntN(3)), 7, "tcp", Millis(b.rng.IntN(3))}}
			} else {
				s.Withdraw = []Port{{"tcp", uint16(80 + b.rng.IntN(3))}}
			}
		})
	}
	return b.someDocument(b.pick("a", "b", "c", "d", "e"))
}

func (b *busy) someDocument(node string) Record {
	b.sequence++
	return b.document(node, func(d *Document) {
		d.Sequence, d.Left = b.sequence, b.rng.IntN(10) == 0
		for _, network := range []string{IngressNetwork, "m", "n"} {
			for block := range uint32(4) {
				if b.rng.IntN(3) > 0 {
					d.Claims = append(d.Claims, Claim{network, block, Millis(b.rng.IntN(4))})
				}
			}
		}
		for i := range b.rng.IntN(5) {
			d.Endpoints = append(d.Endpoints, b.someEndpoint(i))
		}
	})
}

func (b *busy) someEndpoint(i int) Endpoint {
	e := Endpoint{
		ID: fmt.Sprintf("%012x", i), Name: "e", Service: b.pick("", "db", "web"), Created: Millis(b.rng.IntN(3)),
		Health: Health(b.pick(string(Healthy), string(Unhealthy))), Draining: b.rng.IntN(4) == 0,
	}
	for _, network := range busyNetworks {
		if b.rng.IntN(3) > 0 {
			e.Attachments = append(e.Attachments, Attachment{
				Network: network, Index: uint32(b.rng.IntN(64)), MAC: "02:00:00:00:00:01",
				VIP: uint32(190 + b.rng.IntN(8)), VIPStamp: Millis(b.rng.IntN(3)), VIPMoved: uint32(b.rng.IntN(2)),
			})
		}
	}
	for port := range b.rng.IntN(3) {
		e.Publish = append(e.Publish, Publish{Published: uint16(80 + port), Target: uint16(b.rng.IntN(2) + 1), Protocol: "tcp", Stamp: Millis(b.rng.IntN(3))})
	}
	return e
}

func TestViewIsTheSameHoweverItWasMade(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		compareHistory(t, w, rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 40).Draw(t, "steps"))
	})
}

// TestHistoriesAreWorthSomething: the same histories every time have all that views are made of.
func TestHistoriesAreWorthSomething(t *testing.T) {
	w := newWorld(t)
	wanted := []string{"service", "ports", "conflict", "backends", "moved", "settings", "no replicas", "given port"}
	seen := map[string]bool{}
	missing := func(what string) bool { return !seen[what] }
	for seed := uint64(0); seed < 60 && slices.ContainsFunc(wanted, missing); seed++ {
		for _, s := range compareHistory(t, w, seed, 40).Services {
			seen["service"] = true
			seen["ports"] = seen["ports"] || len(s.Ports) > 0
			seen["conflict"] = seen["conflict"] || slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.Conflict != "" })
			seen["backends"] = seen["backends"] || slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return len(p.Backends) > 0 })
			seen["moved"] = seen["moved"] || s.VIPMoved > 0
			seen["settings"] = seen["settings"] || s.Affinity != AffinityNone
			seen["no replicas"] = seen["no replicas"] || len(s.Replicas) == 0
			seen["given port"] = seen["given port"] || slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.Everyone && len(p.Backends) > 0 })
		}
	}
	for _, what := range wanted {
		if missing(what) {
			t.Errorf("no history had a %s", what)
		}
	}
}

// compareHistory makes a history of changes, compares each view of it with one that is made at once, and returns the last.
func compareHistory(t interface {
	Helper()
	Fatalf(string, ...any)
}, w *world, seed uint64, steps int) *View {
	t.Helper()
	b := &busy{world: w, rng: rand.New(rand.NewPCG(seed, 2))}
	c := New(b.mesh)
	c.Merge(testNow, b.founding()...)
	c.Merge(testNow, b.network("a", "n", func(n *NetworkRecord) { n.Subnet4 = prefix("10.2.0.0/24") }))
	for range steps {
		for range b.rng.IntN(4) {
			c.Merge(testNow, b.something())
		}
		if b.rng.IntN(60) == 0 {
			c.Merge(testNow, b.evict("a", b.pick("d", "e")))
		}
		before := c.View()
		kept := fmt.Sprintf("%+v", before)
		c.Merge(testNow, b.something())
		view := c.View()
		if got := fmt.Sprintf("%+v", before); got != kept {
			t.Fatalf("a view has changed:\n%s\n%s", kept, got)
		}
		fresh := New(b.mesh)
		fresh.Merge(testNow, c.Records()...)
		if want := fresh.View(); !reflect.DeepEqual(view, want) {
			t.Fatalf("changed step by step:\n%+v\nmade anew:\n%+v", view, want)
		}
	}
	return c.View()
}
