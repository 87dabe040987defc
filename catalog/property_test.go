package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// pool is a mesh's records of all kinds, with chains of trust, rivals for
// everything there are rivals for, and some that nobody may believe.
func pool(w *world) []Record {
	recs := append(w.founding(), w.join("a", "b")...)
	recs = append(recs, w.join("b", "c")...)
	recs = append(recs, w.join("c", "d")...)
	recs = append(recs, w.join("d", "b")...)                      // a ring of sponsors
	recs = append(recs, w.join("a", "c")[0], w.join("a", "d")[0]) // two sponsors at one time
	signing := w.token("s", "st", func(i *Invite) { i.Signer = true })
	recs = append(recs,
		w.signer("a", "s"), w.signer("s", "r"), w.signer("r", "s"), w.signer("x", "y"),
		signing, w.certificate("c", "e", "st", signing), w.document("e"), w.token("e", "et"),
		w.evict("e", "d"), w.evict("s", "d"), w.evict("d", "a"), w.evict("r", "z"),
		mustSign(w.t, keyOf("e"), KindRevocation, Revocation{Mesh: w.mesh, Token: InviteIDOf(pub(keyOf("tok"))), Issued: testNow}))
	for i, by := range []string{"a", "b", "c", "d", "e", "x"} {
		recs = append(recs,
			w.network(by, "n", func(n *NetworkRecord) { n.Stamp += Millis(i % 2); n.Revision = uint64(1 + i/3) }),
			w.network(by, "m", func(n *NetworkRecord) { n.Created -= Millis(i); n.Deleted = i == 1 }),
			w.service(by, "n", "db", func(s *ServiceRecord) {
				s.Stamp += Millis(i % 2)
				s.Revision = uint64(1 + i/3)
				s.Publish = []Publish{{8080, uint16(80 + i), "tcp", Millis(i)}}
			}),
			w.service(by, "m", "db", func(s *ServiceRecord) {
				s.Revision = uint64(1 + i%2)
				s.Deleted = i%2 == 1
				s.Affinity = AffinityClientIP
			}))
		for seq := range 3 {
			recs = append(recs, w.document(by, func(d *Document) {
				d.Epoch, d.Sequence = 2, uint64(1+seq/2)
				d.MTU = 1400 + seq // two with one version
				for _, n := range []string{"m", "n"} {
					onNetwork(n, uint32(64*(1+i/2)), Millis(10-i), "db")(d)
				}
				d.Endpoints = d.Endpoints[:1]
				d.Endpoints[0].Attachments[0].VIP = 50000
				d.Endpoints[0].Attachments[0].VIPStamp = Millis(i)
			}))
		}
	}
	return recs
}

func deal(t *rapid.T, recs []Record, label string) []Record {
	seed := rapid.Uint64().Draw(t, label)
	rng := rand.New(rand.NewPCG(seed, 1))
	dealt := slices.Clone(recs)
	for range rng.IntN(20) { // duplicates
		dealt = append(dealt, recs[rng.IntN(len(recs))])
	}
	rng.Shuffle(len(dealt), func(i, j int) { dealt[i], dealt[j] = dealt[j], dealt[i] })
	return dealt
}

// mergeInBatches gives a catalog the records in batches of random sizes.
func mergeInBatches(t *rapid.T, c *Catalog, recs []Record) (news []Record) {
	for len(recs) > 0 {
		n := rapid.IntRange(1, len(recs)).Draw(t, "batch")
		got, _ := c.Merge(testNow, recs[:n]...)
		news = append(news, got...)
		recs = recs[n:]
	}
	return news
}

// difference says how two catalogs differ in what they hold; empty: not at all.
func difference(a, b *Catalog) string {
	if a.Digest() != b.Digest() || !reflect.DeepEqual(a.Vector(), b.Vector()) {
		var out []string
		for id, v := range a.Vector() {
			if w, ok := b.Vector()[id]; !ok || v != w {
				out = append(out, fmt.Sprintf("%s: %s and %s", id, v, w))
			}
		}
		return fmt.Sprintf("%d and %d records; %v", len(a.entries), len(b.entries), out)
	}
	if !reflect.DeepEqual(a.View(), b.View()) {
		return "the views differ"
	}
	return ""
}

func TestMergeIsCommutativeAssociativeIdempotent(t *testing.T) {
	w := newWorld(t)
	all := pool(w)
	reference := New(w.mesh)
	reference.Merge(testNow, all...)
	if len(reference.View().Members) != 5 || len(reference.View().Networks) == 0 || len(reference.View().Services) == 0 || len(reference.View().settings) != 2 {
		t.Fatalf("the pool is poor: %+v", reference.View())
	}
	rapid.Check(t, func(t *rapid.T) {
		c := New(w.mesh)
		dealt := deal(t, all, "order")
		mergeInBatches(t, c, dealt)
		if d := difference(reference, c); d != "" {
			t.Fatal(d)
		}
		if news := mergeInBatches(t, c, dealt); len(news) > 0 {
			t.Fatalf("news the second time: %d", len(news))
		}
		// What one holds is enough to make another, in the order in which it is handed out.
		copied := New(w.mesh)
		for _, r := range c.Records() {
			if news, rejected := copied.Merge(testNow, r); len(news) != 1 || len(rejected) > 0 {
				t.Fatalf("%s record: %d news, %v", r.Kind, len(news), rejected)
			}
		}
		if d := difference(c, copied); d != "" {
			t.Fatal(d)
		}
	})
}

