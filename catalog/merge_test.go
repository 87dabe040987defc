package catalog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

const testNow Millis = 1_700_000_000_000

// world makes the records of a small mesh, all of them right.
type world struct {
	t       testing.TB
	meshKey ed25519.PrivateKey
	mesh    MeshID
}

func newWorld(t testing.TB) *world {
	k := keyOf("mesh")
	return &world{t, k, MeshIDOf(pub(k))}
}

func (w *world) signer(by, of string) Record {
	return mustSign(w.t, keyOf(by), KindSigner, Signer{Mesh: w.mesh, Key: pub(keyOf(of)), Issued: testNow})
}

func (w *world) token(by, name string, edit ...func(*Invite)) Record {
	key := pub(keyOf(name))
	i := Invite{ID: InviteIDOf(key), Mesh: w.mesh, Key: key, Created: testNow}
	for _, f := range edit {
		f(&i)
	}
	return mustSign(w.t, keyOf(by), KindToken, i)
}

func (w *world) certificate(by, node, tokenName string, token Record, edit ...func(*Certificate)) Record {
	n := pub(keyOf(node))
	c := Certificate{Mesh: w.mesh, Node: n, Token: token, Invite: ed25519.Sign(keyOf(tokenName), InviteMessage(w.mesh, n)), Signed: testNow}
	for _, f := range edit {
		f(&c)
	}
	return mustSign(w.t, keyOf(by), KindCertificate, c)
}

func (w *world) document(node string, edit ...func(*Document)) Record {
	d := Document{Mesh: w.mesh, Epoch: 1, Sequence: 1, Stamp: testNow, Name: node, MTU: 1420}
	for _, f := range edit {
		f(&d)
	}
	return mustSign(w.t, keyOf(node), KindDocument, d)
}

func (w *world) network(by, name string, edit ...func(*NetworkRecord)) Record {
	n := NetworkRecord{Register: Register{Revision: 1, Stamp: testNow}, Mesh: w.mesh, Name: name, Created: testNow, VNI: 7,
		Subnet4: netip.MustParsePrefix("10.1.0.0/16"), Subnet6: netip.MustParsePrefix("fd00:0:0:7::/64")}
	for _, f := range edit {
		f(&n)
	}
	return mustSign(w.t, keyOf(by), KindNetwork, n)
}

// service is settings of a service; a tombstone says nothing.
func (w *world) service(by, network, name string, edit ...func(*ServiceRecord)) Record {
	s := ServiceRecord{Register: Register{Revision: 1, Stamp: testNow}, Mesh: w.mesh, Network: network, Service: name}
	for _, f := range edit {
		f(&s)
	}
	if s.Deleted {
		s.Affinity, s.Prefer, s.Publish, s.Withdraw = "", "", nil, nil
	}
	return mustSign(w.t, keyOf(by), KindService, s)
}

func (w *world) evict(by, node string) Record {
	return mustSign(w.t, keyOf(by), KindRevocation, Revocation{Mesh: w.mesh, Node: NodeIDOf(pub(keyOf(node))), Issued: testNow})
}

// founding is the mesh with one host, "a", and its open token, "tok".
func (w *world) founding() []Record {
	tok := w.token("a", "tok")
	return []Record{w.signer("mesh", "a"), tok, w.certificate("a", "a", "tok", tok)}
}

// join is the certificate and first document of a host.
func (w *world) join(by, node string) []Record {
	return []Record{w.certificate(by, node, "tok", w.token("a", "tok")), w.document(node)}
}

func nodeID(name string) NodeID { return NodeIDOf(pub(keyOf(name))) }

// filled is a catalog of these records; none may be refused.
func (w *world) filled(groups ...[]Record) *Catalog {
	w.t.Helper()
	c := New(w.mesh)
	for _, g := range groups {
		if _, rejected := c.Merge(testNow, g...); len(rejected) > 0 {
			w.t.Fatal(rejected)
		}
	}
	return c
}

func TestMergeReturnsNewsOnce(t *testing.T) {
	w := newWorld(t)
	c := New(w.mesh)
	recs := append(w.founding(), w.join("a", "b")...)
	if news, rejected := c.Merge(testNow, recs...); len(news) != len(recs) || len(rejected) > 0 {
		t.Fatalf("%d news, rejected %v", len(news), rejected)
	}
	before := c.Digest()
	if news, rejected := c.Merge(testNow, recs...); len(news) > 0 || len(rejected) > 0 || c.Digest() != before {
		t.Fatalf("again: %d news, rejected %v", len(news), rejected)
	}
	newer := w.document("b", func(d *Document) { d.Sequence = 2 })
	if news, _ := c.Merge(testNow, w.document("b"), newer); len(news) != 1 || len(c.Records()) != len(recs) {
		t.Fatalf("newer document: %d news, %d records", len(news), len(c.Records()))
	}
	third, fourth := w.document("a"), w.document("a", func(d *Document) { d.Sequence = 2 })
	if news, _ := c.Merge(testNow, third, fourth); len(news) != 1 || !bytes.Equal(news[0].Body, fourth.Body) {
		t.Errorf("two at once: %d news", len(news))
	}
	if d, v, ok := c.Document(nodeID("b")); !ok || d.Sequence != 2 || v.Sequence != 2 {
		t.Errorf("document %+v %v %v", d, v, ok)
	}
	if v, err := VersionOf(newer); err != nil || v.Less(v) || v.Sequence != 2 {
		t.Errorf("version %v %v", v, err)
	}
}

