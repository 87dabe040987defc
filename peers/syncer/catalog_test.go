package syncer

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/meshnet"
	"github.com/meshd/meshd/peers/meshnet/memnet"
)

// catalogStore is a Store on the real catalog.
type catalogStore struct{ Shared }

func (s catalogStore) Merge(records []catalog.Record) (news []catalog.Record, rejected []error) {
	s.Lock.Lock()
	defer s.Lock.Unlock()
	return s.Catalog.Merge(catalog.Millis(time.Now().UnixMilli()), records...)
}

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func pub(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sign(t *testing.T, by string, kind catalog.Kind, body any) catalog.Record {
	t.Helper()
	r, err := catalog.Sign(keyOf(by), kind, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// realMesh is members with real identities, catalogs and addresses; "n0" is the signer.
type realMesh struct {
	t      *testing.T
	mesh   catalog.MeshID
	fabric *memnet.Fabric
	wrap   func(meshnet.Network) meshnet.Network
	apart  atomic.Bool // nobody is believed alive
	token  catalog.Record
	names  []string
	peers  []Peer
	stores []catalogStore
	nodes  []*Syncer
}

func (m *realMesh) document(i int, sequence uint64, endpoints ...catalog.Endpoint) catalog.Record {
	return m.documentOf(m.names[i], sequence, endpoints...)
}

func (m *realMesh) documentOf(name string, sequence uint64, endpoints ...catalog.Endpoint) catalog.Record {
	return sign(m.t, name, catalog.KindDocument, catalog.Document{
		Mesh: m.mesh, Epoch: 1, Sequence: sequence, Stamp: catalog.Millis(time.Now().UnixMilli()), Name: name, MTU: 1420, Endpoints: endpoints,
	})
}

func (m *realMesh) certificate(name string) catalog.Record {
	node := pub(keyOf(name))
	return sign(m.t, "n0", catalog.KindCertificate, catalog.Certificate{
		Mesh: m.mesh, Node: node, Token: m.token, Signed: catalog.Millis(time.Now().UnixMilli()),
		Invite: ed25519.Sign(keyOf("invite"), catalog.InviteMessage(m.mesh, node)),
	})
}

// joined is a member that only its records tell of, with some endpoints.
func (m *realMesh) joined(i, endpoints int) []catalog.Record {
	name := fmt.Sprintf("far%d", i)
	var list []catalog.Endpoint
	for e := range endpoints {
		list = append(list, catalog.Endpoint{ID: fmt.Sprintf("%06x%06x", i, e), Name: fmt.Sprintf("e%d", e), Health: catalog.Healthy})
	}
	return []catalog.Record{m.certificate(name), m.documentOf(name, 1, list...)}
}

// store has a host hold records, and tell nobody.
func (m *realMesh) store(i int, records ...catalog.Record) {
	if _, rejected := m.stores[i].Merge(records); len(rejected) > 0 {
		m.t.Fatal(rejected)
	}
}

// part ends all connections: nobody believes anybody alive.
func (m *realMesh) part() {
	m.apart.Store(true)
	for _, n := range m.nodes {
		n.PeersChanged()
	}
	within(m.t, 5*time.Second, "connections closed", func() bool { return m.fabric.Conns(m.peers[0].Address) == 0 })
}

// peerAt asks the view of one host who is at an address.
func (m *realMesh) peerAt(i int, address netip.Addr) (catalog.NodeID, bool) {
	s := m.stores[i]
	s.Lock.Lock()
	view := s.Catalog.View()
	s.Lock.Unlock()
	for _, member := range view.Members {
		if member.Address == address && !member.Evicted {
			return member.ID, true
		}
	}
	return "", false
}

func (m *realMesh) publish(i int, r catalog.Record) {
	m.store(i, r)
	m.nodes[i].Publish(r)
}

func (m *realMesh) equal(nodes ...int) bool {
	for _, i := range nodes {
		if !slices.Equal(m.stores[i].Digest(), m.stores[nodes[0]].Digest()) {
			return false
		}
	}
	return true
}

func newRealMesh(t *testing.T, size int) *realMesh {
	return newRealMeshOn(t, size, func(n meshnet.Network) meshnet.Network { return n })
}

func newRealMeshOn(t *testing.T, size int, wrap func(meshnet.Network) meshnet.Network) *realMesh {
	meshKey := keyOf("mesh")
	m := &realMesh{t: t, mesh: catalog.MeshIDOf(pub(meshKey)), fabric: memnet.New(0), wrap: wrap}
	now := catalog.Millis(time.Now().UnixMilli())
	invite := keyOf("invite")
	m.token = sign(t, "n0", catalog.KindToken, catalog.Invite{
		ID: catalog.InviteIDOf(pub(invite)), Mesh: m.mesh, Key: pub(invite), Created: now,
	})
	members := []catalog.Record{
		sign(t, "mesh", catalog.KindSigner, catalog.Signer{Mesh: m.mesh, Key: pub(keyOf("n0")), Issued: now}), m.token,
	}
	for i := range size {
		name := fmt.Sprintf("n%d", i)
		node := pub(keyOf(name))
		id := catalog.NodeIDOf(node)
		m.names = append(m.names, name)
		m.peers = append(m.peers, Peer{ID: id, Address: catalog.MeshAddress(m.mesh, id)})
		members = append(members, m.certificate(name))
	}
	for i := range size {
		store := catalogStore{Shared{Lock: new(sync.Mutex), Catalog: catalog.New(m.mesh), Self: m.peers[i].ID}}
		m.stores = append(m.stores, store)
		if _, rejected := store.Merge(append(slices.Clone(members), m.document(i, 1))); len(rejected) > 0 {
			t.Fatal(rejected)
		}
	}
	for i := range size {
		m.start(i)
	}
	return m
}

func (m *realMesh) start(i int) {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := New(ctx, Config{
		Self:    m.peers[i].ID,
		Address: m.peers[i].Address,
		Network: m.wrap(m.fabric.Host(m.peers[i].Address)),
		Store:   m.stores[i],
		Alive: func() []Peer {
			if m.apart.Load() {
				return nil
			}
			return slices.DeleteFunc(slices.Clone(m.peers), func(p Peer) bool {
				_, member := m.peerAt(i, p.Address)
				return p.ID == m.peers[i].ID || !member
			})
		},
		PeerOf:  func(address netip.Addr) (catalog.NodeID, bool) { return m.peerAt(i, address) },
		Applied: func(context.Context) error { return nil },
		NameOf:  func(id catalog.NodeID) string { return string(id) },
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		cancel()
		m.t.Fatal(err)
	}
	m.nodes = append(m.nodes, s)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Error(err)
		}
	})
}

func TestWithTheRealCatalog(t *testing.T) {
	virtual(t, func(t *testing.T) {
		m := newRealMesh(t, 5)
		within(t, 10*time.Second, "equal", func() bool { return m.equal(0, 1, 2, 3, 4) })

		r := m.document(2, 2)
		version, err := catalog.VersionOf(r)
		if err != nil {
			t.Fatal(err)
		}
		m.publish(2, r)
		ctx, cancel := context.WithTimeout(context.Background(), stretch(5*time.Second))
		defer cancel()
		others := []catalog.NodeID{m.peers[0].ID, m.peers[1].ID, m.peers[3].ID, m.peers[4].ID}
		if err := m.nodes[2].Confirm(ctx, version, others); err != nil {
			t.Fatal(err)
		}

		// An eviction cuts off at once, also where it is only heard of.
		m.publish(0, sign(t, "n0", catalog.KindRevocation, catalog.Revocation{
			Mesh: m.mesh, Node: m.peers[4].ID, Issued: catalog.Millis(time.Now().UnixMilli()),
		}))
		within(t, time.Second, "eviction spread", func() bool {
			for i := range 4 {
				if _, ok := m.peerAt(i, m.peers[4].Address); ok {
					return false
				}
			}
			return true
		})
		for i := range 4 {
			m.nodes[i].PeersChanged()
		}
		within(t, 5*time.Second, "the evicted node cut off", func() bool { return m.fabric.Conns(m.peers[4].Address) == 0 })
		if err := m.nodes[4].Catchup(ctx, m.peers[0]); err == nil {
			t.Error("an evicted node was served")
		}
		within(t, 10*time.Second, "the rest equal", func() bool { return m.equal(0, 1, 2, 3) })

		err = m.nodes[2].Confirm(ctx, version, others[:3])
		var unconfirmed *UnconfirmedError
		if errors.As(err, &unconfirmed) {
			t.Error(err)
		}
	})
}