func TestNewsAreEnough(t *testing.T) {
	w := newWorld(t)
	all := pool(w)
	rapid.Check(t, func(t *rapid.T) {
		first, second := New(w.mesh), New(w.mesh)
		second.Merge(testNow, deal(t, mergeInBatches(t, first, deal(t, all, "order")), "passed on")...)
		if d := difference(first, second); d != "" {
			t.Fatal(d)
		}
	})
}

func TestAnyTwoMeetByVectors(t *testing.T) {
	w := newWorld(t)
	all := pool(w)
	reference := New(w.mesh)
	reference.Merge(testNow, all...)
	rapid.Check(t, func(t *rapid.T) {
		// Each has the founding and a part of the rest; what has no ground yet is a stray.
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		dealt := deal(t, all, "order")
		a, b := New(w.mesh), New(w.mesh)
		mergeInBatches(t, a, append(w.founding(), dealt[:min(cut, len(dealt))]...))
		mergeInBatches(t, b, append(w.founding(), dealt[min(cut, len(dealt)):]...))
		for round := 0; a.Digest() != b.Digest(); round++ {
			if round == 20 {
				t.Fatal("they do not meet: " + difference(a, b))
			}
			toA, toB := b.Missing(a.Vector()), b.Needs(a.Vector())
			a.Merge(testNow, toA...)
			b.Merge(testNow, a.Select(toB)...)
		}
		if d := difference(a, b) + difference(reference, a); d != "" {
			t.Fatal(d)
		}
	})
}

func TestMarshalAnyCatalog(t *testing.T) {
	w := newWorld(t)
	all := pool(w)
	rapid.Check(t, func(t *rapid.T) {
		c := New(w.mesh)
		dealt := deal(t, all, "order")
		mergeInBatches(t, c, dealt[:rapid.IntRange(0, len(dealt)).Draw(t, "cut")])
		back, err := Unmarshal(c.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if d := difference(c, back); d != "" {
			t.Fatal(d)
		}
	})
}

// ownership is a rule for who owns blocks.
type ownership func(Space, []nodeClaim) map[uint32]NodeID

// badOwnership looks for claims that show a rule to be wrong: owners that depend on the
// order of claims, that did not claim, or that change though only a later claim came.
func badOwnership(rule ownership, rng *rand.Rand) string {
	space := spaceOf(prefix("10.0.0.0/24"))
	claims := make([]nodeClaim, rng.IntN(12))
	for i := range claims {
		node := NodeID(fmt.Sprintf("node%d", rng.IntN(4)))
		claims[i] = nodeClaim{Claim{"n", uint32(rng.IntN(30)) % 26, Millis(rng.IntN(3))}, node}
	}
	owners := rule(space, claims)
	for b, node := range owners {
		if b >= space[0].Layout.Blocks || !slices.ContainsFunc(claims, func(c nodeClaim) bool { return c.Block == b && c.node == node }) {
			return fmt.Sprintf("block %d is %s's without a claim", b, node)
		}
	}
	shuffled := slices.Clone(claims)
	rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if again := rule(space, shuffled); !maps.Equal(owners, again) {
		return fmt.Sprintf("in another order %v, not %v", again, owners)
	}
	for _, c := range claims {
		later := nodeClaim{Claim{"n", c.Block, 99}, "late"}
		if after := rule(space, append(slices.Clone(claims), later)); !maps.Equal(owners, after) {
			return fmt.Sprintf("a later claim makes %v of %v", after, owners)
		}
	}
	return ""
}

func TestBlockOwnership(t *testing.T) {
	choose := func(better func(a, b nodeClaim) bool) ownership {
		return func(s Space, claims []nodeClaim) map[uint32]NodeID {
			best := map[uint32]nodeClaim{}
			for _, c := range claims {
				if old, ok := best[c.Block]; c.Block < s[0].Layout.Blocks && (!ok || better(c, old)) {
					best[c.Block] = c
				}
			}
			owners := map[uint32]NodeID{}
			for b, c := range best {
				owners[b] = c.node
			}
			return owners
		}
	}
	for name, tc := range map[string]struct {
		rule ownership
		good bool
	}{
		"the rule":          {ownBlocks, true},
		"the last to come":  {choose(func(a, b nodeClaim) bool { return true }), false},
		"the first to come": {choose(func(a, b nodeClaim) bool { return false }), false},
		"stamp alone":       {choose(func(a, b nodeClaim) bool { return a.Stamp < b.Stamp }), false},
		"the highest stamp": {choose(func(a, b nodeClaim) bool {
			return cmp.Or(cmp.Compare(b.Stamp, a.Stamp), cmp.Compare(a.node, b.node)) < 0
		}), false},
		"the node alone": {choose(func(a, b nodeClaim) bool { return a.node < b.node }), false},
		"blocks that are not": {func(_ Space, c []nodeClaim) map[uint32]NodeID {
			return ownBlocks(Space{{Layout: Layout{Blocks: 99, BlockSize: 4}}}, c)
		}, false},
		"owners who claim none": {func(_ Space, c []nodeClaim) map[uint32]NodeID { return map[uint32]NodeID{0: "x"} }, false},
	} {
		bad := ""
		for seed := range uint64(2000) {
			if bad = badOwnership(tc.rule, rand.New(rand.NewPCG(seed, 7))); bad != "" {
				break
			}
		}
		if (bad == "") != tc.good {
			t.Errorf("%s: good %v, found %q", name, tc.good, bad)
		}
	}
}
