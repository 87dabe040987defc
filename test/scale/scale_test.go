package scale

import (
	"flag"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
)

var (
	sizes   = flag.String("sizes", "", "sizes of meshes to measure, such as 10,100,300,1000")
	results = flag.String("results", "", "a file that takes what was measured beside what it has")
	docs    = flag.String("docs", "", "the folder of the documents, to put tables and picture of the results there")
)

// TestScale measures meshes of the sizes asked for and prints rows of the tables of docs/scale.md.
func TestScale(t *testing.T) {
	if *sizes == "" {
		t.Skip("a measurement: make bench-scale")
	}
	for _, text := range strings.Split(*sizes, ",") {
		size, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		m := newMesh(size)
		c, err := measure(m)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d hosts: %+v", size, c)
		m = newMesh(size)
		var r result
		synctest.Test(t, func(t *testing.T) { r = run(t, m, c) })
		t.Logf("%d hosts: %+v", size, r)
		keep(t, rowOf(m, c, r))
	}
}

// rowOf is what is told of a mesh.
func rowOf(m *mesh, c costs, r result) row {
	return row{
		Hosts: m.size, P50: r.load.p50, P99: r.load.p99, Max: r.load.max, Single: r.single.max,
		Gossip: gossip(m.size, r.idle.gossip), Sync: r.idle.sync, Tunnels: tunnels(c.keepalive, m.size-1), BusySync: r.busy.sync,
		Idle: r.idle.processor + r.idle.modelled, Busy: r.busy.processor + r.busy.modelled, Memory: c.memory + r.memory,
		Joined: r.joined, JoinedAll: r.joinedAll, Merge: c.parse + c.merge, View: c.view, Compile: c.compile, TakeAll: c.takeAll, Records: c.records,
	}
}

// gossip is what membership sends in a second: as measured, or, where it was not there, what it costs by its
// intervals: probes, which are the same in any mesh, and push/pull.
func gossip(hosts int, measured float64) float64 {
	const (
		probes  = 710.   // measured with 10 to 300 hosts
		state   = 180    // bytes of one member in push/pull, with headers
		stretch = 6      // of the interval at 1,000 hosts, by memberlist
		every   = 2 * 60 // seconds
	)
	if hosts <= mostSerf {
		return measured
	}
	return probes + 2*state*float64(hosts)/(every*stretch)
}

// tunnels is what WireGuard sends to keep up idle tunnels to so many peers, in bytes a second. A session
// is renewed every 120 s as long as something is sent, and is over after 180.
func tunnels(keepalive time.Duration, peers int) float64 {
	const handshake, empty = 176 + 120 + 60, 60 // initiation, response and the first packet; a packet
	every := keepalive.Seconds()
	if every < 120 {
		return float64(peers) * (empty/every + handshake/2/120.)
	}
	return float64(peers) * handshake / every
}

func keep(t *testing.T, x row) {
	if *results == "" {
		return
	}
	r, err := readReport(*results)
	if err != nil {
		t.Fatal(err)
	}
	r[x.Hosts] = x
	if err := r.write(*results); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + r.tables())
	if *docs != "" {
		if err := r.document(*docs); err != nil {
			t.Fatal(err)
		}
	}
}

// result is what a mesh of one size did.
type result struct {
	formed            time.Duration // until every host saw every other
	idle, busy        rates
	single, load      times
	memory            int64         // bytes of a host: membership, links, what the catalog does not share
	joined, joinedAll time.Duration // a newcomer has everything; every host has the newcomer
}

// rates is per host and second.
type rates struct {
	gossip, sync float64 // bytes
	opened       float64 // connections
	processor    float64 // of one, 0 to 1: computing of this process, shared among the hosts
	modelled     float64 // the same of what was waited for
}

// times is from a change to its being compiled, on any host; whole is the slowest host's of the middle change.
type times struct {
	p50, p99, max, whole time.Duration
	changes              int
}

// within waits, in steps, until a condition holds.
func within(t *testing.T, limit, step time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(step)
	}
	return time.Since(began)
}

