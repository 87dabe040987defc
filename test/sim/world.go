package sim

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
)

const startOfTime catalog.Millis = 1_700_000_000_000

// World is one mesh and all that happens to it.
type World struct {
	queue
	random *rand.Rand // of the transport, the kernels and the disks
	bug    Bug
	net    *network
	mesh   catalog.MeshID
	hosts  []*host // in the order in which they joined

	founding     []catalog.Record
	token        catalog.Record
	certificates map[catalog.NodeID][]catalog.Record
	endpoints    map[string]*endpoint
	ledger       ledger
	archive      []catalog.Record
	last         uint64
	shift        catalog.Millis // of all clocks: time in which nothing happened
	rested       map[freedSpot]freed
	trouble      error
	quiet        bool // all trouble is over

	watcher
	confirmedClaims, readdressed, attached, stranded int
}

// endpoint is what the checker knows of an endpoint.
type endpoint struct {
	host *host
	gone bool // for good: it was detached, or its host lost power
}

func newWorld(seed uint64, bug Bug) *World {
	w := &World{
		random: rand.New(rand.NewPCG(seed, 2)), bug: bug,
		certificates: map[catalog.NodeID][]catalog.Record{}, endpoints: map[string]*endpoint{},
	}
	w.rested = map[freedSpot]freed{}
	w.ledger.init()
	w.net = &network{w: w, cut: map[pair]bool{}, slow: map[*host]time.Duration{}}
	w.watcher.init()
	mesh := keyOf("mesh")
	w.mesh = catalog.MeshIDOf(public(mesh))
	first := newHost(w, "h0")
	w.founding = []catalog.Record{
		sign(mesh, catalog.KindSigner, catalog.Signer{Mesh: w.mesh, Key: public(first.key), Issued: startOfTime}),
	}
	invite := public(keyOf("invite"))
	w.token = sign(first.key, catalog.KindToken, catalog.Invite{ID: catalog.InviteIDOf(invite), Mesh: w.mesh, Key: invite, Created: startOfTime})
	w.founding = append(w.founding, w.token)
	w.admit(first, first, append(w.founding, w.certify(first, first)))
	w.sample()
	return w
}

func sign(key ed25519.PrivateKey, kind catalog.Kind, body any) catalog.Record {
	r, err := catalog.Sign(key, kind, body)
	if err != nil {
		panic(fmt.Sprintf("signing a %s record: %v", kind, err)) // the simulator's own mistake
	}
	return r
}

// time is by a clock that is right.
func (w *World) time() catalog.Millis { return startOfTime.Add(w.now) + w.shift }

// number is never the same twice in a world.
func (w *World) number() uint64 {
	w.last++
	return w.last
}

func (w *World) certify(sponsor, h *host) catalog.Record {
	node := public(h.key)
	r := sign(sponsor.key, catalog.KindCertificate, catalog.Certificate{
		Mesh: w.mesh, Node: node, Token: w.token, Signed: w.time(),
		Invite: ed25519.Sign(keyOf("invite"), catalog.InviteMessage(w.mesh, node)),
	})
	w.ledger.wrote(sponsor, r)
	return r
}

// admit makes a host a member, as a sponsor's door does: each gets the other's records.
func (w *World) admit(h, sponsor *host, records []catalog.Record) {
	w.certificates[h.id] = slices.Clone(records)
	w.hosts = append(w.hosts, h)
	h.start()
	if sponsor != h {
		sponsor.merge(h, h.cat.Records())
	}
	delete(w.certificates, h.id) // they are on its disk
}

// errViolation wraps every invariant that was found broken.
type errViolation struct {
	invariant string
	text      string
	at        time.Duration
}

func (e *errViolation) Error() string {
	return fmt.Sprintf("%s: after %v: %s", e.invariant, e.at.Round(time.Millisecond), e.text)
}

