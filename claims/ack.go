package claims

import "github.com/meshd/meshd/catalog"

// Ack is a member's answer to a node that asks whether its document was applied.
type Ack struct {
	Held    catalog.DocumentVersion `json:"held"`    // of the asker's document, as the member holds and has applied it
	Own     catalog.DocumentVersion `json:"own"`     // of the member's own document after that; zero if it has none
	Shutout catalog.Digest          `json:"shutout"` // of the revocations that the member holds
}

// Acknowledge is what the holder of c answers to asker, whose document it has applied.
func Acknowledge(c *catalog.Catalog, self, asker catalog.NodeID) Ack {
	ack := Ack{Shutout: c.Shutout()}
	_, ack.Held, _ = c.Document(asker)
	_, ack.Own, _ = c.Document(self)
	return ack
}

// Counts says whether an acknowledgement counts for the holder of c, who asked for version
// asked of its document.
//
//   - The member holds that document or the latest: exactly, not one that sorts later.
//     After a rollback the member may hold one that the asker has forgotten, without the claim.
//   - The member's own document is here, as new as it was then: a claim that the member
//     had made by then is known here.
//   - Both know the same revocations. Else one could use the block of a host that the other
//     has not shut out yet.
//
// If it does not count, comparing the two catalogs is what helps.
func Counts(c *catalog.Catalog, self, member catalog.NodeID, asked catalog.DocumentVersion, ack Ack) bool {
	if _, latest, ok := c.Document(self); ack.Held != asked && (!ok || ack.Held != latest) {
		return false
	}
	if ack.Own != (catalog.DocumentVersion{}) {
		if _, held, ok := c.Document(member); !ok || held.Less(ack.Own) {
			return false
		}
	}
	return ack.Shutout == c.Shutout()
}
