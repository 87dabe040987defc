package agent

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/catalog"
)

// testTime is before the clock of testing/synctest begins.
const testTime = catalog.Millis(900_000_000_000)

// world makes the records of a small mesh, all of them right. Keys follow from names, so
// what the tests print is the same every time.
type world struct {
	t    testing.TB
	mesh catalog.MeshID
}

func keyOf(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func publicOf(name string) ed25519.PublicKey { return keyOf(name).Public().(ed25519.PublicKey) }

func nodeOf(name string) catalog.NodeID { return catalog.NodeIDOf(publicOf(name)) }

func newWorld(t testing.TB) *world {
	return &world{t, catalog.MeshIDOf(publicOf("mesh"))}
}

func (w *world) sign(by string, kind catalog.Kind, body any) catalog.Record {
	w.t.Helper()
	r, err := catalog.Sign(keyOf(by), kind, body)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// admitted is the records by which "a" founded the mesh and let the others in.
func (w *world) admitted(others ...string) []catalog.Record {
	key := publicOf("token")
	token := w.sign("a", catalog.KindToken, catalog.Invite{ID: catalog.InviteIDOf(key), Mesh: w.mesh, Key: key, Created: testTime})
	records := []catalog.Record{
		w.sign("mesh", catalog.KindSigner, catalog.Signer{Mesh: w.mesh, Key: publicOf("a"), Issued: testTime}), token,
	}
	for _, node := range append([]string{"a"}, others...) {
		records = append(records, w.sign("a", catalog.KindCertificate, catalog.Certificate{
			Mesh: w.mesh, Node: publicOf(node), Token: token, Signed: testTime,
			Invite: ed25519.Sign(keyOf("token"), catalog.InviteMessage(w.mesh, publicOf(node))),
		}))
	}
	return records
}

func (w *world) document(node string, edits ...func(*catalog.Document)) catalog.Record {
	d := catalog.Document{
		Mesh: w.mesh, Epoch: 1, Sequence: 1, Stamp: testTime, Name: node, Version: "1", MTU: 1420,
		WireGuard:  catalog.WireGuardKey([]byte(strings.Repeat(node, 32)[:32])),
		Candidates: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, node[0]}), 51820)},
	}
	for _, edit := range edits {
		edit(&d)
	}
	slices.SortFunc(d.Claims, compareClaims)
	slices.SortFunc(d.Endpoints, func(a, b catalog.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	return w.sign(node, catalog.KindDocument, d)
}

// network is one whose third and fourth numbers follow from n.
func (w *world) network(name string, n byte, edits ...func(*catalog.NetworkRecord)) catalog.Record {
	r := catalog.NetworkRecord{
		Register: catalog.Register{Revision: 1, Stamp: testTime}, Mesh: w.mesh, Name: name, Created: testTime, VNI: uint32(n),
		Subnet4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n, 0, 0}), 24),
		Subnet6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 7: n}), 64),
	}
	for _, edit := range edits {
		edit(&r)
	}
	return w.sign("a", catalog.KindNetwork, r)
}

// settings is what was set for a service.
func (w *world) settings(network, service string, edit func(*catalog.ServiceRecord)) catalog.Record {
	r := catalog.ServiceRecord{Register: catalog.Register{Revision: 1, Stamp: testTime}, Mesh: w.mesh, Network: network, Service: service}
	edit(&r)
	return w.sign("a", catalog.KindService, r)
}

func (w *world) evict(node string) catalog.Record {
	return w.sign("a", catalog.KindRevocation, catalog.Revocation{Mesh: w.mesh, Node: nodeOf(node), Issued: testTime})
}

func (w *world) catalog(records ...catalog.Record) *catalog.Catalog {
	w.t.Helper()
	c := catalog.New(w.mesh)
	_, rejected := c.Merge(testTime, records...)
	for _, err := range rejected {
		if !errors.Is(err, catalog.ErrEvicted) {
			w.t.Fatal(err)
		}
	}
	return c
}

// store is the store of a host with these records, in a directory.
func (w *world) store(dir, node string, records ...catalog.Record) *store {
	w.t.Helper()
	s, err := newStore(filepath.Join(dir, "catalog"), w.mesh, keyOf(node), slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, rejected := s.Merge(records...); len(rejected) > 0 {
		w.t.Fatal(errors.Join(rejected...))
	}
	return s
}

func openTestLocals(t testing.TB, dir string) *locals {
	t.Helper()
	l, err := openLocals(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
