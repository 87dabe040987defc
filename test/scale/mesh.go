package scale

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
)

const perHost = 20 // endpoints, on one network, replicas of 20 services

// mesh is the records of a mesh of so many hosts, and one more that is to join.
type mesh struct {
	size     int
	id       catalog.MeshID
	keys     []ed25519.PrivateKey
	nodes    []catalog.NodeID
	token    catalog.Record
	records  []catalog.Record // of the first size hosts
	network  catalog.NetworkRecord
	sequence []uint64 // of each host's document
	pool     *catalog.Pool
}

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sign(key ed25519.PrivateKey, kind catalog.Kind, body any) catalog.Record {
	r, err := catalog.Sign(key, kind, body)
	if err != nil {
		panic(fmt.Sprintf("signing a %s record: %v", kind, err)) // the benchmark's own mistake
	}
	return r
}

func (m *mesh) now() catalog.Millis { return catalog.Millis(time.Now().UnixMilli()) }

func newMesh(size int) *mesh {
	m := &mesh{size: size, id: catalog.MeshIDOf(public(keyOf("mesh"))), sequence: make([]uint64, size+1), pool: catalog.NewPool(new(sync.Mutex))}
	for i := range size + 1 {
		m.keys = append(m.keys, keyOf(fmt.Sprintf("h%d", i)))
		m.nodes = append(m.nodes, catalog.NodeIDOf(public(m.keys[i])))
	}
	invite := public(keyOf("invite"))
	m.token = sign(m.keys[0], catalog.KindToken, catalog.Invite{ID: catalog.InviteIDOf(invite), Mesh: m.id, Key: invite, Created: 1})
	m.records = []catalog.Record{
		sign(keyOf("mesh"), catalog.KindSigner, catalog.Signer{Mesh: m.id, Key: public(m.keys[0]), Issued: 1}), m.token,
	}
	bits := 14
	view := catalog.New(m.id).View()
	network, err := view.ProposeNetwork(catalog.NetworkRequest{
		Name: "n", Pools: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, PrefixLen: bits, Now: 1,
	})
	if err != nil {
		panic(err) // the benchmark's own mistake
	}
	m.network = network
	m.records = append(m.records, sign(m.keys[0], catalog.KindNetwork, network))
	for i := range size {
		m.records = append(m.records, m.certificate(i), m.change(i))
	}
	return m
}

func (m *mesh) certificate(i int) catalog.Record {
	node := public(m.keys[i])
	return sign(m.keys[0], catalog.KindCertificate, catalog.Certificate{
		Mesh: m.id, Node: node, Token: m.token, Signed: 1, Invite: ed25519.Sign(keyOf("invite"), catalog.InviteMessage(m.id, node)),
	})
}

// change is the next document of a host: another of its endpoints is ill than before.
func (m *mesh) change(i int) catalog.Record {
	m.sequence[i]++
	layout := catalog.LayoutOf(m.network.Subnet4)
	block := uint32(i + 1)
	first, _ := layout.Range(block)
	name := fmt.Sprintf("host-%04d", i)
	d := catalog.Document{
		Mesh: m.id, Epoch: 1, Sequence: m.sequence[i], Stamp: 1, Name: name, Version: "1.0.0", MTU: 1420,
		WireGuard:  catalog.WireGuardKey(sha256.Sum256([]byte(name))),
		Candidates: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 51820)},
		Claims:     []catalog.Claim{{Network: m.network.Name, Block: block, Stamp: 1}},
	}
	for e := range uint32(perHost) {
		health := catalog.Healthy
		if uint64(e) == m.sequence[i]%perHost {
			health = catalog.Unhealthy
		}
		d.Endpoints = append(d.Endpoints, catalog.Endpoint{
			ID: fmt.Sprintf("%06x%06x", i, e), Name: fmt.Sprintf("web-%04d-%02d", i, e), Service: fmt.Sprintf("web-%02d", e),
			Created: 1, Health: health, Attachments: []catalog.Attachment{{
				Network: m.network.Name, Index: first + e, MAC: fmt.Sprintf("02:00:%02x:%02x:00:%02x", i>>8, i&255, e),
				VIP: layout.VIPFirst + e, VIPStamp: 1,
			}},
		})
	}
	return sign(m.keys[i], catalog.KindDocument, d)
}

// inputs is what host i compiles its desired state from.
func (m *mesh) inputs(i int, view *catalog.View) agent.Inputs {
	in := agent.Inputs{
		Self: m.nodes[i], View: view, Domain: "mesh.internal", ListenPort: 51820,
		GatewaySubnets: []netip.Prefix{netip.MustParsePrefix("198.19.0.0/16")}, GatewayMTU: 1500,
	}
	n, _ := view.Network(m.network.Name)
	for _, e := range n.Endpoints {
		if e.Node == in.Self {
			in.Locals = append(in.Locals, agent.Local{
				Endpoint: catalog.Endpoint{
					ID: e.ID, Name: e.Name, Service: e.Service, Health: e.Health,
					Attachments: []catalog.Attachment{{Network: m.network.Name, MAC: e.MAC}},
				},
				Namespace: "/run/meshd/endpoints/" + e.ID, GatewayIndex: 2,
			})
		}
	}
	return in
}
