package door

import (
	"crypto/ed25519"
	"fmt"

	"github.com/meshd/meshd/catalog"
)

// Sponsor checks a request against the catalog and makes the joiner's certificate,
// signed with the key of this node at its time now. A node that is a member already gets
// the certificate that it has: its first answer may have been lost, and a token
// that can be used once has been used by then. Sponsor changes nothing; the caller
// merges what it returns, together with the request's Token and Document.
//
// Errors are those of catalog.CheckAdmission, and catalog.ErrFuture if the joiner's
// clock is so far ahead that no member would take its document.
func Sponsor(c *catalog.Catalog, key ed25519.PrivateKey, req Request, now catalog.Millis) (catalog.Record, error) {
	node := catalog.NodeIDOf(req.Node)
	for _, member := range c.View().Members {
		if member.ID != node || member.Evicted {
			continue
		}
		if certificate, ok := c.Certificate(node); ok {
			return certificate, nil
		}
	}
	admission := catalog.Admission{Token: req.Token, Invite: req.Invite, Node: req.Node, Now: now}
	if err := catalog.CheckAdmission(c.View(), admission); err != nil {
		return catalog.Record{}, fmt.Errorf("admitting node %s: %w", node, err)
	}
	document, err := catalog.Decode[catalog.Document](req.Document)
	if err != nil {
		return catalog.Record{}, fmt.Errorf("admitting node %s: %w", node, err)
	}
	if document.Stamp > now.Add(catalog.MaxSkew) {
		return catalog.Record{}, fmt.Errorf("admitting node %s: its document: %w", node, catalog.ErrFuture)
	}
	certificate, err := catalog.Sign(key, catalog.KindCertificate, catalog.Certificate{
		Mesh: c.Mesh(), Node: req.Node, Token: req.Token, Invite: req.Invite, Signed: now,
	})
	if err != nil {
		return catalog.Record{}, fmt.Errorf("certifying node %s: %w", node, err)
	}
	return certificate, nil
}