func TestMergeKeepsStraysUntilTheirTime(t *testing.T) {
	w := newWorld(t)
	c := New(w.mesh)
	// Everything in the wrong order, one at a time.
	recs := []Record{w.document("c"), w.network("c", "n"), w.evict("s", "x")}
	recs = append(recs, w.join("b", "c")[0], w.join("a", "b")[0], w.signer("a", "s"))
	f := w.founding()
	recs = append(recs, f[2], f[1])
	for _, r := range recs {
		if news, rejected := c.Merge(testNow, r); len(news) > 0 || len(rejected) > 0 {
			t.Fatalf("%s: %d news, %v", r.Kind, len(news), rejected)
		}
	}
	if news, _ := c.Merge(testNow, f[0]); len(news) != len(recs)+1 {
		t.Fatalf("%d news, not %d", len(news), len(recs)+1)
	}
	if len(c.strays.all) != 0 || c.strays.bytes != 0 || len(c.strays.waiting) != 0 {
		t.Errorf("strays left: %+v", c.strays)
	}
}

func TestMergeRefuses(t *testing.T) {
	w := newWorld(t)
	other := *w
	other.mesh = MeshIDOf(pub(keyOf("other")))
	forged := w.document("a")
	forged.Signature = make([]byte, 64)
	for name, tc := range map[string]struct {
		rec  Record
		want error
	}{
		"another mesh":     {other.document("a"), ErrOtherMesh},
		"forged":           {forged, ErrSignature},
		"from the future":  {w.document("a", func(d *Document) { d.Stamp = testNow.Add(MaxSkew) + 1 }), ErrFuture},
		"malformed":        {Record{Kind: KindDocument, Body: []byte("{")}, ErrMalformed},
		"an evicted's own": {w.document("e"), ErrEvicted},
	} {
		c := w.filled(w.founding(), []Record{w.evict("a", "e")})
		before := c.Digest()
		if news, rejected := c.Merge(testNow, tc.rec); len(news) > 0 || len(rejected) != 1 || !errors.Is(rejected[0], tc.want) || c.Digest() != before {
			t.Errorf("%s: %d news, rejected %v", name, len(news), rejected)
		}
	}
}

func TestOnlyThoseWhoMayAreBelieved(t *testing.T) {
	w := newWorld(t)
	tok := w.token("a", "tok")
	for name, rec := range map[string]Record{
		"signer by a member":           w.signer("b", "x"),
		"token by a member":            w.token("b", "t2"),
		"eviction by a member":         w.evict("b", "a"),
		"document of a stranger":       w.document("x"),
		"network by a stranger":        w.network("x", "n"),
		"settings by a stranger":       w.service("x", "n", "db", func(s *ServiceRecord) { s.Prefer = PreferLocal }),
		"sponsored by a stranger":      w.certificate("x", "y", "tok", tok),
		"sponsors itself":              w.certificate("x", "x", "tok", tok),
		"member's own token":           w.certificate("b", "x", "t2", w.token("b", "t2")),
		"sponsors itself by own token": w.certificate("x", "x", "t2", w.token("x", "t2")),
		"the mesh key is no signer":    w.evict("mesh", "a"),
	} {
		c := w.filled(w.founding(), w.join("a", "b"))
		before := c.Digest()
		if news, rejected := c.Merge(testNow, rec); len(news) > 0 || len(rejected) > 0 || c.Digest() != before || len(c.strays.all) != 1 {
			t.Errorf("%s: %d news, rejected %v, %d strays", name, len(news), rejected, len(c.strays.all))
		}
	}
	for name, edit := range map[string]func(*Certificate){
		"another's invite": func(c *Certificate) { c.Node = pub(keyOf("z")) },
		"expired": func(c *Certificate) {
			c.Token = w.token("a", "tok", func(i *Invite) { i.Expires = c.Signed })
		},
	} {
		c := Certificate{Mesh: w.mesh, Node: pub(keyOf("y")), Token: tok, Signed: testNow,
			Invite: ed25519.Sign(keyOf("tok"), InviteMessage(w.mesh, pub(keyOf("y"))))}
		edit(&c)
		if _, err := Sign(keyOf("a"), KindCertificate, c); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATokenMakesSigners(t *testing.T) {
	w := newWorld(t)
	tok := w.token("a", "st", func(i *Invite) { i.Signer = true })
	c := w.filled(w.founding(), []Record{w.evict("b", "x"), w.certificate("a", "b", "st", tok)})
	if !c.trust.signers[nodeID("b")] || len(c.trust.evicted) != 1 {
		t.Errorf("b is no signer: %+v", c.trust)
	}
}

func TestRevocationDropsTheDocument(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), w.join("a", "b"), []Record{w.network("b", "n")})
	vector := c.Vector()
	news, _ := c.Merge(testNow, w.document("b", func(d *Document) { d.Sequence = 9 }), w.evict("a", "b"))
	if len(news) != 1 || news[0].Kind != KindRevocation {
		t.Fatalf("news %v", news)
	}
	if _, _, ok := c.Document(nodeID("b")); ok {
		t.Error("its document is still there")
	}
	if needs := c.Needs(vector); len(needs) != 0 {
		t.Errorf("it asks for what it refuses: %v", needs)
	}
	if _, ok := c.entries["network/n"]; !ok {
		t.Error("its network went with it")
	}
}

