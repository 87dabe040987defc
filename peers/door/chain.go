package door

import (
	"crypto/ed25519"
	"fmt"

	"github.com/meshd/meshd/catalog"
)

// Chain picks from a catalog's records those that prove, from the mesh's key on, that
// node is a member: its certificate, those of its sponsors, and what made the signers of
// their tokens signers; and the evictions of any of these. It is a few kilobytes.
func Chain(records []catalog.Record, node catalog.NodeID) []catalog.Record {
	about := map[catalog.NodeID][]link{}
	for i, record := range records {
		if named, needs, ok := linkOf(record); ok {
			about[named] = append(about[named], link{i, needs})
		}
	}
	picked := make([]bool, len(records))
	seen := map[catalog.NodeID]bool{node: true}
	for queue := []catalog.NodeID{node}; len(queue) > 0; queue = queue[1:] {
		for _, l := range about[queue[0]] {
			picked[l.index] = true
			for _, next := range l.needs {
				if !seen[next] {
					seen[next] = true
					queue = append(queue, next)
				}
			}
		}
	}
	var chain []catalog.Record
	for i, record := range records {
		if picked[i] {
			chain = append(chain, record)
		}
	}
	return chain
}

// link is a record about some node, and the nodes that must be believed to believe it.
type link struct {
	index int
	needs []catalog.NodeID
}

func linkOf(record catalog.Record) (about catalog.NodeID, needs []catalog.NodeID, ok bool) {
	author := catalog.NodeIDOf(record.Author)
	switch record.Kind {
	case catalog.KindCertificate:
		body, err := catalog.Decode[catalog.Certificate](record)
		return catalog.NodeIDOf(body.Node), []catalog.NodeID{author, catalog.NodeIDOf(body.Token.Author)}, err == nil
	case catalog.KindSigner:
		body, err := catalog.Decode[catalog.Signer](record)
		return catalog.NodeIDOf(body.Key), []catalog.NodeID{author}, err == nil
	case catalog.KindRevocation:
		body, err := catalog.Decode[catalog.Revocation](record)
		return body.Node, []catalog.NodeID{author}, err == nil && body.Node != ""
	default:
		return "", nil, false
	}
}

// verifyMember checks that records lead from the mesh's key to key, and that its
// node was not evicted as far as they tell.
func verifyMember(mesh catalog.MeshID, key ed25519.PublicKey, records []catalog.Record, now catalog.Millis) error {
	c := catalog.New(mesh)
	_, rejected := c.Merge(now, records...)
	node := catalog.NodeIDOf(key)
	for _, member := range c.View().Members {
		switch {
		case member.ID != node || !member.Key.Equal(key):
		case member.Evicted:
			return fmt.Errorf("node %s was evicted from the mesh", node)
		default:
			return nil
		}
	}
	if len(rejected) > 0 {
		return fmt.Errorf("node %s is no member of the mesh: %w", node, rejected[0])
	}
	return fmt.Errorf("node %s is no member of the mesh", node)
}
