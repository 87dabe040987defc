package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
)

// seeing is how long two hosts that believe each other alive may take to see that both
// hold one address, or changed a virtual IP: a few comparisons on a bad line.
const seeing = 15 * time.Second

// watcher is what the checker remembers. It sees all hosts at once, as nobody else can.
type watcher struct {
	mutual map[[2]*host]time.Duration // since when a pair believes each other alive
	epochs map[*host]map[catalog.NodeID]catalog.DocumentVersion
	acked  map[*host]map[catalog.Claim]bool
	vips   map[*host]map[string]vip
	seen   map[*host]map[string]bool // endpoints that a host knew of in this run
	calm   time.Duration             // since when all running hosts hold the same, and it does not change
	held   catalog.Digest            // by the first of them at the last look
}

func (c *watcher) init() {
	c.mutual = map[[2]*host]time.Duration{}
	c.epochs = map[*host]map[catalog.NodeID]catalog.DocumentVersion{}
	c.vips = map[*host]map[string]vip{}
	c.seen = map[*host]map[string]bool{}
	c.acked = map[*host]map[catalog.Claim]bool{}
}

// began forgets what was seen of a host's former run.
func (c *watcher) began(h *host) {
	c.epochs[h] = map[catalog.NodeID]catalog.DocumentVersion{}
	c.vips[h] = map[string]vip{}
	c.seen[h] = map[string]bool{}
}

// vip is a service as a host saw it, and since when at this virtual IP.
type vip struct {
	catalog.Service
	since time.Duration
}

// sample looks at what has no event of its own.
func (w *World) sample() {
	hosts := w.running()
	same := true
	for i, a := range hosts {
		same = same && a.cat.Digest() == hosts[0].cat.Digest()
		for _, b := range hosts[i+1:] {
			key := [2]*host{a, b}
			if !a.knows(b) || !b.knows(a) || !a.believes(b) || !b.believes(a) {
				delete(w.mutual, key)
			} else if _, ok := w.mutual[key]; !ok {
				w.mutual[key] = w.now
			}
		}
	}
	for key := range w.mutual {
		if !key[0].up || !key[1].up {
			delete(w.mutual, key)
		}
	}
	if len(hosts) > 0 && hosts[0].cat.Digest() != w.held {
		same, w.held = false, hosts[0].cat.Digest() // it may have spread since the last look
	}
	if !same {
		w.calm = w.now
	}
	for _, h := range hosts {
		w.watch(h)
	}
	w.after(250*time.Millisecond, w.sample)
}

// watch checks what must hold at every moment, for one host.
func (w *World) watch(h *host) {
	if h.gone {
		return // nobody has to agree with it
	}
	for _, other := range w.hosts {
		if other == h || h.copied || other.copied || !w.seeEachOther(h, other) {
			continue // until two of one identity have heard of each other they do the same: see checkCopies
		}
		for p := range h.kernel.ports {
			if other.kernel.ports[p] {
				w.fail("unique", "%s and %s both have %s of VNI %d, and have seen each other for more than %v", h, other, p.ip, p.vni, seeing)
			}
		}
	}
	w.watchVIPs(h)
	w.watchForged(h)
	for _, n := range h.cat.View().Networks {
		for _, e := range n.Endpoints {
			w.seen[h][e.ID] = true
		}
	}
}

