package catalog

import (
	"cmp"
	"slices"
	"time"
)

// Quarantine is how long the blocks of a host that left, or was evicted, belong to nobody: others may
// still have its endpoints' addresses in caches and connections. Its measure is the time that was
// signed with the removal, so clocks that differ make it shorter or longer, and nothing else.
const Quarantine = 10 * time.Minute

// vacated is a claim of a host that is gone on purpose, and when it went.
type vacated struct {
	Claim
	at Millis
}

// vacatedClaims is those of hosts that left, which their documents say, and of evicted ones, whose
// documents are gone: the revocation says what the signer saw.
func (c *Catalog) vacatedClaims(members []Member) []vacated {
	var all []vacated
	for _, r := range c.trust.evicted {
		for _, claim := range r.Claims {
			all = append(all, vacated{claim, r.Issued})
		}
	}
	for _, m := range members {
		if !m.Left {
			continue
		}
		doc, _, _ := c.Document(m.ID)
		for _, claim := range doc.Claims {
			all = append(all, vacated{claim, doc.Stamp})
		}
	}
	slices.SortFunc(all, func(a, b vacated) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Block, b.Block), cmp.Compare(a.at, b.at))
	})
	return all
}

// Quarantined returns the blocks of a network that hosts which are gone had until lately, and until
// when each belongs to nobody.
func (v *View) Quarantined(network string, now Millis) map[uint32]Millis {
	until := map[uint32]Millis{}
	for _, x := range v.vacated {
		if end := x.at.Add(Quarantine); x.Network == network && now < end {
			until[x.Block] = max(until[x.Block], end)
		}
	}
	return until
}
