package claims

import (
	"cmp"
	"slices"

	"github.com/meshd/meshd/catalog"
)

// compare orders claims as a document holds them.
func compare(a, b catalog.Claim) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Block, b.Block))
}

// Step is what a node does next to get an address on a network.
type Step int

const (
	// Hand out Index.
	Hand Step = iota
	// Ask all members believed alive to acknowledge Claim, which stands in the document.
	Ask
	// Make Claim: write it into the document, then Ask.
	Make
	// Full: the network has no block left.
	Full
)

// Next is a step and what it is about.
type Next struct {
	Step  Step
	Index uint32        // of Hand
	Claim catalog.Claim // of Ask and Make
}

// Request is a node's need of an address.
type Request struct {
	View      *catalog.View
	Network   string
	Self      catalog.NodeID
	Claims    []catalog.Claim          // of this node's document
	Confirmed func(catalog.Claim) bool // the claim, with this stamp, was acknowledged by all
	Busy      func(index uint32) bool  // held by an endpoint of this host, or at rest
	Now       catalog.Millis
}

// Plan says what to do next to get an address: hand one out of a block that is owned and
// was acknowledged, or get one more block. That a claim was acknowledged is known of its
// stamp as well: a block that was lost and claimed again has to be acknowledged again.
func Plan(r Request) Next {
	n, _ := r.View.Network(r.Network)
	usable := map[uint32]bool{}
	var unasked *catalog.Claim
	for i, c := range r.Claims {
		if c.Network != r.Network || n.Blocks[c.Block] != r.Self {
			continue
		}
		if r.Confirmed(c) {
			usable[c.Block] = true
		} else if unasked == nil {
			unasked = &r.Claims[i]
		}
	}
	index, ok := r.View.FreeIndex(r.Network, r.Self, func(i uint32) bool {
		block, ok := n.Space.BlockOf(i)
		return !ok || !usable[block] || r.Busy(i)
	})
	if ok {
		return Next{Step: Hand, Index: index}
	}
	if unasked != nil {
		return Next{Step: Ask, Claim: *unasked}
	}
	block, ok := r.View.NextClaim(r.Network, r.Self, r.Now)
	if !ok {
		return Next{Step: Full}
	}
	return Next{Step: Make, Claim: catalog.Claim{Network: r.Network, Block: block, Stamp: r.Now}}
}

// PlanAt is Plan for one address in particular. Full means that it is not to be had here: it
// is none of an endpoint's, it is busy, or its block is another node's.
func PlanAt(r Request, index uint32) Next {
	n, _ := r.View.Network(r.Network)
	block, ok := n.Space.BlockOf(index)
	owner, owned := n.Blocks[block]
	if !ok || r.Busy(index) || owned && owner != r.Self {
		return Next{Step: Full}
	}
	at := slices.IndexFunc(r.Claims, func(c catalog.Claim) bool { return c.Network == r.Network && c.Block == block })
	switch {
	case at < 0:
		return Next{Step: Make, Claim: catalog.Claim{Network: r.Network, Block: block, Stamp: r.Now}}
	case r.Confirmed(r.Claims[at]):
		return Next{Step: Hand, Index: index}
	default:
		return Next{Step: Ask, Claim: r.Claims[at]}
	}
}

// Won says whether a claim that all have acknowledged is the node's: it stands in its
// document as it was, and nobody has an older one. A claim that lost is to be removed.
func Won(view *catalog.View, self catalog.NodeID, own []catalog.Claim, c catalog.Claim) bool {
	n, ok := view.Network(c.Network)
	return ok && n.Blocks[c.Block] == self && slices.Contains(own, c)
}

// Lost returns the claims of a node's document that older ones of others stand against, and
// those on networks that were removed. A network that is not known may only not have come yet.
func Lost(view *catalog.View, self catalog.NodeID, own []catalog.Claim) []catalog.Claim {
	var lost []catalog.Claim
	for _, c := range own {
		n, known := view.Network(c.Network)
		owner, claimed := n.Blocks[c.Block]
		if known && claimed && owner != self || view.Removed(c.Network) {
			lost = append(lost, c)
		}
	}
	return lost
}

// InUse returns those of a node's claims that hold an address of one of its endpoints, or
// one at rest, for which the caller adds an endpoint. A node that starts goes on with these alone. The others may be an old snapshot's, given
// back long ago, and another's by now.
func InUse(view *catalog.View, own []catalog.Claim, endpoints []catalog.Endpoint) []catalog.Claim {
	type block struct {
		network string
		index   uint32
	}
	used := map[block]bool{}
	for _, e := range endpoints {
		for _, a := range e.Attachments {
			if n, ok := view.Network(a.Network); ok {
				if b, ok := n.Space.BlockOf(a.Index); ok {
					used[block{a.Network, b}] = true
				}
			}
		}
	}
	var out []catalog.Claim
	for _, c := range own {
		if used[block{c.Network, c.Block}] {
			out = append(out, c)
		}
	}
	return out
}

// Place is an endpoint's presence on a network.
type Place struct {
	Endpoint string
	Network  string
}

// Displaced returns where endpoints of this node stand that the view does not show: their
// address is another's now, as after two halves of a mesh had given it out both. They
// are off the network already, for the desired state follows from the view; each
// needs another address. Nobody is displaced from a network that is not known, or
// while the node itself counts for nothing.
func Displaced(view *catalog.View, self catalog.NodeID, endpoints []catalog.Endpoint) []Place {
	m, ok := view.Member(self)
	if !ok || !m.Known || m.Evicted || m.Left {
		return nil
	}
	shown := map[Place]bool{}
	for _, n := range view.Networks {
		for _, e := range n.Endpoints {
			if e.Node == self {
				shown[Place{e.ID, n.Name}] = true
			}
		}
	}
	var out []Place
	for _, e := range endpoints {
		for _, a := range e.Attachments {
			_, known := view.Network(a.Network)
			if p := (Place{e.ID, a.Network}); known && a.Index != 0 && !shown[p] {
				out = append(out, p)
			}
		}
	}
	return out
}