// checkUse checks what a host may rely on once its claim was acknowledged by those that it asked.
func (w *World) checkUse(h *host, c catalog.Claim, version catalog.DocumentVersion, asked []*host, runs map[*host]uint64) {
	view := h.cat.View()
	n, ok := view.Network(c.Network)
	if !ok {
		return
	}
	if w.acked[h] == nil {
		w.acked[h] = map[catalog.Claim]bool{}
	}
	w.acked[h][c] = true
	if w.bug.is(noAcks) || h.copied {
		return // the other checks have to see it
	}
	first, end := n.Space.Range(c.Block)
	for _, other := range asked {
		if other.run != runs[other] || !other.up || other.copied {
			continue
		}
		if _, evicted := other.cat.Standing(h.id); evicted {
			continue // it has shut the host out since
		}
		if doc, _, ok := other.cat.Document(h.id); ok && !slices.Contains(doc.Claims, c) {
			w.fail("acknowledged", "%s begins to use block %d of %s, which %s acknowledged without knowing of it", h, c.Block, c.Network, other)
		}
		if other.onDisk[documentOf(h)].Less(catalog.Version{Hi: version.Epoch, Lo: version.Sequence, Tie: version.Hash}) {
			w.fail("durable", "%s begins to use block %d of %s, which %s acknowledged and has not written down", h, c.Block, c.Network, other)
		}
		for i := first; i < end; i++ {
			if ip := n.Space.Address(i); other.kernel.ports[portKey{n.VNI, ip}] {
				w.fail("fenced", "%s begins to use block %d of %s, which %s acknowledged, but that has %s", h, c.Block, c.Network, other, ip)
			}
		}
	}
}

// checkAsked sees that a host that just started asks all that it knows: it cannot tell yet who is alive.
func (w *World) checkAsked(h *host, asked []*host) {
	if !h.settled && len(asked) < len(h.peers()) && !w.bug.is(noAcks) {
		w.fail("acknowledged", "%s, just started, asks only %v of %v", h, asked, h.peers())
	}
}

// checkHand sees that an address comes of a claim that was acknowledged.
func (w *World) checkHand(h *host, network string, index uint32) {
	w.checkRest(h, network, index)
	n, _ := h.cat.View().Network(network)
	block, _ := n.Space.BlockOf(index)
	for _, c := range h.author.Document().Claims {
		if c.Network == network && c.Block == block && w.acked[h][c] {
			return
		}
	}
	w.fail("acknowledged", "%s hands out %d of block %d of %s, which nobody has acknowledged", h, index, block, network)
}

// freed is an address that an endpoint gave up in order, and when, by which clock.
type freed struct {
	at   time.Duration
	skew catalog.Millis
}

type freedSpot struct {
	host *host
	spot
}

func (w *World) freed(h *host, l agent.Local) {
	for _, a := range l.Attachments {
		if a.Index != 0 {
			w.rested[freedSpot{h, spot{a.Network, a.Index}}] = freed{w.now, h.skew + w.shift}
		}
	}
}

// forgetFreed is for a host whose disk does not know any more what was given up.
func (w *World) forgetFreed(h *host) {
	maps.DeleteFunc(w.rested, func(s freedSpot, _ freed) bool { return s.host == h })
}

// checkRest sees that an address rests before it is handed out again, as long as nobody
// turned the clock.
func (w *World) checkRest(h *host, network string, index uint32) {
	f, ok := w.rested[freedSpot{h, spot{network, index}}]
	limit := time.Duration(addressRest-1) * time.Millisecond // clocks count in milliseconds
	if rest := w.now - f.at; ok && f.skew == h.skew+w.shift && rest < limit {
		w.fail("rest", "%s hands out %d of %s, %v after its last endpoint went", h, index, network, rest)
	}
}

// checkGaveWay sees that an endpoint loses its address only to an older claim, or an older
// endpoint of its own host, or with its network's range.
func (w *World) checkGaveWay(h *host, p claims.Place) {
	if h.copied {
		return
	}
	view := h.cat.View()
	n, _ := view.Network(p.Network)
	for _, a := range h.locals[p.Endpoint].Attachments {
		block, known := n.Space.BlockOf(a.Index)
		owner, owned := n.Blocks[block]
		if a.Network != p.Network || !known || !owned {
			continue
		}
		if owner == h.id {
			shown := slices.IndexFunc(n.Endpoints, func(e catalog.NetworkEndpoint) bool { return e.ID == p.Endpoint })
			if shown >= 0 {
				w.fail("older stays", "%s takes address %d of %s from %s, which nobody else has", h, a.Index, p.Network, p.Endpoint)
			}
			continue
		}
		stamp := func(node catalog.NodeID) (catalog.Millis, bool) {
			doc, _, _ := h.cat.Document(node)
			at := slices.IndexFunc(doc.Claims, func(c catalog.Claim) bool { return c.Network == p.Network && c.Block == block })
			if at < 0 {
				return 0, false
			}
			return doc.Claims[at].Stamp, true
		}
		mine, has := stamp(h.id)
		theirs, _ := stamp(owner)
		if has && (mine < theirs || mine == theirs && h.id < owner) {
			w.fail("older stays", "%s gives way in block %d of %s, claimed at %d, to a claim of %d", h, block, p.Network, mine, theirs)
		}
	}
}

