package catalog

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// keyOf makes a key of a name, the same every time.
func keyOf(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func pub(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func mustSign(t testing.TB, k ed25519.PrivateKey, kind Kind, body any) Record {
	t.Helper()
	r, err := Sign(k, kind, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIdentities(t *testing.T) {
	mesh, node := MeshIDOf(pub(keyOf("mesh"))), NodeIDOf(pub(keyOf("node")))
	if len(mesh) != 26 || !mesh.Valid() || !node.Valid() {
		t.Fatalf("ids %q %q", mesh, node)
	}
	for _, bad := range []NodeID{"", "a", node + "a", node[:25], NodeID(strings.ToUpper(string(node))), node[:25] + "7"} {
		if bad != node && bad.Valid() {
			t.Errorf("%q is valid", bad)
		}
	}
	p := MeshPrefix(mesh)
	if p.Bits() != 48 || p.Addr().As16()[0] != 0xfd || p.Masked() != p {
		t.Errorf("prefix %s", p)
	}
	a := MeshAddress(mesh, node)
	if !p.Contains(a) || a.As16()[6]&hostBit == 0 {
		t.Errorf("address %s in %s", a, p)
	}
	if MeshAddress(mesh, "x").IsValid() || MeshAddress("x", node).IsValid() || MeshPrefix("").IsValid() {
		t.Error("a malformed id has an address")
	}
}

func TestWireGuardKeyText(t *testing.T) {
	k := WireGuardKey{1, 2, 255}
	b, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	var back WireGuardKey
	if err := json.Unmarshal(b, &back); err != nil || back != k {
		t.Fatalf("%s: %v %v", b, back, err)
	}
	for _, bad := range []string{"", "AA==", strings.Repeat("A", 44), strings.Repeat("A", 43) + "\n"} {
		if err := back.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestSignAndVerify(t *testing.T) {
	k, mesh := keyOf("a"), MeshIDOf(pub(keyOf("mesh")))
	doc := Document{Mesh: mesh, Epoch: 1, Sequence: 1, Name: "host"}
	r := mustSign(t, k, KindDocument, doc)
	if err := r.Verify(); err != nil {
		t.Fatal(err)
	}
	got, err := Decode[Document](r)
	if err != nil || got.Name != "host" {
		t.Fatal(got, err)
	}
	bad := map[string]Record{
		"other kind":   {KindNetwork, r.Body, r.Author, r.Signature},
		"other body":   {r.Kind, append([]byte(" "), r.Body...), r.Author, r.Signature},
		"other author": {r.Kind, r.Body, pub(keyOf("b")), r.Signature},
		"no signature": {r.Kind, r.Body, r.Author, nil},
	}
	for name, b := range bad {
		if err := b.Verify(); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]Record{
		"unknown kind": {"x", r.Body, r.Author, r.Signature},
		"short author": {r.Kind, r.Body, r.Author[:4], r.Signature},
		"large":        {r.Kind, make([]byte, MaxDocument+1), r.Author, r.Signature},
	} {
		if err := b.Verify(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Decode[Signer](r); !errors.Is(err, ErrMalformed) {
		t.Errorf("a document decodes as signer: %v", err)
	}
	if _, err := Sign(k, KindSigner, doc); !errors.Is(err, ErrMalformed) {
		t.Errorf("signed a document as signer: %v", err)
	}
}

func TestDecodeRefusesMalformedBodies(t *testing.T) {
	mesh := MeshIDOf(pub(keyOf("mesh")))
	good := NetworkRecord{Register: Register{Revision: 1}, Mesh: mesh, Name: "n", VNI: 1,
		Subnet4: netip.MustParsePrefix("10.0.0.0/16"), Subnet6: netip.MustParsePrefix("fd00::/64")}
	edit := func(f func(*NetworkRecord)) NetworkRecord { n := good; f(&n); return n }
	if _, err := Sign(keyOf("a"), KindNetwork, good); err != nil {
		t.Fatal(err)
	}
	for want, body := range map[string]any{
		"host bits set: use 10.0.0.0/16": edit(func(n *NetworkRecord) { n.Subnet4 = netip.MustParsePrefix("10.0.0.1/16") }),
		"from /8 to /29":                 edit(func(n *NetworkRecord) { n.Subnet4 = netip.MustParsePrefix("10.0.0.0/30") }),
		"not an IPv6":                    edit(func(n *NetworkRecord) { n.Subnet6 = n.Subnet4 }),
		"vni 0":                          edit(func(n *NetworkRecord) { n.VNI = 0 }),
		"not allowed":                    edit(func(n *NetworkRecord) { n.Name = "A b" }),
		"mesh id":                        edit(func(n *NetworkRecord) { n.Mesh = "x" }),
		"before 1970":                    edit(func(n *NetworkRecord) { n.Created = -1 }),
	} {
		if _, err := Sign(keyOf("a"), KindNetwork, body); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	endpoint := func(e string) string {
		return fmt.Sprintf(`{"mesh":%q,"epoch":1,"sequence":1,"endpoints":[%s]}`, mesh, e)
	}
	for name, body := range map[string]string{
		"trailing data": endpoint("") + "{}",
		"no epoch":      fmt.Sprintf(`{"mesh":%q}`, mesh),
		"bad id":        endpoint(`{"id":"x","health":"healthy"}`),
		"bad health":    endpoint(`{"id":"0123456789ab","health":"fine"}`),
		"bad mac":       endpoint(`{"id":"0123456789ab","health":"healthy","attachments":[{"network":"n","mac":"01:00:00:00:00:00"}]}`),
		"twice":         endpoint(`{"id":"0123456789ab","health":"healthy"},{"id":"0123456789ab","health":"healthy"}`),
		"occupied":      fmt.Sprintf(`{"mesh":%q,"epoch":1,"sequence":1,"occupied":[{"protocol":"udp","number":1},{"protocol":"tcp","number":1}]}`, mesh),
		"not an object": `[]`,
		"empty":         ``,
	} {
		if _, err := Decode[Document](Record{Kind: KindDocument, Body: []byte(body)}); !errors.Is(err, ErrMalformed) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	mesh := MeshIDOf(pub(keyOf("mesh")))
	for i, r := range []Record{
		mustSign(f, keyOf("a"), KindSigner, Signer{Mesh: mesh, Key: pub(keyOf("b"))}),
		mustSign(f, keyOf("a"), KindDocument, Document{Mesh: mesh, Epoch: 1, Sequence: 1}),
		mustSign(f, keyOf("a"), KindService, ServiceRecord{Register: Register{Revision: 1}, Mesh: mesh, Network: "n", Service: "s", Prefer: PreferLocal,
			Publish: []Publish{{8080, 80, "tcp", 1}}, Withdraw: []Port{{"udp", 53}}}),
		mustSign(f, keyOf("a"), KindRevocation, Revocation{Mesh: mesh, Node: NodeIDOf(pub(keyOf("b")))}),
	} {
		f.Add(i, r.Body)
	}
	kinds := []Kind{KindSigner, KindDocument, KindRevocation, KindToken, KindCertificate, KindNetwork, KindService, "x"}
	f.Fuzz(func(t *testing.T, kind int, body []byte) {
		r := Record{Kind: kinds[uint(kind)%uint(len(kinds))], Body: body}
		if _, err := r.open(); err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("unclassified: %v", err)
		}
	})
}
