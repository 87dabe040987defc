package catalog

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// dialogue compares two catalogs as hosts do, and counts what is said, records apart.
type dialogue struct {
	t              *testing.T
	a, b           *Catalog
	said, messages int
	records        int
}

func (d *dialogue) say(x any) {
	d.t.Helper()
	text, err := json.Marshal(x)
	if err != nil {
		d.t.Fatal(err)
	}
	d.said += len(text)
	d.messages++
}

func (d *dialogue) send(to *Catalog, records []Record) {
	d.t.Helper()
	d.records += len(records)
	if _, rejected := to.Merge(testNow, records...); len(rejected) > 0 {
		d.t.Fatal(rejected[0])
	}
}

func (d *dialogue) run() {
	d.t.Helper()
	d.say(d.a.Digest())
	var list []Prefix
	for ask := []Prefix{""}; len(ask) > 0; {
		theirs := d.b.Summaries(ask)
		d.say(ask)
		d.say(theirs)
		diff := d.a.Differences(theirs)
		d.send(d.b, d.a.MissingIn(diff.Give, nil))
		list = append(list, diff.List...)
		ask = diff.Deeper
	}
	ours := d.a.VectorIn(list)
	d.say(list)
	d.say(ours)
	needs := d.b.Needs(ours)
	d.send(d.a, d.b.MissingIn(list, ours))
	d.say(needs)
	d.send(d.b, d.a.Select(needs))
}

func (w *world) large(documents int) []Record {
	var all []Record
	for i := range documents {
		all = append(all, w.network("a", fmt.Sprintf("net%d", i)))
	}
	return all
}

// What two hosts say to become equal follows what differs, not what there is.
func TestComparingCostsWhatDiffers(t *testing.T) {
	w := newWorld(t)
	var one []int
	for _, size := range []int{100, 700, 3000} {
		records := w.large(size)
		a, b := w.filled(w.founding(), records), w.filled(w.founding(), records)
		a.Merge(testNow, w.network("a", "net7", func(n *NetworkRecord) { n.Revision = 9 }))
		d := &dialogue{t: t, a: a, b: b}
		d.run()
		vector, err := json.Marshal(a.Vector())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d records, one differs: %d bytes in %d messages; the whole vector has %d", size, d.said, d.messages, len(vector))
		if a.Digest() != b.Digest() || d.records != 1 {
			t.Errorf("%d records: %d were sent", size, d.records)
		}
		one = append(one, d.said)
	}
	if one[2] > 3*one[0] || one[2] > 6000 {
		t.Errorf("one difference costs %v bytes at 100, 700 and 3,000 records", one)
	}

	records := w.large(1000)
	var many []int
	for _, changed := range []int{1, 10, 100} {
		a, b := w.filled(w.founding(), records), w.filled(w.founding(), records)
		for i := range changed {
			a.Merge(testNow, w.network("a", fmt.Sprintf("net%d", i*7), func(n *NetworkRecord) { n.Revision = 9 }))
		}
		d := &dialogue{t: t, a: a, b: b}
		d.run()
		if a.Digest() != b.Digest() || d.records != changed {
			t.Errorf("%d changes: %d were sent", changed, d.records)
		}
		many = append(many, d.said)
	}
	t.Logf("1, 10 and 100 of 1,000 differ: %d bytes", many)
	if many[1] > 20*many[0] || many[2] > 200*many[0] {
		t.Errorf("1, 10 and 100 differences cost %v bytes", many)
	}
}

// Whatever the two hold, one exchange makes them equal.
func TestRangesFindEveryDifference(t *testing.T) {
	w := newWorld(t)
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 7))
		size := 1 + r.IntN(200)
		var forA, forB []Record
		for i := range size {
			x := w.network("a", fmt.Sprintf("net%d", i))
			switch r.IntN(6) {
			case 0:
				forA = append(forA, x)
			case 1:
				forB = append(forB, x)
			case 2:
				forA = append(forA, x)
				forB = append(forB, w.network("a", fmt.Sprintf("net%d", i), func(n *NetworkRecord) { n.Revision = 5 }))
			default:
				forA, forB = append(forA, x), append(forB, x)
			}
		}
		if seed%10 == 0 {
			forA = nil
		}
		if seed%10 == 1 {
			forB = nil
		}
		a, b := w.filled(w.founding(), forA), w.filled(w.founding(), forB)
		d := &dialogue{t: t, a: a, b: b}
		d.run()
		if a.Digest() != b.Digest() {
			t.Fatalf("seed %d: of %d records not all came over", seed, size)
		}
		if got := a.Vector().Summaries([]Prefix{"", "3"}); fmt.Sprint(got) != fmt.Sprint(a.Summaries([]Prefix{"", "3"})) {
			t.Fatalf("seed %d: the vector and the catalog are cut otherwise", seed)
		}
	}
}

func TestRangesOfAPeerAreChecked(t *testing.T) {
	for _, bad := range []string{`"x"`, `"AB"`, `"0123456789abc"`, `7`} {
		var p Prefix
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("%s is a range", bad)
		}
	}
	w := newWorld(t)
	c := w.filled(w.founding(), w.large(40))
	d := c.Differences([]Summary{{Prefix: "a", Digests: []byte("short")}, {Prefix: "0123456789ab", Digests: make([]byte, 128)}})
	if !slices.Equal(d.List, []Prefix{"a"}) || len(d.Deeper)+len(d.Give) != 0 {
		t.Errorf("%+v", d)
	}
	var boast Summary
	boast.Digests = make([]byte, 128)
	for i := range boast.Counts {
		boast.Counts[i] = 1 << 40
	}
	if d := c.Differences([]Summary{boast}); len(d.Deeper) > 40 {
		t.Errorf("a peer that boasts has %d ranges looked into", len(d.Deeper))
	}
}