// checkEpochs sees that no document goes back within a run of a host.
func (h *host) checkEpochs() {
	w := h.w
	for _, m := range h.cat.View().Members {
		if !m.Known {
			continue
		}
		if last := w.epochs[h][m.ID]; m.Version.Less(last) {
			w.fail("epochs", "%s had document %d.%d of %s, and now has %d.%d", h, last.Epoch, last.Sequence, m.Name, m.Version.Epoch, m.Version.Sequence)
		}
		w.epochs[h][m.ID] = m.Version
	}
}

// watchVIPs sees that a virtual IP in use moves only to give way to an older one.
func (w *World) watchVIPs(h *host) {
	view := h.cat.View()
	before := w.vips[h]
	after := map[string]vip{}
	holder := map[string]catalog.Service{}
	for _, s := range w.bug.services(view.Services) {
		name := s.Network + "/" + s.Name
		after[name] = vip{s, w.now}
		if old, ok := before[name]; ok && old.VIPIndex == s.VIPIndex {
			after[name] = vip{s, old.since}
		}
		if s.VIPIndex == 0 {
			continue
		}
		at := fmt.Sprint(s.Network, " ", s.VIPIndex)
		if other, ok := holder[at]; ok {
			w.fail("virtual IPs", "%s sees services %s and %s of %s at one", h, s.Name, other.Name, s.Network)
		}
		holder[at] = s
	}
	w.vips[h] = after
	for name, s := range after {
		old, ok := before[name]
		if !ok || old.VIPIndex == s.VIPIndex || old.VIPIndex == 0 || !sharesReplica(old.Service, s.Service) {
			continue
		}
		if w.now-old.since < seeing || !w.seesAll(h, s.Service) {
			continue // those who run it may not know yet that it gave way
		}
		other, taken := holder[fmt.Sprint(s.Network, " ", old.VIPIndex)]
		older := taken && (other.VIPStamp < s.VIPStamp || other.VIPStamp == s.VIPStamp && other.Name < s.Name)
		merged := s.VIPStamp < old.VIPStamp || s.VIPStamp == old.VIPStamp && s.VIPMoved > old.VIPMoved
		if !older && !merged {
			w.fail("virtual IPs", "%s sees %s move from %s to %s for no older service (stamps %d and %d, moves %d and %d)",
				h, name, old.VIP4, s.VIP4, old.VIPStamp, s.VIPStamp, old.VIPMoved, s.VIPMoved)
		}
	}
}

// seesAll says whether a host and those of a service's replicas have seen each other for a while.
func (w *World) seesAll(h *host, s catalog.Service) bool {
	for _, r := range s.Replicas {
		at := slices.IndexFunc(w.hosts, func(o *host) bool { return o.id == r.Node })
		if at < 0 || w.hosts[at] != h && !w.seeEachOther(h, w.hosts[at]) {
			return false
		}
	}
	return true
}

func (w *World) seeEachOther(a, b *host) bool {
	key := [2]*host{a, b}
	if slices.Index(w.hosts, b) < slices.Index(w.hosts, a) {
		key = [2]*host{b, a}
	}
	since, ok := w.mutual[key]
	return ok && w.now-since >= seeing && a.up && b.up && !a.gone && !b.gone
}

// sharesReplica says whether a replica of the one serves the other too: it is in use.
func sharesReplica(a, b catalog.Service) bool {
	for _, r := range a.Replicas {
		if slices.ContainsFunc(b.Replicas, func(o catalog.NetworkEndpoint) bool { return o.ID == r.ID }) {
			return true
		}
	}
	return false
}

// forgery is in the name of everything that the adversary made.
const forgery = "forged"

