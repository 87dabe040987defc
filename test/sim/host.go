package sim

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
)

// host is one member: the product's catalog, author and claim protocol, and a simulated
// disk and kernel.
type host struct {
	w    *World
	name string
	key  ed25519.PrivateKey
	id   catalog.NodeID
	skew catalog.Millis // of its clock

	up      bool
	gone    bool // it left or was evicted: it never starts again
	left    bool
	evicted bool   // as long as anybody remembers it
	asleep  bool   // it stays down to the end, as a member
	copied  bool   // another host runs, or ran, with its identity
	run     uint64 // counts starts and ends: what was planned for a former one is void

	idle   map[catalog.Claim]time.Duration // blocks that nobody is in, and since when
	review bool                            // the claims are about to be looked at
	cat    *catalog.Catalog
	author *claims.Author
	memory // what is also on disk
	disk   memory
	saved  []byte         // the catalog on disk
	onDisk catalog.Vector // of saved, for the checker
	past   []backup       // older states of the disk

	started time.Duration
	settled bool
	heard   map[catalog.NodeID]time.Duration // when a member last spoke
	alive   map[catalog.NodeID]bool          // as of the last look
	dirty   bool                             // the catalog is newer than the disk
	full    bool                             // the disk takes nothing

	pass   passes
	kernel kernel

	jobs []*job // waiting for addresses, one after the other
}

// memory is what the agent keeps of its own endpoints.
type memory struct {
	locals    map[string]agent.Local
	confirmed map[catalog.Claim]bool
	recent    map[spot]catalog.Millis // addresses that rest, since when
	epoch     uint64
}

func newMemory() memory {
	return memory{locals: map[string]agent.Local{}, confirmed: map[catalog.Claim]bool{}, recent: map[spot]catalog.Millis{}}
}

func (m memory) clone() memory {
	out := memory{locals: make(map[string]agent.Local, len(m.locals)), confirmed: maps.Clone(m.confirmed), recent: maps.Clone(m.recent), epoch: m.epoch}
	for id, l := range m.locals {
		l.Attachments = slices.Clone(l.Attachments)
		out.locals[id] = l
	}
	return out
}

type backup struct {
	memory memory
	saved  []byte
	onDisk catalog.Vector
}

type spot struct {
	network string
	index   uint32
}

// kernel is what the last pass told the host's kernel. It outlives the agent.
type kernel struct {
	ports     map[portKey]bool     // of this host's endpoints
	neighbors map[portKey]neighbor // of the others'
}

type portKey struct {
	vni uint32
	ip  netip.Addr
}

type neighbor struct{ mac, vtep string }

// passes are the loop's: one at a time, the next as soon as somebody asks.
type passes struct {
	running bool
	asked   bool
	waiting []func() // for the end of a pass that has not begun yet
}

var keys = map[string]ed25519.PrivateKey{}

func keyOf(name string) ed25519.PrivateKey {
	if keys[name] == nil {
		seed := sha256.Sum256([]byte(name))
		keys[name] = ed25519.NewKeyFromSeed(seed[:])
	}
	return keys[name]
}

func newHost(w *World, name string) *host {
	key := keyOf(name)
	return &host{
		w: w, name: name, key: key, id: catalog.NodeIDOf(key.Public().(ed25519.PublicKey)),
		memory: newMemory(), disk: newMemory(),
	}
}

func (h *host) String() string { return h.name }

func (h *host) clock() catalog.Millis {
	return h.w.time() + h.skew
}

// after plans something for as long as this run of the agent lasts.
func (h *host) after(d time.Duration, do func()) {
	run := h.run
	h.w.after(d, func() {
		if h.up && h.run == run {
			do()
		}
	})
}