func run(t *testing.T, m *mesh, costs costs) (r result) {
	c := newCluster(m, costs)
	defer func() {
		c.stop()
		time.Sleep(time.Minute) // memberlist's last probes run out
	}()
	phase := func(what string) {
		t.Logf("%s: %s of the processor so far", what, processorTime().Round(time.Millisecond))
	}
	phase("records made")
	began, before := time.Now(), heapInUse()
	for i := range m.size {
		if _, err := c.start(i, m.records); err != nil {
			t.Fatal(err)
		}
		if c.serf {
			time.Sleep(5 * time.Millisecond)
		}
	}
	phase("started")
	within(t, 5*time.Minute, time.Second, "all see all", func() bool { return c.allSee(m.size) })
	r.formed = time.Since(began)
	phase("formed")
	r.memory = (heapInUse() - before) / int64(m.size)
	if c.serf { // gossip of the joins ends, and everybody's first push/pull, which is not stretched yet
		time.Sleep(130 * time.Second)
	}

	r.idle = c.rates(15*time.Second, func(d time.Duration) { time.Sleep(d) })
	phase("idle")
	alone, many := 10, 5*time.Second
	if m.size > mostSerf { // each change is a thousand samples
		alone, many = 5, 2*time.Second
	}
	for i := range alone {
		c.hosts[i*m.size/alone].change()
		time.Sleep(1500 * time.Millisecond)
	}
	r.single = c.settle(t)
	phase("single changes")
	r.busy = c.rates(many, func(d time.Duration) {
		for i := range int(d / (50 * time.Millisecond)) {
			c.hosts[(i*7919)%m.size].change()
			time.Sleep(50 * time.Millisecond)
		}
	})
	r.load = c.settle(t)
	phase("many changes")
	c.equal(t)
	r.joined, r.joinedAll = c.join(t)
	c.equal(t)
	c.agree(t)
	phase("a newcomer")
	return r
}

// allSee says whether each host sees so many alive.
func (c *cluster) allSee(count int) bool {
	return !slices.ContainsFunc(c.hosts, func(h *host) bool { return len(h.alive()) < count-1 })
}

func (c *cluster) settle(t *testing.T) times {
	within(t, time.Minute, 100*time.Millisecond, "changes are everywhere", func() bool {
		c.watch.mu.Lock()
		defer c.watch.mu.Unlock()
		return len(c.watch.open) == 0
	})
	took, whole, _ := c.watch.take()
	return times{quantile(took, .5), quantile(took, .99), quantile(took, 1), quantile(whole, .5), len(whole)}
}

// equal fails the test unless all hosts hold the same.
func (c *cluster) equal(t *testing.T) {
	within(t, time.Minute, 100*time.Millisecond, "all hold the same", func() bool {
		want := c.hosts[0].store().Digest()
		return !slices.ContainsFunc(c.hosts, func(h *host) bool { return !slices.Equal(h.store().Digest(), want) })
	})
}

// agree fails the test unless the first hosts' views, and what they compile for one host, are the same. Not all
// hosts' fit into memory.
func (c *cluster) agree(t *testing.T) {
	look := func(h *host) *catalog.View {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.catalog.View()
	}
	first := look(c.hosts[0])
	desired := agent.Compile(c.mesh.inputs(0, first))
	for _, h := range c.hosts[1:min(4, len(c.hosts))] {
		view := look(h)
		if !reflect.DeepEqual(first, view) || !reflect.DeepEqual(desired, agent.Compile(c.mesh.inputs(0, view))) {
			t.Errorf("hosts 0 and %d see different meshes", h.number)
		}
	}
}

// rates measures what the hosts send and compute in the meantime.
func (c *cluster) rates(d time.Duration, meanwhile func(time.Duration)) rates {
	sum := func() (gossip, sync, opened, busy int64) {
		for _, h := range c.hosts {
			gossip += h.traffic.gossip.Load()
			sync += h.traffic.sync.Load()
			opened += h.traffic.opened.Load()
			busy += h.busy.Load()
		}
		return
	}
	gossip, sync, opened, busy := sum()
	spent := processorTime()
	meanwhile(d)
	gossip2, sync2, opened2, busy2 := sum()
	per := float64(len(c.hosts)) * d.Seconds()
	return rates{
		float64(gossip2-gossip) / per, float64(sync2-sync) / per, float64(opened2-opened) / per,
		(processorTime() - spent).Seconds() / per, time.Duration(busy2-busy).Seconds() / per,
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it cannot fail for one's own process
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// join lets one more host in, as a door does: it gets all the sponsor has.
func (c *cluster) join(t *testing.T) (has, everywhere time.Duration) {
	m := c.mesh
	began := time.Now()
	sponsor := c.hosts[m.size/2]
	certificate, document := m.certificate(m.size), m.change(m.size)
	news, rejected := sponsor.merge([]catalog.Record{certificate, document})
	if len(rejected) > 0 {
		t.Fatal(rejected)
	}
	sponsor.syncer.Publish(news...)
	sponsor.mu.Lock()
	records := sponsor.catalog.Records()
	sponsor.mu.Unlock()
	time.Sleep(time.Duration(float64(c.costs.records)/bandwidth*1e9) + c.costs.takeAll + c.costs.compile)
	h, err := c.start(m.size, records)
	if err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, 20*time.Millisecond, "the newcomer has all", func() bool {
		return len(h.alive()) == m.size && slices.Equal(h.store().Digest(), sponsor.store().Digest())
	})
	has = time.Since(began)
	within(t, time.Minute, 20*time.Millisecond, "all have the newcomer", func() bool {
		return !slices.ContainsFunc(c.hosts, func(h *host) bool { _, _, ok := h.document(m.size); return !ok }) && c.allSee(m.size+1)
	})
	return has, time.Since(began)
}
