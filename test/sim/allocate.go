package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
)

// job gives an endpoint the addresses that it lacks, as the agent's allocator does: one
// at a time on a host.
type job struct {
	endpoint string
	move     string // the network on which its address went to another host; else it is new
	until    time.Duration
	done     bool   // it has what it moved for
	round    uint64 // of asking: what answers an older one is void
	waitFor  map[*host]bool
}

// Limits of the agent's allocator.
const (
	claimTimeout = 20 * time.Second
	askRound     = time.Second
	askAgain     = 150 * time.Millisecond
	addressRest  = catalog.Millis(3_000) // a minute on real hosts
)

// attach begins a new endpoint.
func (h *host) attach(network, service string) {
	if n, ok := h.cat.View().Network(network); !ok || h.author.Document().Left || len(n.Endpoints) > 400 {
		return
	}
	n := h.w.number()
	l := agent.Local{Endpoint: catalog.Endpoint{
		ID: fmt.Sprintf("%012x", n), Name: fmt.Sprintf("e%d", n), Service: service, Created: h.clock(), Health: catalog.Healthy,
		Attachments: []catalog.Attachment{{Network: network, MAC: fmt.Sprintf("02:00:00:%02x:%02x:%02x", n>>16&255, n>>8&255, n&255)}},
	}}
	h.locals[l.ID] = l
	if !h.keep() {
		delete(h.locals, l.ID) // it is refused
		return
	}
	h.enqueue(&job{endpoint: l.ID})
}

func (h *host) detach(id string) {
	l, ok := h.locals[id]
	if !ok {
		return
	}
	h.rest(l)
	h.w.freed(h, l)
	delete(h.locals, id)
	h.keep()
	if e := h.w.endpoints[id]; e != nil {
		e.gone = true
	}
	h.write(func(d *catalog.Document) { d.Endpoints = h.endpoints() })
}

func (h *host) working(id string) bool {
	return slices.ContainsFunc(h.jobs, func(j *job) bool { return j.endpoint == id })
}

func (h *host) enqueue(j *job) {
	j.until = h.w.now + claimTimeout*time.Duration(1+len(h.jobs))
	h.jobs = append(h.jobs, j)
	if len(h.jobs) == 1 {
		h.workSoon()
	}
}

func (h *host) workSoon() {
	h.after(between(h.w.random, 50*time.Microsecond, 2*time.Millisecond), h.work)
}

// finish ends the first job and begins the next.
func (h *host) finish() {
	h.jobs = h.jobs[1:]
	if len(h.jobs) > 0 {
		h.workSoon()
	}
}

// fail ends the first job without an address. A new endpoint is refused; one that has to move
// stays off the network, and it is tried again later.
func (h *host) fail(j *job) {
	if j.move == "" {
		h.detach(j.endpoint)
	}
	h.finish()
}

// work does the next step of the first job.
func (h *host) work() {
	if len(h.jobs) == 0 {
		return
	}
	j := h.jobs[0]
	j.round++
	l, ok := h.locals[j.endpoint]
	if !ok {
		h.finish()
		return
	}
	at := slices.IndexFunc(l.Attachments, func(a catalog.Attachment) bool {
		return j.move == "" && a.Index == 0 || a.Network == j.move && !j.done
	})
	if at < 0 {
		h.plug(l)
		h.finish()
		return
	}
	view, doc := h.cat.View(), h.author.Document()
	if m, ok := view.Member(h.id); h.w.now > j.until || !ok || m.Evicted || doc.Left || h.author.Rival() {
		h.fail(j)
		return
	}
	network := l.Attachments[at].Network
	next := h.plan(network)
	switch next.Step {
	case claims.Hand:
		before := l
		l.Attachments = slices.Clone(l.Attachments)
		l.Attachments[at].Index = next.Index
		h.locals[l.ID] = l
		if !h.keep() {
			h.locals[l.ID] = before
			h.fail(j)
			return
		}
		h.w.checkHand(h, network, next.Index)
		j.done = true
		h.workSoon()
	case claims.Full:
		h.fail(j)
	case claims.Make:
		if _, ok := h.write(func(d *catalog.Document) { d.Claims = claims.Add(d.Claims, next.Claim) }); !ok {
			h.workSoon()
			return
		}
		h.askAll(j, next.Claim)
	case claims.Ask:
		h.askAll(j, next.Claim)
	}
}

// plan is what to do next to get an address on a network.
func (h *host) plan(network string) claims.Next {
	return claims.Plan(claims.Request{
		View: h.cat.View(), Network: network, Self: h.id, Claims: h.author.Document().Claims, Now: h.clock(),
		Confirmed: func(c catalog.Claim) bool {
			return h.confirmed[c] || h.w.bug.is(confirmedByBlock) && h.confirmedOnce(c)
		},
		Busy: func(i uint32) bool { return h.busy(network, i) },
	})
}

func (h *host) confirmedOnce(c catalog.Claim) bool {
	for have := range h.confirmed {
		if have.Network == c.Network && have.Block == c.Block {
			return true
		}
	}
	return false
}