// start is the agent's start on what the disk holds.
func (h *host) start() {
	h.up, h.settled = true, false
	h.run++
	h.started = h.w.now
	h.w.began(h)
	h.heard, h.alive = map[catalog.NodeID]time.Duration{}, map[catalog.NodeID]bool{}
	h.pass, h.jobs, h.dirty, h.idle, h.review = passes{}, nil, false, nil, false
	h.full = false // with a full disk it does not start
	h.memory = h.disk.clone()
	h.cat = catalog.New(h.w.mesh)
	if h.saved != nil {
		c, err := catalog.Unmarshal(h.saved)
		if err != nil {
			h.w.fail("durability", "%s cannot read its own catalog: %v", h, err)
			return
		}
		h.cat = c
	}
	h.cat.Merge(h.clock(), h.w.certificates[h.id]...)
	h.author = claims.NewAuthor(h.cat, h.key, fmt.Sprintf("%s-%d", h.name, h.w.number()))
	// An endpoint that had not all its addresses was being attached: nobody waits any more. Others
	// have gone meanwhile, and their namespaces with them.
	maps.DeleteFunc(h.locals, func(id string, l agent.Local) bool {
		gone := h.w.endpoints[id] != nil && h.w.endpoints[id].gone && !h.w.bug.is(reviveEndpoints)
		if gone {
			h.rest(l)
		}
		return gone || !plugged(l)
	})
	h.epoch = max(h.epoch, h.author.Document().Epoch) + 1
	h.disk.epoch = h.epoch
	h.write(func(d *catalog.Document) {
		d.Epoch, d.Left = h.epoch, false
		d.Name, d.MTU = h.name, 1420
		d.Endpoints = h.endpoints()
		d.Claims = claims.InUse(h.cat.View(), d.Claims, h.holding())
	})
	h.ping()
	h.compareLater()
	h.look()
	h.tick()
}

// rest has the addresses of an endpoint that goes rest.
func (h *host) rest(l agent.Local) {
	for _, a := range l.Attachments {
		if a.Index != 0 {
			h.recent[spot{a.Network, a.Index}] = h.clock()
		}
	}
}

func (h *host) rests(s spot) bool {
	at, ok := h.recent[s]
	return ok && h.clock()-at < addressRest && h.clock() >= at && !h.w.bug.is(noRest)
}

// stop is the agent's end, however it came. The kernel goes on unless the host lost power.
func (h *host) stop(power bool) {
	h.w.losing(func() { h.up = false })
	h.run++
	if power {
		h.kernel = kernel{}
		for id, e := range h.w.endpoints {
			if e.host == h && !e.gone {
				h.w.endpoints[id].gone = true
			}
		}
	}
}

// write changes this host's document: memory, disk, and only then the others.
func (h *host) write(change func(*catalog.Document)) (catalog.DocumentVersion, bool) {
	rec, version, err := h.author.Write(h.cat, h.clock(), change)
	if err != nil {
		return version, false // evicted, or a rival
	}
	h.w.ledger.wrote(h, rec)
	h.save()
	h.poke()
	h.push([]catalog.Record{rec}, nil)
	h.w.archive = append(h.w.archive, rec)
	return version, true
}

func (h *host) save() {
	if h.full {
		h.dirtied()
		return
	}
	if h.w.random.IntN(8) == 0 && h.saved != nil {
		h.past = append(h.past, backup{h.disk.clone(), h.saved, h.onDisk})
	}
	h.saved, h.onDisk, h.dirty = h.cat.Marshal(), h.cat.Vector(), false
	h.keep()
}

// keep writes what is not the catalog. It says whether the disk took it.
func (h *host) keep() bool {
	if !h.full {
		h.disk = h.memory.clone()
	}
	return !h.full
}

// merge takes in records and passes on what was news.
func (h *host) merge(from *host, recs []catalog.Record) {
	news, _ := h.cat.Merge(h.clock(), recs...)
	h.w.bug.merged(h, recs)
	h.checkEpochs()
	if h.author.TakeOver(h.cat) {
		h.write(func(d *catalog.Document) { d.Endpoints = h.endpoints() })
	}
	h.w.bug.stopped(h)
	if len(news) == 0 {
		return
	}
	h.push(news, from)
	h.dirtied()
	h.poke()
}

func (h *host) dirtied() {
	if h.dirty {
		return
	}
	h.dirty = true
	h.after(between(h.w.random, 5*time.Millisecond, 200*time.Millisecond), func() {
		if h.dirty {
			h.dirty = false
			h.save()
		}
	})
}

// knows says whether this host has a tunnel to another: it has its document, and the
// other was not shut out.
func (h *host) knows(other *host) bool {
	m, ok := h.cat.View().Member(other.id)
	return ok && m.Known && !m.Evicted
}

func (h *host) peers() []*host {
	var out []*host
	for _, other := range h.w.hosts {
		if m, ok := h.cat.View().Member(other.id); other.id != h.id && ok && m.Known && !m.Evicted && !m.Left {
			out = append(out, other)
		}
	}
	return out
}

func (h *host) believes(other *host) bool {
	at, ok := h.heard[other.id]
	return ok && h.w.now-at < suspicion
}

func (h *host) alivePeers() []*host {
	return slices.DeleteFunc(h.peers(), func(o *host) bool { return !h.believes(o) })
}

