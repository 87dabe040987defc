package agent

import (
	"crypto/ed25519"
	"net/netip"
	"testing"

	"github.com/meshd/meshd/catalog"
)

// FuzzCompile is a member that signs whatever document it likes: what the others make of it can be
// compiled, and in it each host has an address of its own.
func FuzzCompile(f *testing.F) {
	w := newWorld(f)
	for _, r := range w.threeHosts() {
		if r.Kind == catalog.KindDocument {
			f.Add(r.Body)
		}
	}
	stolen := w.document("b", func(d *catalog.Document) {
		d.Sequence = 2
		c, _, _ := w.catalog(w.threeHosts()...).Document(nodeOf("c"))
		d.WireGuard = c.WireGuard
	})
	f.Add(stolen.Body)
	f.Fuzz(func(t *testing.T, body []byte) {
		w := newWorld(t)
		bad := catalog.Record{Kind: catalog.KindDocument, Body: body, Author: publicOf("b")}
		bad.Signature = ed25519.Sign(keyOf("b"), append([]byte("meshd record v1\x00document\x00"), body...))
		in, c := w.inputs(w.threeHosts()...), w.catalog(w.threeHosts()...)
		c.Merge(testTime, bad)
		in.View = c.View()
		taken := make(map[netip.Addr]bool)
		for _, p := range Compile(in).WireGuard.Peers {
			if taken[p.Address] || p.Address != catalog.MeshAddress(w.mesh, catalog.NodeID(p.ID)) {
				t.Fatalf("peer %s has address %s", p.ID, p.Address)
			}
			taken[p.Address] = true
		}
	})
}