func (w *World) fail(invariant, format string, args ...any) {
	if w.trouble == nil {
		w.trouble = &errViolation{invariant, fmt.Sprintf(format, args...), w.now}
	}
}

// broken is the name of the invariant that an error tells of.
func broken(err error) string {
	var v *errViolation
	if errors.As(err, &v) {
		return v.invariant
	}
	return ""
}

// running is the hosts that are up and belong.
func (w *World) running() []*host {
	return slices.DeleteFunc(slices.Clone(w.hosts), func(h *host) bool { return !h.up || h.gone })
}

// quieten ends all trouble and gives the mesh time to agree.
func (w *World) quieten() {
	w.quiet, w.calm = true, w.now // what the last trouble does has yet to show
	w.net.cut, w.net.loss, w.net.twice = map[pair]bool{}, 0, 0
	w.net.slow = map[*host]time.Duration{}
	for _, h := range w.hosts {
		if h.full {
			h.room()
		}
		if !h.up && !h.gone && !h.asleep {
			h.start()
		}
	}
	for range 120 { // jobs time out one after the other
		w.run(w.now + time.Second)
		if w.trouble != nil {
			return
		}
		busy := w.now-w.calm < 12*time.Second
		for _, h := range w.running() {
			busy = busy || len(h.jobs) > 0 || !h.settled
		}
		if !busy {
			return
		}
	}
}

var pools = []netip.Prefix{netip.MustParsePrefix("10.64.0.0/12")}

// makeNetwork makes a network's record as a host would.
func (h *host) makeNetwork(name string, prefix int) {
	record, err := h.cat.View().ProposeNetwork(catalog.NetworkRequest{
		Name: name, Pools: pools, PrefixLen: prefix, Now: h.clock(),
	})
	if err == nil {
		h.publish(catalog.KindNetwork, record)
	}
}

func (h *host) removeNetwork(name string) {
	view := h.cat.View()
	record, err := view.RemoveNetwork(name, h.clock())
	if err == nil {
		for _, gone := range view.RemoveServices(name, h.clock()) {
			h.publish(catalog.KindService, gone)
		}
		id, version := h.publish(catalog.KindNetwork, record)
		h.w.ledger.removals[id] = append(h.w.ledger.removals[id], version)
	}
}

// growNetwork gives a network one more range.
func (h *host) growNetwork(name string) {
	record, err := h.cat.View().GrowNetwork(catalog.GrowthRequest{Name: name, Pools: pools, PrefixLen: 28, Now: h.clock()})
	if err == nil {
		h.publish(catalog.KindNetwork, record)
	}
}

// setService changes what is set for a service, as meshd service update does.
func (h *host) setService(which, n int) {
	view := h.cat.View()
	if len(view.Services) == 0 {
		return
	}
	svc := view.Services[which%len(view.Services)]
	affinity := []catalog.Affinity{catalog.AffinityNone, catalog.AffinityClientIP}[n%2]
	change := catalog.ServiceChange{Network: svc.Network, Service: svc.Name, Affinity: &affinity, Now: h.clock()}
	port := uint16(8000 + n>>1%4)
	if n>>3%2 == 0 {
		change.Publish = []catalog.Publish{{Published: port, Target: 80, Protocol: "tcp"}}
	} else {
		change.Unpublish = []catalog.Port{{Protocol: "tcp", Number: port}}
	}
	// Refused: another has the port, or nobody.
	if record, changed, err := view.ProposeService(change); err == nil && changed {
		h.publish(catalog.KindService, record)
	}
}

// room is made on a full disk.
func (h *host) room() {
	h.full = false
	h.save()
}

func (h *host) publish(kind catalog.Kind, body any) (catalog.RecordID, catalog.Version) {
	r := sign(h.key, kind, body)
	news, _ := h.cat.Merge(h.clock(), r)
	id, version := h.w.ledger.wrote(h, r)
	h.save()
	h.push(news, nil)
	h.poke()
	return id, version
}