// witnesses are the members whose acknowledgement a claim needs. Until this host had the
// time to see everybody, it takes all for alive.
func (h *host) witnesses() []*host {
	if !h.settled && !h.w.bug.is(unsettled) {
		return h.peers()
	}
	return h.alivePeers()
}

// suspicion is when a silent member is believed dead, settling when a new run believes
// that it has seen everybody.
const (
	suspicion = 4 * time.Second
	settling  = 10 * time.Second
)

func (h *host) ping() {
	for _, other := range h.peers() {
		h.w.net.send(h, other, func() { other.hear(h) })
	}
	h.after(between(h.w.random, 800*time.Millisecond, 1200*time.Millisecond), h.ping)
}

func (h *host) hear(from *host) { h.heard[from.id] = h.w.now }

// look acts on who came and who went.
func (h *host) look() {
	changed, everybody := false, true
	for _, other := range h.peers() {
		is := h.believes(other)
		everybody = everybody && is
		if is == h.alive[other.id] {
			continue
		}
		changed = true
		h.alive[other.id] = is
		if is {
			h.compare(other)
		} else if h.w.bug.is(forgetFailed) {
			h.forget(other.id)
		}
	}
	if !h.settled && (everybody || h.w.now-h.started > settling) {
		h.settled, changed = true, true
	}
	if changed {
		h.poke()
	}
	h.after(200*time.Millisecond, h.look)
}

// tick is the loop's own interval.
func (h *host) tick() {
	h.poke()
	h.after(1500*time.Millisecond, h.tick)
}

// push sends records to every linked peer but one.
func (h *host) push(recs []catalog.Record, except *host) {
	for _, other := range h.alivePeers() {
		if other != except {
			h.w.net.tell(h, other, recs)
		}
	}
}

func (h *host) compareLater() {
	h.after(between(h.w.random, 1500*time.Millisecond, 2500*time.Millisecond), func() {
		if peers := h.alivePeers(); len(peers) > 0 {
			h.compare(peers[h.w.random.IntN(len(peers))])
		}
		h.compareLater()
	})
}

// compare is an exchange: by digest, then by ranges, then what is missing, both ways. Each
// step is a message that may be lost.
func (h *host) compare(other *host) {
	if h.w.bug.is(noAntiEntropy) {
		return
	}
	digest := h.cat.Digest()
	h.w.net.send(h, other, func() {
		if other.cat.Digest() != digest {
			h.descend(other, []catalog.Prefix{""})
		}
	})
}

// descend has the other describe ranges, and goes into those that differ. It runs where the
// other is.
func (h *host) descend(other *host, ranges []catalog.Prefix) {
	summaries := other.cat.Summaries(ranges)
	h.w.net.send(other, h, func() {
		found := h.w.bug.narrow(h.cat.Differences(summaries))
		if missing := h.cat.MissingIn(found.Give, nil); len(missing) > 0 {
			h.w.net.tell(h, other, missing)
		}
		if len(found.Deeper) > 0 {
			h.w.net.send(h, other, func() { h.descend(other, found.Deeper) })
		}
		if len(found.List) > 0 {
			h.trade(other, found.List)
		}
	})
}

// trade says what is in some ranges; the other sends what is missing, and asks for what it
// lacks itself.
func (h *host) trade(other *host, ranges []catalog.Prefix) {
	ours := h.cat.VectorIn(ranges)
	h.w.net.send(h, other, func() {
		if missing := other.cat.MissingIn(ranges, ours); len(missing) > 0 {
			h.w.net.tell(other, h, missing)
		}
		if needs := other.cat.Needs(ours); len(needs) > 0 {
			h.w.net.send(other, h, func() {
				if records := h.cat.Select(needs); len(records) > 0 {
					h.w.net.tell(h, other, records)
				}
			})
		}
	})
}

// poke asks for a pass, and for a look at the claims, soon.
func (h *host) poke() {
	if !h.review {
		h.review = true
		h.after(between(h.w.random, 100*time.Microsecond, 20*time.Millisecond), h.keepClaims)
	}
	h.pass.asked = true
	if !h.pass.running {
		h.pass.running = true
		h.after(between(h.w.random, 100*time.Microsecond, 2*time.Millisecond), h.beginPass)
	}
}

// applied calls then once a pass has ended that began after now.
func (h *host) applied(then func()) {
	h.pass.waiting = append(h.pass.waiting, then)
	h.poke()
}

