package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
)

// Bug is something wrong that a test plants in the simulated hosts, to see it caught. The
// product's own code is never changed.
type Bug string

const (
	none             Bug = ""
	noAcks           Bug = "claims are used without asking"
	ackBeforeFence   Bug = "a member acknowledges before it has applied"
	ackBeforeWrite   Bug = "a member acknowledges before it has written"
	unsettled        Bug = "a host that just started asks nobody"
	confirmedByBlock Bug = "a block that was lost and claimed again needs no new acknowledgement"
	noAntiEntropy    Bug = "catalogs are never compared"
	forgetFailed     Bug = "the documents of silent members are dropped"
	reviveEndpoints  Bug = "a rolled back host believes in endpoints that are gone"
	trustForged      Bug = "a forged record is accepted"
	trustFuture      Bug = "a record of the far future is accepted"
	oldEpochs        Bug = "an older document is taken for a newer one"
	keepEvicted      Bug = "a host ignores evictions"
	fickleVIP        Bug = "virtual IPs move in use"
	sharedVIP        Bug = "two services have one virtual IP"
	ackWithoutDisk   Bug = "a member acknowledges what its full disk did not take"
	noRest           Bug = "an address is handed out again at once"
	youngerStays     Bug = "an endpoint gives way without an older one"
	forgetRemovals   Bug = "removals are forgotten after a while"
	narrowCompare    Bug = "comparing leaves out a range"
	rivalsGoOn       Bug = "a host whose identity was copied goes on"
)

func (b Bug) is(other Bug) bool { return b == other }

// merged is after a merge: the bugs that lie in what a host holds.
func (b Bug) merged(h *host, recs []catalog.Record) {
	switch b {
	case oldEpochs:
		for _, r := range recs {
			if r.Kind != catalog.KindDocument || catalog.NodeIDOf(r.Author) == h.id {
				continue
			}
			_, held, ok := h.cat.Document(catalog.NodeIDOf(r.Author))
			if v, err := catalog.VersionOf(r); err == nil && ok && v.Less(held) {
				h.forget(catalog.NodeIDOf(r.Author))
				h.cat.Merge(h.clock(), r)
			}
		}
	case forgetRemovals:
		without(h, func(r catalog.Record) bool {
			body, err := catalog.Decode[catalog.NetworkRecord](r)
			return r.Kind == catalog.KindNetwork && err == nil && body.Deleted && h.clock() > body.Stamp+5000
		})
	case keepEvicted:
		if h.name != "h1" {
			return
		}
		without(h, func(r catalog.Record) bool { return r.Kind == catalog.KindRevocation })
	}
}

// stopped has a host that should stop for good go on as another run of its agent.
func (b Bug) stopped(h *host) {
	if !b.is(rivalsGoOn) || !h.author.Rival() {
		return
	}
	h.author = claims.NewAuthor(h.cat, h.key, fmt.Sprint(h.name, "-", h.w.number()))
	h.after(time.Second, func() { h.write(func(d *catalog.Document) { d.Endpoints = h.endpoints() }) })
}

// narrow leaves out a sixteenth of what differs.
func (b Bug) narrow(d catalog.Differences) catalog.Differences {
	if !b.is(narrowCompare) {
		return d
	}
	skip := func(p catalog.Prefix) bool { return p[0] == '7' || p[0] == 'c' }
	d.Deeper, d.List, d.Give = slices.DeleteFunc(d.Deeper, skip), slices.DeleteFunc(d.List, skip), slices.DeleteFunc(d.Give, skip)
	return d
}

// displaced has now and then somebody move for nothing.
func (b Bug) displaced(h *host, places []claims.Place) []claims.Place {
	if b.is(youngerStays) && h.w.random.IntN(50) == 0 {
		for _, l := range h.sortedLocals() {
			if plugged(l) {
				return append(places, claims.Place{Endpoint: l.ID, Network: l.Attachments[0].Network})
			}
		}
	}
	return places
}

// services makes one virtual IP of two.
func (b Bug) services(all []catalog.Service) []catalog.Service {
	if b.is(sharedVIP) && len(all) > 1 && all[0].Network == all[1].Network {
		all = slices.Clone(all)
		all[1].VIPIndex = all[0].VIPIndex
	}
	return all
}

// forget drops a member's document.
func (h *host) forget(node catalog.NodeID) {
	without(h, func(r catalog.Record) bool {
		return r.Kind == catalog.KindDocument && catalog.NodeIDOf(r.Author) == node
	})
}

func without(h *host, drop func(catalog.Record) bool) {
	records := h.cat.Records()
	kept := make([]catalog.Record, 0, len(records))
	for _, r := range records {
		if !drop(r) {
			kept = append(kept, r)
		}
	}
	if len(kept) == len(records) {
		return
	}
	h.cat = catalog.New(h.w.mesh)
	h.cat.Merge(h.clock(), kept...)
}