func (w *World) watchForged(h *host) {
	for _, m := range h.cat.View().Members {
		if strings.HasPrefix(m.Name, forgery) {
			w.fail("signatures", "%s believes a forged document of %s", h, m.ID)
		}
	}
	for _, n := range h.cat.View().Networks {
		if strings.HasPrefix(n.Name, forgery) {
			w.fail("signatures", "%s believes in the forged network %s", h, n.Name)
		}
	}
}

// checkQuiet checks what must hold once all trouble is over.
func (w *World) checkQuiet() {
	w.checkCopies()
	hosts := slices.DeleteFunc(w.connected(), func(h *host) bool { return h.author.Rival() })
	w.losing(func() { w.ledger.only = hosts }) // nobody can hear of what only others hold
	for _, h := range hosts {
		w.checkEvicted(h)
	}
	for _, h := range hosts {
		w.checkSame(hosts[0], h)
		w.checkKernel(h, hosts)
		w.checkEndpoints(h, hosts)
	}
	for _, h := range hosts {
		w.checkKept(h)
	}
}

// connected is the running hosts that have a way to each other: the largest such group. A
// host whose disk went back to a time when it knew none of those who are left has no key
// of theirs: no tunnel can come about, and it has to join anew.
func (w *World) connected() []*host {
	var largest []*host
	for _, first := range w.running() {
		group := []*host{first}
		for i := 0; i < len(group); i++ {
			for _, o := range w.running() {
				if !slices.Contains(group, o) && group[i].id != o.id && group[i].knows(o) && o.knows(group[i]) {
					group = append(group, o)
				}
			}
		}
		if len(group) > len(largest) {
			largest = group
		}
	}
	w.stranded += len(w.running()) - len(largest)
	return largest
}

func (w *World) checkSame(a, b *host) {
	if a.cat.Digest() != b.cat.Digest() {
		w.fail("convergence", "%s and %s hold different catalogs: %s", a, b, difference(a.cat, b.cat))
		return
	}
	if x, y := describe(a.cat), describe(b.cat); x != y {
		w.fail("convergence", "%s and %s hold the same and see another mesh:\n%s\n%s", a, b, x, y)
		return
	}
	fresh := catalog.New(w.mesh)
	fresh.Merge(a.clock(), a.cat.Records()...)
	if x, y := describe(a.cat), describe(fresh); x != y {
		w.fail("convergence", "%s sees another mesh than who reads its records anew:\n%s\n%s", a, x, y)
		return
	}
	if x, y := fmt.Sprint(a.compile().DNS.Networks), fmt.Sprint(b.compile().DNS.Networks); x != y {
		w.fail("convergence", "%s and %s answer different names:\n%s\n%s", a, b, x, y)
	}
}

// describe is a catalog's view in full.
func describe(c *catalog.Catalog) string {
	v := c.View()
	return fmt.Sprintf("%v\n%v\n%v\n%v", v.Members, v.Networks, v.Services, v.Tokens)
}