func (h *host) beginPass() {
	h.pass.asked = false
	waiting := h.pass.waiting
	h.pass.waiting = nil
	desired := h.compile()
	slowest := 40 * time.Millisecond
	if h.w.random.IntN(8) == 0 {
		slowest = 800 * time.Millisecond
	}
	h.after(between(h.w.random, time.Millisecond, slowest), func() {
		h.kernel = kernelOf(desired)
		h.w.watch(h)
		for _, then := range waiting {
			then()
		}
		h.pass.running = false
		if h.pass.asked || len(h.pass.waiting) > 0 {
			h.poke()
		}
	})
}

// keepClaims gives up what was lost, gives back what is empty, and finds other addresses
// for who lost them.
func (h *host) keepClaims() {
	h.review = false
	if !h.settled || h.author.Document().Left {
		return
	}
	found := claims.Review{
		View: h.cat.View(), Self: h.id, Claims: h.author.Document().Claims, Confirmed: h.confirmedClaims(),
		Endpoints: h.holding(), Idle: h.idle, Now: h.w.now, Rest: idleRest,
	}.Find()
	h.idle = found.Idle
	for _, c := range found.Void {
		delete(h.confirmed, c)
	}
	if h.keep(); len(found.Lost) > 0 {
		h.drop(found.Lost)
	}
	if len(h.jobs) == 0 && len(found.Empty) > 0 {
		h.drop(found.Empty)
	}
	for _, p := range h.w.bug.displaced(h, claims.Displaced(h.cat.View(), h.id, h.author.Document().Endpoints)) {
		if _, ok := h.locals[p.Endpoint]; ok && !h.working(p.Endpoint) {
			h.w.checkGaveWay(h, p)
			h.w.readdressed++
			h.enqueue(&job{endpoint: p.Endpoint, move: p.Network})
		}
	}
	h.revote()
}

// drop gives claims up: they may not be used any more.
func (h *host) drop(gone []catalog.Claim) {
	for _, c := range gone {
		delete(h.confirmed, c)
	}
	h.keep()
	h.write(func(d *catalog.Document) {
		d.Claims = slices.DeleteFunc(d.Claims, func(c catalog.Claim) bool { return slices.Contains(gone, c) })
	})
}

func (h *host) confirmedClaims() []catalog.Claim {
	return slices.SortedFunc(maps.Keys(h.confirmed), func(a, b catalog.Claim) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Block, b.Block), cmp.Compare(a.Stamp, b.Stamp))
	})
}

// holding is what keeps blocks in use.
func (h *host) holding() []catalog.Endpoint {
	var all []catalog.Endpoint
	for _, l := range h.sortedLocals() {
		all = append(all, l.Endpoint)
	}
	var rest catalog.Endpoint
	for s := range h.recent {
		if h.rests(s) {
			rest.Attachments = append(rest.Attachments, catalog.Attachment{Network: s.network, Index: s.index})
		}
	}
	return append(all, rest)
}

// idleRest is how long a block stays claimed that nobody is in. It is minutes on real hosts.
const idleRest = 5 * time.Second

func (h *host) compile() agent.Desired {
	var alive map[catalog.NodeID]bool
	if h.settled {
		alive = map[catalog.NodeID]bool{}
		for _, p := range h.alivePeers() {
			alive[p.id] = true
		}
	}
	return agent.Compile(agent.Inputs{
		Self: h.id, View: h.cat.View(), Alive: alive, Locals: h.sortedLocals(), Domain: "mesh", Fenced: h.author.Rival(),
	})
}

func (h *host) sortedLocals() []agent.Local {
	return slices.SortedFunc(maps.Values(h.locals), func(a, b agent.Local) int { return strings.Compare(a.ID, b.ID) })
}

func (h *host) endpoints() []catalog.Endpoint {
	var out []catalog.Endpoint
	for _, l := range h.sortedLocals() {
		if plugged(l) {
			e := l.Endpoint
			e.Attachments = slices.Clone(e.Attachments)
			out = append(out, e)
		}
	}
	return out
}

func plugged(l agent.Local) bool {
	return !slices.ContainsFunc(l.Attachments, func(a catalog.Attachment) bool { return a.Index == 0 })
}

func kernelOf(d agent.Desired) kernel {
	k := kernel{ports: map[portKey]bool{}, neighbors: map[portKey]neighbor{}}
	for _, n := range d.Overlay.Networks {
		for _, p := range n.Ports {
			k.ports[portKey{n.VNI, p.Addresses[0].Addr()}] = true
		}
		for _, other := range n.Neighbors {
			k.neighbors[portKey{n.VNI, other.IP[0]}] = neighbor{other.MAC.String(), other.VTEP.String()}
		}
	}
	return k
}
