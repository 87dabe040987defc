package scale

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/meshnet/memnet"
	"github.com/meshd/meshd/peers/syncer"
)

// mostSerf is up to how many hosts membership is real. What Serf computes when so many start together grows with
// their square: at 1,000 it is ten minutes of two processors.
const mostSerf = 300

// aliveAfter is when a newcomer is believed alive in a mesh without membership; Serf takes 0.8 to 1.2 s at 300 to 1,000
// hosts.
const aliveAfter = time.Second

// cluster is a mesh at work.
type cluster struct {
	mesh   *mesh
	costs  costs
	fabric *memnet.Fabric
	hosts  []*host
	watch  *watch
	serf   bool // membership is real; else those that run are believed alive, a second after they began

	mu      sync.Mutex // guards running
	running []syncer.Peer

	byAddress map[netip.Addr]int
	places    map[catalog.NodeID]int
	addresses []netip.Addr
}

// host is an agent without a kernel below it.
type host struct {
	number     int
	cluster    *cluster
	traffic    traffic
	busy       atomic.Int64  // nanoseconds that were waited for instead of computing
	processor  chan struct{} // filled while the host computes
	news       chan struct{}
	membership *membership.Membership
	syncer     *syncer.Syncer
	cancel     context.CancelFunc
	tasks      sync.WaitGroup

	mu      sync.Mutex // guards all below; nobody waits for time while it is held
	catalog *catalog.Catalog
	fresh   map[int]uint64 // documents that came since the last pass, by host
}

func newCluster(m *mesh, c costs) *cluster {
	out := &cluster{
		mesh: m, costs: c, serf: m.size <= mostSerf, fabric: memnet.New(latency), watch: newWatch(),
		byAddress: map[netip.Addr]int{}, places: map[catalog.NodeID]int{},
	}
	for i, node := range m.nodes {
		address := catalog.MeshAddress(m.id, node)
		out.addresses = append(out.addresses, address)
		out.byAddress[address], out.places[node] = i, i
	}
	return out
}

// work has the host compute for so long: one thing at a time.
func (h *host) work(d time.Duration) {
	h.processor <- struct{}{}
	time.Sleep(d) // virtual
	<-h.processor
	h.busy.Add(int64(d))
}

// start has host i run with the records given.
func (c *cluster) start(i int, records []catalog.Record) (*host, error) {
	h := &host{
		number: i, cluster: c, processor: make(chan struct{}, 1), news: make(chan struct{}, 1),
		catalog: catalog.New(c.mesh.id), fresh: map[int]uint64{},
	}
	c.mesh.pool.Join(h.catalog)
	if _, rejected := h.catalog.Merge(c.mesh.now(), records...); len(rejected) > 0 {
		return nil, errors.Join(rejected...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	log := slog.New(slog.DiscardHandler)
	network := c.fabric.Host(c.addresses[i])
	tasks := []func(context.Context) error{h.loop}
	var err error
	if c.serf {
		h.membership, err = membership.New(ctx, membership.Config{
			Self: c.mesh.nodes[i], Address: c.addresses[i], Network: wire{network, &h.traffic, true},
			Known: h.known, Verify: h.verify, Logger: log,
		})
		if err != nil {
			cancel()
			return nil, err
		}
		tasks = append(tasks, h.membership.Run, h.follow)
	}
	h.syncer, err = syncer.New(ctx, syncer.Config{
		Self: c.mesh.nodes[i], Address: c.addresses[i], Network: wire{network, &h.traffic, false}, Store: h.store(),
		Alive: h.alive, PeerOf: h.peerOf, Applied: func(context.Context) error { return nil },
		NameOf: func(id catalog.NodeID) string { return string(id) }, Logger: log,
	})
	if err != nil {
		cancel()
		if c.serf {
			err = errors.Join(err, h.membership.Close())
		}
		return nil, err
	}
	for _, run := range append(tasks, h.syncer.Run) {
		h.tasks.Add(1)
		go func() {
			defer h.tasks.Done()
			if err := run(ctx); err != nil {
				panic(fmt.Sprintf("host %d: %v", i, err)) // the product's mistake, and nobody waits for it
			}
		}()
	}
	c.hosts = append(c.hosts, h)
	if !c.serf {
		time.AfterFunc(aliveAfter, func() { c.believe(i) })
	}
	return h, nil
}

// believe has all hosts take one for alive.
func (c *cluster) believe(i int) {
	c.mu.Lock()
	c.running = append(c.running, syncer.Peer{ID: c.mesh.nodes[i], Address: c.addresses[i]})
	c.mu.Unlock()
	for _, h := range c.hosts {
		h.syncer.PeersChanged()
	}
}

func (c *cluster) stop() {
	for _, h := range c.hosts {
		h.cancel()
	}
	for _, h := range c.hosts {
		h.tasks.Wait()
	}
}

// follow is the agent's: changes of membership are the syncer's business as well.
func (h *host) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.membership.Changed():
			h.syncer.PeersChanged()
		}
	}
}