func (h *host) busy(network string, index uint32) bool {
	if h.rests(spot{network, index}) {
		return true
	}
	for _, l := range h.locals {
		for _, a := range l.Attachments {
			if a.Network == network && a.Index == index {
				return true
			}
		}
	}
	return false
}

// plug has an endpoint with all its addresses seen.
func (h *host) plug(l agent.Local) {
	l.Attachments = slices.Clone(l.Attachments)
	for i := range l.Attachments {
		a := &l.Attachments[i]
		if l.Service == "" || a.VIP != 0 {
			continue
		}
		index, stamp, existing := h.cat.View().ChooseVIP(a.Network, l.Service)
		if !existing {
			stamp = h.clock()
		}
		a.VIP, a.VIPStamp = index, stamp
	}
	h.locals[l.ID] = l
	h.keep()
	if h.w.endpoints[l.ID] == nil {
		h.w.endpoints[l.ID] = &endpoint{host: h}
	}
	h.write(func(d *catalog.Document) { d.Endpoints = h.endpoints() })
}

// askAll begins a round of asking for acknowledgements.
func (h *host) askAll(j *job, c catalog.Claim) {
	j.round++
	round := j.round
	_, version, ok := h.cat.Document(h.id)
	if !ok {
		h.workSoon()
		return
	}
	asked := h.witnesses()
	if h.w.bug.is(noAcks) {
		asked = nil
	}
	h.w.checkAsked(h, asked)
	j.waitFor = map[*host]bool{}
	runs := map[*host]uint64{}
	for _, other := range asked {
		j.waitFor[other] = true
	}
	current := func() bool { return len(h.jobs) > 0 && h.jobs[0] == j && j.round == round }
	done := func() {
		if !current() || len(j.waitFor) > 0 {
			return
		}
		h.acknowledged(c, version, asked, runs)
	}
	for _, other := range asked {
		h.ask(other, version, current, func() {
			if !j.waitFor[other] {
				return
			}
			maps.DeleteFunc(j.waitFor, func(o *host, _ bool) bool { return o.id == other.id }) // a copy's answer is a member's
			runs[other] = other.run
			done()
		})
	}
	done()
	h.after(askRound, func() { // who is alive, and our document, may be another by now
		if current() {
			h.work()
		}
	})
}

func (h *host) acknowledged(c catalog.Claim, version catalog.DocumentVersion, asked []*host, runs map[*host]uint64) {
	if claims.Won(h.cat.View(), h.id, h.author.Document().Claims, c) {
		h.confirmed[c] = true
		if !h.keep() {
			delete(h.confirmed, c)
			h.fail(h.jobs[0])
			return
		}
		h.w.confirmedClaims++
		h.w.checkUse(h, c, version, asked, runs)
	} else {
		h.drop([]catalog.Claim{c})
	}
	h.workSoon()
}

// ask asks one member again and again, as long as anybody wants to know.
func (h *host) ask(other *host, version catalog.DocumentVersion, wanted func() bool, counts func()) {
	if !wanted() {
		return
	}
	h.w.net.send(h, other, func() { other.confirm(h, version, wanted, counts) })
	h.after(askAgain, func() { h.ask(other, version, wanted, counts) })
}

// confirm is the member's side: apply, write, and then acknowledge.
func (h *host) confirm(asker *host, version catalog.DocumentVersion, wanted func() bool, counts func()) {
	_, held, ok := h.cat.Document(asker.id)
	if !ok || held.Less(version) {
		h.w.net.send(h, asker, func() { asker.compare(h) })
		return
	}
	answer := func() {
		if h.dirty && !h.w.bug.is(ackBeforeWrite) {
			h.save()
		}
		if h.full && !h.w.bug.is(ackWithoutDisk) {
			return // what it would forget it does not acknowledge
		}
		ack := claims.Acknowledge(h.cat, h.id, asker.id)
		h.w.net.send(h, asker, func() {
			if !wanted() {
				return
			}
			if claims.Counts(asker.cat, asker.id, h.id, version, ack) {
				counts()
			} else {
				asker.compare(h)
			}
		})
	}
	if h.w.bug.is(ackBeforeFence) {
		answer()
		return
	}
	h.applied(answer)
}

// revote has the replicas here say what their service's virtual IP has become.
func (h *host) revote() {
	changed := false
	for _, l := range h.sortedLocals() {
		e, moved := claims.Revote(h.cat.View(), l.Endpoint)
		if h.w.bug.is(fickleVIP) && l.Service != "" && plugged(l) && h.w.random.IntN(50) == 0 {
			e.Attachments = slices.Clone(e.Attachments)
			e.Attachments[0].VIP++
			e.Attachments[0].VIPStamp = h.clock()
			moved = true
		}
		if moved {
			changed = true
			l.Endpoint = e
			h.locals[l.ID] = l
		}
	}
	if changed {
		h.keep()
		h.write(func(d *catalog.Document) { d.Endpoints = h.endpoints() })
	}
}
