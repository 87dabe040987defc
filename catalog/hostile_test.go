package catalog

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"
)

// FuzzMember is a member that signs whatever it likes: what is taken can be viewed, stored and passed
// on, and what is not does not hurt.
func FuzzMember(f *testing.F) {
	w := newWorld(f)
	for i, r := range append(w.filled(w.founding(), w.join("a", "b")).Records(),
		w.network("b", "n"), w.document("b", func(d *Document) { d.Epoch = 1<<64 - 1 }), w.evict("a", "b"), w.signer("a", "b")) {
		f.Add(i, string(r.Kind), r.Body)
	}
	authors := []string{"a", "b", "mesh", "x"}
	f.Fuzz(func(t *testing.T, author int, kind string, body []byte) {
		w := newWorld(t)
		c := w.filled(w.founding(), w.join("a", "b"))
		key := keyOf(authors[uint(author)%uint(len(authors))])
		r := Record{Kind: Kind(kind), Body: body, Author: pub(key)}
		r.Signature = ed25519.Sign(key, r.message())
		c.Merge(testNow, r)
		c.View()
		back, err := Unmarshal(c.Marshal())
		if err != nil {
			t.Fatalf("what was taken cannot be read again: %v", err)
		}
		copied := New(w.mesh)
		copied.Merge(testNow, back.Missing(copied.Vector())...)
		if d := difference(c, copied); d != "" {
			t.Fatalf("what was passed on is not what was taken: %s", d)
		}
	})
}

// FuzzVector is a peer that says whatever it likes of what it holds.
func FuzzVector(f *testing.F) {
	w := newWorld(f)
	c := w.filled(w.founding(), w.join("a", "b"))
	whole, err := json.Marshal(c.Vector())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"document/x":"18446744073709551615.0.z","":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v Vector
		if err := json.Unmarshal(data, &v); err != nil {
			return
		}
		if n := len(c.Missing(v)); n > len(c.Records()) {
			t.Fatalf("%d records are missing of %d", n, len(c.Records()))
		}
		for _, id := range c.Needs(v) {
			if _, ok := v[id]; !ok {
				t.Fatalf("%q is needed, which the peer does not hold", id)
			}
		}
	})
}