// loop is the agent's: a pass for what has come, many changes as one.
func (h *host) loop(ctx context.Context) error {
	seen := make([]uint64, h.cluster.mesh.size+1) // what was compiled last
	for i := range seen {
		seen[i] = 1
	}
	var pace agent.Pace
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.news:
		}
		h.mu.Lock()
		fresh := h.fresh
		h.fresh = map[int]uint64{}
		h.mu.Unlock()
		// What comes while it computes is for the next pass. Viewing costs what has changed.
		h.work(time.Duration(len(fresh))*h.cluster.costs.view + h.cluster.costs.compile)
		for other, sequence := range fresh {
			h.cluster.watch.compiled(other, seen[other], sequence)
			seen[other] = sequence
		}
		pace.Worked(time.Now(), h.cluster.costs.view+h.cluster.costs.compile)
		pause(ctx, pace.Pause(time.Now()))
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// change has the host say something else.
func (h *host) change() {
	record := h.cluster.mesh.change(h.number)
	h.cluster.watch.changed(h.number, h.cluster.mesh.sequence[h.number], len(h.cluster.hosts))
	news, _ := h.merge([]catalog.Record{record})
	h.syncer.Publish(news...)
}

func (h *host) merge(records []catalog.Record) ([]catalog.Record, []error) {
	h.mu.Lock()
	news, rejected := h.catalog.Merge(h.cluster.mesh.now(), records...)
	for _, r := range news {
		if r.Kind != catalog.KindDocument {
			continue
		}
		node := catalog.NodeIDOf(r.Author)
		_, version, _ := h.catalog.Document(node)
		h.fresh[h.cluster.places[node]] = version.Sequence
	}
	h.mu.Unlock()
	return news, rejected
}

func (h *host) document(i int) (catalog.Document, catalog.DocumentVersion, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.catalog.Document(h.cluster.mesh.nodes[i])
}

func (h *host) known() []membership.Peer {
	var peers []membership.Peer
	for i := range h.cluster.mesh.size + 1 {
		if id := h.cluster.mesh.nodes[i]; i != h.number && h.holds(id) {
			peers = append(peers, membership.Peer{ID: id, Address: h.cluster.addresses[i]})
		}
	}
	return peers
}

func (h *host) holds(id catalog.NodeID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	member, _ := h.catalog.Standing(id)
	return member
}

func (h *host) verify(id catalog.NodeID, address netip.Addr) error {
	i, ok := h.cluster.byAddress[address]
	if !ok || h.cluster.mesh.nodes[i] != id || !h.holds(id) {
		return fmt.Errorf("%s is no member", id)
	}
	return nil
}

func (h *host) alive() []syncer.Peer {
	var peers []syncer.Peer
	if !h.cluster.serf {
		h.cluster.mu.Lock()
		defer h.cluster.mu.Unlock()
		for _, p := range h.cluster.running {
			if p.ID != h.cluster.mesh.nodes[h.number] {
				peers = append(peers, p)
			}
		}
		return peers
	}
	for _, m := range h.membership.Members() {
		if m.Status == membership.Alive && m.ID != h.cluster.mesh.nodes[h.number] {
			peers = append(peers, syncer.Peer{ID: m.ID, Address: m.Address})
		}
	}
	return peers
}

func (h *host) peerOf(address netip.Addr) (catalog.NodeID, bool) {
	i, ok := h.cluster.byAddress[address]
	if !ok {
		return "", false
	}
	id := h.cluster.mesh.nodes[i]
	return id, h.holds(id)
}

// store is the host's catalog as its syncer sees it.
type store struct {
	syncer.Shared
	*host
}

func (h *host) store() store {
	return store{syncer.Shared{Lock: &h.mu, Catalog: h.catalog, Self: h.cluster.mesh.nodes[h.number]}, h}
}

func (s store) Merge(records []catalog.Record) ([]catalog.Record, []error) {
	s.work(time.Duration(len(records)) * s.cluster.costs.parse)
	news, rejected := s.merge(records)
	if len(news) > 0 {
		s.work(time.Duration(len(news)) * s.cluster.costs.merge)
		select {
		case s.news <- struct{}{}:
		default:
		}
		if slices.ContainsFunc(news, func(r catalog.Record) bool { return r.Kind == catalog.KindCertificate }) {
			if s.cluster.serf {
				s.membership.Redial()
			}
			s.syncer.PeersChanged()
		}
	}
	return news, rejected
}