func difference(a, b *catalog.Catalog) string {
	var out []string
	for id, v := range a.Vector() {
		if o := b.Vector()[id]; o != v {
			out = append(out, fmt.Sprintf("%s %.30s/%.30s", id, v, o))
		}
	}
	for id, v := range b.Vector() {
		if _, ok := a.Vector()[id]; !ok {
			out = append(out, fmt.Sprintf("%s -/%.30s", id, v))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// checkKernel sees that what a host has in its kernel is what the others send to.
func (w *World) checkKernel(h *host, hosts []*host) {
	for _, other := range hosts {
		if other == h || len(other.kernel.ports) == 0 {
			continue
		}
		vtep := catalog.MeshAddress(w.mesh, h.id).String()
		for p := range h.kernel.ports {
			if !usesNetwork(other, p.vni) {
				continue
			}
			if n, ok := other.kernel.neighbors[p]; !ok || n.vtep != vtep {
				w.fail("convergence", "%s has %s of VNI %d, %s sends it to %q", h, p.ip, p.vni, other, n.vtep)
			}
		}
		for p, n := range other.kernel.neighbors {
			if n.vtep == vtep && !h.kernel.ports[p] {
				w.fail("convergence", "%s sends %s of VNI %d to %s, which does not have it", other, p.ip, p.vni, h)
			}
		}
	}
}

func usesNetwork(h *host, vni uint32) bool {
	for p := range h.kernel.ports {
		if p.vni == vni {
			return true
		}
	}
	return false
}

// checkEndpoints sees that all that lives is known to a host, and nothing that is gone.
func (w *World) checkEndpoints(h *host, hosts []*host) {
	view := h.cat.View()
	shown := map[string]bool{}
	for _, n := range view.Networks {
		if w.ledger.removed(n.Name) {
			w.fail("deleted", "%s still has network %s, which was removed", h, n.Name)
		}
		for _, e := range n.Endpoints {
			shown[e.ID] = true
			m, _ := view.Member(e.Node)
			if m.Evicted {
				w.fail("evicted", "%s has endpoint %s of evicted host %s", h, e.Name, m.Name)
			}
			if t := w.endpoints[e.ID]; t != nil && t.gone && slices.Contains(hosts, t.host) {
				w.fail("deleted", "%s has endpoint %s of %s, which is gone", h, e.Name, t.host)
			}
		}
	}
	for id, t := range w.endpoints {
		if t.gone || t.host.gone || shown[id] || t.host.up && !slices.Contains(hosts, t.host) {
			continue
		}
		if !t.host.up && (!w.seen[h][id] || lost(h, t.host, id) || t.host.copied) {
			continue // its host fell asleep before it could tell, or find it another address, or has a copy that speaks for it
		}
		if l, ok := t.host.locals[id]; ok && w.removedUnder(h, l.Attachments[0].Network) {
			continue
		}
		if t.host.refused(id) {
			continue
		}
		w.fail("alive", "%s does not know endpoint %s, which lives on %s", h, id, t.host)
	}
}

// lost says whether the block of an address of another host's endpoint is a third one's, as a host sees it.
func lost(h, of *host, id string) bool {
	doc, _, _ := h.cat.Document(of.id)
	at := slices.IndexFunc(doc.Endpoints, func(e catalog.Endpoint) bool { return e.ID == id })
	if at < 0 {
		return false
	}
	return slices.ContainsFunc(doc.Endpoints[at].Attachments, func(a catalog.Attachment) bool {
		n, _ := h.cat.View().Network(a.Network)
		block, known := n.Space.BlockOf(a.Index)
		owner, owned := n.Blocks[block]
		return known && owned && owner != of.id
	})
}

// refused says whether an endpoint lost its address to another host, and the network has
// no other for it. A host says so, and goes on trying.
func (h *host) refused(id string) bool {
	if !h.up {
		return false
	}
	places := claims.Displaced(h.cat.View(), h.id, h.author.Document().Endpoints)
	return slices.ContainsFunc(places, func(p claims.Place) bool { return p.Endpoint == id && h.plan(p.Network).Step == claims.Full })
}

// checkEvicted sees that nobody knows any more what an evicted host said.
func (w *World) checkEvicted(h *host) {
	for _, o := range w.hosts {
		if m, ok := h.cat.View().Member(o.id); o.evicted && ok && (!m.Evicted || m.Known) {
			w.fail("evicted", "%s still knows %s, which was evicted", h, o)
		}
	}
}

// checkKept sees that a host holds all that was ever written and that somebody still had
// when the trouble was over.
func (w *World) checkKept(h *host) {
	vector := h.cat.Vector()
	for _, id := range slices.Sorted(maps.Keys(w.ledger.standing)) {
		version := w.ledger.standing[id]
		if !holds(vector, id, version) && !w.shutOut(id) {
			w.fail("kept", "%s has %s at version %.24q, and %.24q was written and never lost", h, id, vector[id], version)
		}
	}
}

// shutOut says whether a record is the document of an evicted host.
func (w *World) shutOut(id catalog.RecordID) bool {
	return slices.ContainsFunc(w.hosts, func(o *host) bool { return o.evicted && documentOf(o) == id })
}

func (w *World) removedUnder(h *host, network string) bool {
	_, ok := h.cat.View().Network(network)
	return !ok
}
