package claims

import (
	"slices"

	"github.com/meshd/meshd/catalog"
)

// Revote returns an endpoint as it should stand in its node's document, and whether that
// differs: all replicas say what the virtual IP of their service has become. So one that
// had to give way to an older service stays where it went, whoever ends first.
func Revote(view *catalog.View, e catalog.Endpoint) (catalog.Endpoint, bool) {
	if e.Service == "" {
		return e, false
	}
	changed := false
	for i, a := range e.Attachments {
		s, ok := view.Service(a.Network, e.Service)
		if a.VIP == 0 || !ok || s.VIPIndex == 0 {
			continue
		}
		counts := slices.ContainsFunc(s.Replicas, func(r catalog.NetworkEndpoint) bool { return r.ID == e.ID })
		if !counts || a.VIP == s.VIPIndex && a.VIPStamp == s.VIPStamp && a.VIPMoved == s.VIPMoved {
			continue
		}
		if !changed {
			e.Attachments = slices.Clone(e.Attachments)
			changed = true
		}
		e.Attachments[i].VIP, e.Attachments[i].VIPStamp, e.Attachments[i].VIPMoved = s.VIPIndex, s.VIPStamp, s.VIPMoved
	}
	return e, changed
}