func TestExchangeByVector(t *testing.T) {
	w := newWorld(t)
	a := w.filled(w.founding(), w.join("a", "b"), []Record{w.network("a", "n")})
	b := w.filled(w.founding(), w.join("a", "c"), []Record{w.network("a", "n", func(n *NetworkRecord) { n.Revision = 2 })})
	if got := a.Select(a.Needs(b.Vector())); len(got) != 1 { // its own, older network
		t.Errorf("a holds %d of what it needs", len(got))
	}
	toB, toA := a.Missing(b.Vector()), b.Missing(a.Vector())
	if len(toB) != 2 || len(toA) != 3 || len(b.Select(a.Needs(b.Vector()))) != 3 {
		t.Errorf("to b %d, to a %d", len(toB), len(toA))
	}
	b.Merge(testNow, toB...)
	a.Merge(testNow, toA...)
	if a.Digest() != b.Digest() {
		t.Error("not equal after an exchange")
	}
	if len(a.Missing(b.Vector()))+len(a.Needs(b.Vector())) != 0 {
		t.Error("something is missing still")
	}
}

func TestVectorsTravelAsJSON(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), w.join("a", "b"), []Record{w.network("a", "n")})
	type message struct {
		Digest Digest `json:"digest"`
		Vector Vector `json:"vector"`
	}
	b, err := json.Marshal(message{c.Digest(), c.Vector()})
	if err != nil {
		t.Fatal(err)
	}
	var back message
	if err := json.Unmarshal(b, &back); err != nil || back.Digest != c.Digest() || !reflect.DeepEqual(back.Vector, c.Vector()) {
		t.Errorf("%s: %v", b, err)
	}
	for _, bad := range []string{"1", "1.2", "1.x.y", "1.2.3.4", "-1.2.x", "1.2." + strings.Repeat("a", 65)} {
		if err := new(Version).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is a version", bad)
		}
	}
	if err := new(Digest).UnmarshalText([]byte("00")); err == nil {
		t.Error("a short digest")
	}
}

// The highest (revision, stamp, author, hash) stands, in whatever order they come.
func TestNetworksAreRegisters(t *testing.T) {
	w := newWorld(t)
	lower, higher := "a", "b"
	if nodeID("b") < nodeID("a") {
		lower, higher = higher, lower
	}
	write := func(by string, revision uint64, stamp Millis, vni uint32) Record {
		return w.network(by, "n", func(n *NetworkRecord) { n.Revision, n.Stamp, n.VNI = revision, stamp, vni })
	}
	for name, tc := range map[string]struct{ wins, loses Record }{
		"revision": {write("a", 2, 1, 1), write("b", 1, 9, 2)},
		"stamp":    {write(lower, 1, 2, 1), write(higher, 1, 1, 2)},
		"author":   {write(higher, 1, 1, 1), write(lower, 1, 1, 2)},
	} {
		for _, recs := range [][]Record{{tc.wins, tc.loses}, {tc.loses, tc.wins}} {
			n, ok := w.filled(w.founding(), w.join("a", "b"), recs[:1], recs[1:]).View().Network("n")
			if !ok || n.VNI != 1 {
				t.Errorf("%s: %+v", name, n)
			}
		}
	}
}

func TestStraysAreBounded(t *testing.T) {
	w := newWorld(t)
	var recs []Record
	for i := range maxStrays + 10 {
		recs = append(recs, w.document(fmt.Sprint("x", i)))
	}
	c := w.filled(w.founding(), recs)
	if len(c.strays.all) != maxStrays {
		t.Errorf("%d strays", len(c.strays.all))
	}
	if c.strays.all[recs[0].sum()].entry != nil || c.strays.all[recs[len(recs)-1].sum()].entry == nil {
		t.Error("the oldest did not go first")
	}
	if _, ok := c.Certificate(nodeID("a")); !ok {
		t.Error("no certificate of a")
	}
}
