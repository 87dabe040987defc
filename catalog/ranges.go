package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// Comparing catalogs by ranges: two hosts tell each other digests of ranges of records, cut
// those that differ in sixteen, and so on, until a range is so small that listing it costs
// no more. What they say then grows with what differs, and with the logarithm of what there is.

// Prefix is a range of records: those whose id has a SHA-256 that begins with it, in lower-case
// hex. The empty one is all.
type Prefix string

const (
	fanout      = 16 // ranges that a range is cut into: one hex digit more
	maxPrefix   = 12 // hex digits: what is smaller is not cut
	listAt      = 16 // a range with so few records is listed
	branchBytes = 8  // of a range's digest that are told
)

// UnmarshalText reads a prefix.
func (p *Prefix) UnmarshalText(text []byte) error {
	for _, c := range text {
		if c < '0' || c > '9' && c < 'a' || c > 'f' {
			return fmt.Errorf("range %.20q is not in lower-case hex", text)
		}
	}
	if len(text) > maxPrefix {
		return fmt.Errorf("range %.20q has more than %d digits", text, maxPrefix)
	}
	*p = Prefix(text)
	return nil
}

func (p Prefix) part(i int) Prefix { return p + Prefix("0123456789abcdef"[i:i+1]) }

// Summary is a range, cut into its parts.
type Summary struct {
	Prefix  Prefix      `json:"prefix"`
	Counts  [fanout]int `json:"counts"`  // records in each part
	Digests []byte      `json:"digests"` // branchBytes of each part's digest: what its records' marks make together
}

func (s Summary) digest(i int) []byte { return s.Digests[i*branchBytes : (i+1)*branchBytes] }

// Differences is what to do about ranges that differ.
type Differences struct {
	Deeper []Prefix // ask for their summaries
	List   []Prefix // exchange vectors of them
	Give   []Prefix // send all that is in them: the other has nothing there
}

// mark stands for one version of a record in digests.
func mark(id RecordID, v Version) Digest {
	return sha256.Sum256([]byte(string(id) + "\x00" + v.String()))
}

// place is where in the ranges a record lies.
func place(id RecordID) Prefix {
	sum := sha256.Sum256([]byte(id))
	return Prefix(hex.EncodeToString(sum[:maxPrefix/2]))
}

// spot is a record as the ranges see it.
type spot struct {
	place Prefix
	mark  Digest
}

// summarize makes summaries of ranges, in one go over everything.
func summarize(prefixes []Prefix, each func(yield func(spot) bool)) []Summary {
	all := make([]Summary, len(prefixes))
	at := map[Prefix]int{}
	lengths := map[int]bool{}
	for i, p := range prefixes {
		all[i] = Summary{Prefix: p, Digests: make([]byte, fanout*branchBytes)}
		if _, twice := at[p]; !twice && len(p) < maxPrefix {
			at[p], lengths[len(p)] = i, true
		}
	}
	for s := range each {
		for length := range lengths {
			i, wanted := at[s.place[:length]]
			if !wanted {
				continue
			}
			part := hexDigit(s.place[length])
			all[i].Counts[part]++
			digest := all[i].digest(part)
			for b := range digest {
				digest[b] ^= s.mark[b]
			}
		}
	}
	return all
}

func hexDigit(c byte) int {
	if c >= 'a' {
		return int(c-'a') + 10
	}
	return int(c - '0')
}

// differences compares summaries of another with one's own of the same ranges.
func differences(theirs, ours []Summary) Differences {
	var d Differences
	for i, t := range theirs {
		if len(t.Digests) != fanout*branchBytes {
			d.List = append(d.List, t.Prefix) // it is a peer's: nothing to cut by
			continue
		}
		for part := range fanout {
			have, has := ours[i].Counts[part], t.Counts[part]
			p := t.Prefix.part(part)
			switch {
			case len(t.Prefix) >= maxPrefix, have == has && string(ours[i].digest(part)) == string(t.digest(part)):
			case has == 0:
				d.Give = append(d.Give, p)
			case have == 0, have+has <= 2*listAt, len(p) == maxPrefix:
				d.List = append(d.List, p)
			default:
				d.Deeper = append(d.Deeper, p)
			}
		}
	}
	return d
}

func prefixesOf(s []Summary) []Prefix {
	prefixes := make([]Prefix, len(s))
	for i := range s {
		prefixes[i] = s[i].Prefix
	}
	return prefixes
}

// within tells whether a place lies in one of the ranges.
func within(prefixes []Prefix) func(Prefix) bool {
	wanted, lengths := map[Prefix]bool{}, map[int]bool{}
	for _, p := range prefixes {
		wanted[p], lengths[len(p)] = true, true
	}
	return func(place Prefix) bool {
		for length := range lengths {
			if length <= len(place) && wanted[place[:length]] {
				return true
			}
		}
		return false
	}
}

func (c *Catalog) spots(yield func(spot) bool) {
	for _, e := range c.entries {
		if !yield(e.spot) {
			return
		}
	}
}

// Summaries describes ranges of what the catalog holds, in the order asked for.
func (c *Catalog) Summaries(prefixes []Prefix) []Summary { return summarize(prefixes, c.spots) }

// Differences compares what another host says of ranges with what the catalog holds.
func (c *Catalog) Differences(theirs []Summary) Differences {
	return differences(theirs, c.Summaries(prefixesOf(theirs)))
}

// VectorIn says what the catalog holds in some ranges.
func (c *Catalog) VectorIn(prefixes []Prefix) Vector {
	v, in := Vector{}, within(prefixes)
	for id, e := range c.entries {
		if in(e.spot.place) {
			v[id] = e.version
		}
	}
	return v
}

// MissingIn is Missing, of the records in some ranges.
func (c *Catalog) MissingIn(prefixes []Prefix, v Vector) []Record {
	in := within(prefixes)
	return c.collect(func(e *entry) bool {
		theirs, ok := v[e.id]
		return in(e.spot.place) && (!ok || theirs.Less(e.version))
	})
}

// Summaries describes ranges of what the holder of the vector holds.
func (v Vector) Summaries(prefixes []Prefix) []Summary {
	return summarize(prefixes, func(yield func(spot) bool) {
		for _, id := range slices.Sorted(maps.Keys(v)) {
			if !yield(spot{place(id), mark(id, v[id])}) {
				return
			}
		}
	})
}

// Differences compares what another host says of ranges with what is in the vector.
func (v Vector) Differences(theirs []Summary) Differences {
	return differences(theirs, v.Summaries(prefixesOf(theirs)))
}

// In returns what the vector holds in some ranges.
func (v Vector) In(prefixes []Prefix) Vector {
	in, out := within(prefixes), Vector{}
	for id, version := range v {
		if in(place(id)) {
			out[id] = version
		}
	}
	return out
}
