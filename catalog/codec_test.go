package catalog

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func sampleCatalog(w *world) *Catalog {
	return w.filled(w.founding(), w.join("a", "b"), []Record{w.signer("a", "s"), w.network("b", "n"), w.evict("a", "x")})
}

func TestMarshalAndBack(t *testing.T) {
	w := newWorld(t)
	c := sampleCatalog(w)
	back, err := Unmarshal(c.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if back.Digest() != c.Digest() || !reflect.DeepEqual(back.View(), c.View()) || back.Mesh() != w.mesh {
		t.Error("it comes back changed")
	}
	if _, err := Unmarshal(New(w.mesh).Marshal()); err != nil {
		t.Errorf("empty: %v", err)
	}
}

func TestUnmarshalDoesNotJudgeTimes(t *testing.T) {
	w := newWorld(t)
	c := sampleCatalog(w)
	c.Merge(endOfTime, w.document("b", func(d *Document) { d.Sequence, d.Stamp = 2, endOfTime }))
	if back, err := Unmarshal(c.Marshal()); err != nil || back.Digest() != c.Digest() {
		t.Error(err)
	}
}

func TestUnmarshalTellsOfEveryDamage(t *testing.T) {
	w := newWorld(t)
	good := sampleCatalog(w).Marshal()
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x40
		if _, err := Unmarshal(bad); !errors.Is(err, ErrCorrupt) || strings.Contains(err.Error(), "\n") && i > len(codecMagic) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := Unmarshal(good[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	bad := append([]byte(nil), good...)
	bad[len(bad)-20] ^= 1
	if _, err := Unmarshal(bad); err == nil || !strings.Contains(err.Error(), "record 8 of 8") {
		t.Errorf("the last record: %v", err)
	}
	if _, err := Unmarshal(append(good, 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("something behind: %v", err)
	}
}

func TestUnmarshalBelievesSignaturesOnly(t *testing.T) {
	w := newWorld(t)
	c := sampleCatalog(w)
	e := c.entries["network/n"]
	e.record.Signature[0] ^= 1 // the checksums will be right
	if _, err := Unmarshal(c.Marshal()); !errors.Is(err, ErrSignature) || !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	w := newWorld(f)
	f.Add(sampleCatalog(w).Marshal())
	f.Add([]byte(codecMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Unmarshal(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		c.View()
		if _, err := Unmarshal(c.Marshal()); err != nil {
			t.Fatal(err)
		}
	})
}
