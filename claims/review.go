package claims

import (
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
)

// IdleRest is how long a block stays claimed that nobody is in: longer than its addresses
// rest, and long enough that a container which is made anew finds it still there.
const IdleRest = 10 * time.Minute

// Review looks at a node's claims: which were lost, and which nobody needs any more. A node
// does so whenever the catalog has changed, and from time to time.
type Review struct {
	View      *catalog.View
	Self      catalog.NodeID
	Claims    []catalog.Claim                 // of this node's document
	Confirmed []catalog.Claim                 // those that everybody has acknowledged
	Endpoints []catalog.Endpoint              // all that are here, attached or about to be, and what stands for addresses at rest
	Idle      map[catalog.Claim]time.Duration // as the review before found it
	Now       time.Duration                   // by a clock that does not jump
	Rest      time.Duration                   // IdleRest
}

// Findings is what follows from a review.
type Findings struct {
	Lost  []catalog.Claim                 // to give up: an older claim of another stands, or the network was removed
	Empty []catalog.Claim                 // to give back, while no address is being chosen on their network
	Void  []catalog.Claim                 // acknowledged once, and not to be used any more: lost, or no longer in the document
	Idle  map[catalog.Claim]time.Duration // claims that nobody is in, and since when
}

// Find makes the review. Everything is in the order of the claims given.
func (r Review) Find() Findings {
	f := Findings{Lost: Lost(r.View, r.Self, r.Claims), Idle: map[catalog.Claim]time.Duration{}}
	for _, c := range r.Confirmed {
		if !slices.Contains(r.Claims, c) || slices.Contains(f.Lost, c) {
			f.Void = append(f.Void, c)
		}
	}
	used := InUse(r.View, r.Claims, r.Endpoints)
	for _, c := range r.Claims {
		if slices.Contains(used, c) || slices.Contains(f.Lost, c) {
			continue
		}
		if _, known := r.View.Network(c.Network); !known {
			continue // it may only not have come yet, and who is in its blocks cannot be said
		}
		since, ok := r.Idle[c]
		if !ok {
			since = r.Now
		}
		f.Idle[c] = since
		if r.Now-since >= r.Rest {
			f.Empty = append(f.Empty, c)
		}
	}
	return f
}
