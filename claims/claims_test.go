package claims

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
)

const testNow catalog.Millis = 1_700_000_000_000

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func pub(name string) ed25519.PublicKey { return keyOf(name).Public().(ed25519.PublicKey) }

func sign(t *testing.T, by string, kind catalog.Kind, body any) catalog.Record {
	t.Helper()
	r, err := catalog.Sign(keyOf(by), kind, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// founded is a catalog of a mesh with members a and b, of which a is the signer.
func founded(t *testing.T) *catalog.Catalog {
	t.Helper()
	mesh := catalog.MeshIDOf(pub("mesh"))
	c := catalog.New(mesh)
	token := sign(t, "a", catalog.KindToken, catalog.Invite{ID: catalog.InviteIDOf(pub("token")), Mesh: mesh, Key: pub("token"), Created: testNow})
	records := []catalog.Record{sign(t, "mesh", catalog.KindSigner, catalog.Signer{Mesh: mesh, Key: pub("a"), Issued: testNow}), token}
	for _, name := range []string{"a", "b"} {
		records = append(records, sign(t, "a", catalog.KindCertificate, catalog.Certificate{
			Mesh: mesh, Node: pub(name), Token: token, Signed: testNow, Invite: ed25519.Sign(keyOf("token"), catalog.InviteMessage(mesh, pub(name))),
		}))
	}
	if _, rejected := c.Merge(testNow, records...); len(rejected) > 0 {
		t.Fatal(errors.Join(rejected...))
	}
	return c
}

func write(t *testing.T, a *Author, c *catalog.Catalog, claim ...catalog.Claim) (catalog.Record, catalog.DocumentVersion) {
	t.Helper()
	r, v, err := a.Write(c, testNow, func(d *catalog.Document) {
		d.Epoch = max(d.Epoch, 1)
		for _, one := range claim {
			d.Claims = Add(d.Claims, one)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, v
}

func block(n uint32) catalog.Claim {
	return catalog.Claim{Network: "n", Block: n, Stamp: testNow}
}

func TestCounts(t *testing.T) {
	c := founded(t)
	a, b := NewAuthor(c, keyOf("a"), "1"), NewAuthor(c, keyOf("b"), "1")
	_, asked := write(t, a, c, block(1))
	_, latest := write(t, a, c, block(2))
	_, old := write(t, b, c)
	_, own := write(t, b, c)
	forgotten := latest
	forgotten.Epoch += 3
	ahead := own
	ahead.Sequence++
	for what, tc := range map[string]struct {
		ack  Ack
		want bool
	}{
		"what was asked about":          {Ack{asked, own, c.Shutout()}, true},
		"the latest":                    {Ack{latest, own, c.Shutout()}, true},
		"a document that was forgotten": {Ack{forgotten, own, c.Shutout()}, false},
		"none":                          {Ack{catalog.DocumentVersion{}, own, c.Shutout()}, false},
		"the member's is older":         {Ack{asked, old, c.Shutout()}, true},
		"the member's is not here":      {Ack{asked, ahead, c.Shutout()}, false},
		"the member has none":           {Ack{Held: asked, Shutout: c.Shutout()}, true},
		"another eviction":              {Ack{asked, own, catalog.Digest{1}}, false},
	} {
		if got := Counts(c, a.self, b.self, asked, tc.ack); got != tc.want {
			t.Errorf("%s: counts %v", what, got)
		}
	}
}

func TestShutoutFollowsEvictionsOnly(t *testing.T) {
	c := founded(t)
	before := c.Shutout()
	write(t, NewAuthor(c, keyOf("b"), "1"), c)
	if c.Shutout() != before {
		t.Error("a document changed it")
	}
	c.Merge(testNow, sign(t, "a", catalog.KindRevocation, catalog.Revocation{Mesh: c.Mesh(), Node: catalog.NodeIDOf(pub("b")), Issued: testNow}))
	if c.Shutout() == before {
		t.Error("an eviction did not change it")
	}
}

// A host whose disk was rolled back goes on from what its peers remember.
func TestRolledBack(t *testing.T) {
	c, old := founded(t), founded(t)
	before := NewAuthor(c, keyOf("a"), "before")
	first, _ := write(t, before, c, block(1))
	old.Merge(testNow, first) // the snapshot
	_, _, err := before.Write(c, testNow, func(d *catalog.Document) { d.Epoch, d.Claims = 7, []catalog.Claim{block(2)} })
	if err != nil {
		t.Fatal(err)
	}
	after := NewAuthor(old, keyOf("a"), "after")
	write(t, after, old, block(3))
	old.Merge(testNow, c.Records()...)
	if !after.TakeOver(old) {
		t.Fatal("a later document was not noticed")
	}
	_, version := write(t, after, old)
	want := []catalog.Claim{block(2), block(3)} // what peers know, and what this run claimed; not the snapshot's
	if got := after.Document().Claims; version.Epoch != 8 || !slices.Equal(got, want) {
		t.Errorf("epoch %d, claims %v, want %v", version.Epoch, got, want)
	}
	if after.TakeOver(old) || after.Rival() {
		t.Error("its own document is taken for another's")
	}
}

// Two copies of one identity: who sees that the other went on from its own document stops.
func TestCopyIsNoticed(t *testing.T) {
	one, two := founded(t), founded(t)
	a := NewAuthor(one, keyOf("a"), "one")
	write(t, a, one)
	copied := NewAuthor(two, keyOf("a"), "two")
	write(t, copied, two)
	write(t, a, one)
	two.Merge(testNow, one.Records()...)
	if !copied.TakeOver(two) {
		t.Fatal("the copy does not see the original's document")
	}
	write(t, copied, two)
	one.Merge(testNow, two.Records()...)
	if a.TakeOver(one) || !a.Rival() {
		t.Fatal("the original does not notice the copy")
	}
	if _, _, err := a.Write(one, testNow, func(*catalog.Document) {}); !errors.Is(err, ErrRival) {
		t.Errorf("it goes on writing: %v", err)
	}
}

// A review gives up what was lost, and gives back what was empty for long enough; of a network
// that is not known nothing can be said.
func TestReview(t *testing.T) {
	c := founded(t)
	record, err := c.View().ProposeNetwork(catalog.NetworkRequest{Name: "n", Pools: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, PrefixLen: 24, Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	c.Merge(testNow, sign(t, "a", catalog.KindNetwork, record))
	a, b := NewAuthor(c, keyOf("a"), "1"), NewAuthor(c, keyOf("b"), "1")
	older := block(2)
	older.Stamp--
	write(t, b, c, older)
	stranger := catalog.Claim{Network: "unknown", Block: 1, Stamp: testNow}
	write(t, a, c, block(1), block(2), block(3), stranger)
	review := Review{
		View: c.View(), Self: a.self, Claims: a.Document().Claims, Confirmed: []catalog.Claim{block(1), block(2), block(7)},
		Endpoints: []catalog.Endpoint{{Attachments: []catalog.Attachment{{Network: "n", Index: 8}}}}, Now: time.Hour, Rest: time.Minute,
	}
	first := review.Find()
	want := Findings{Lost: []catalog.Claim{block(2)}, Void: []catalog.Claim{block(2), block(7)}, Idle: map[catalog.Claim]time.Duration{block(3): time.Hour}}
	if !reflect.DeepEqual(first, want) {
		t.Errorf("found %+v, want %+v", first, want)
	}
	review.Idle, review.Now = first.Idle, time.Hour+time.Minute-1
	if got := review.Find().Empty; got != nil {
		t.Errorf("%v go back too early", got)
	}
	review.Now++
	if got := review.Find().Empty; !slices.Equal(got, []catalog.Claim{block(3)}) {
		t.Errorf("%v go back", got)
	}
	gone, err := c.View().RemoveNetwork("n", testNow)
	if err != nil {
		t.Fatal(err)
	}
	c.Merge(testNow, sign(t, "a", catalog.KindNetwork, gone))
	review.View = c.View()
	if got := review.Find(); len(got.Lost) != 3 || len(got.Idle) != 0 {
		t.Errorf("of a network that was removed: %+v", got)
	}
}
