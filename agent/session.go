package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/configs"
	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/peers/identity"
	"github.com/meshd/meshd/peers/membership"
	"github.com/meshd/meshd/peers/meshnet"
	"github.com/meshd/meshd/peers/probe"
	"github.com/meshd/meshd/peers/syncer"
	"github.com/meshd/meshd/peers/wireguard"
)

// session is a host being a member of a mesh: from the moment that it has an
// identity until it leaves or the agent ends.
type session struct {
	cfg     configs.Config
	version string
	log     *slog.Logger
	id      *identity.Identity
	started time.Time

	store     *store
	locals    *locals
	addresses *allocator
	loop      *loop
	parts     parts

	membership *membership.Membership
	syncer     *syncer.Syncer
	probe      *probe.Prober
	distances  distances

	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	tasks  *errgroup.Group

	news      chan struct{} // capacity 1: the catalog has changed
	claimNews chan struct{} // the same, for keepClaims
	eventNews chan struct{} // the same, for followEvents, and that membership has changed
	history   *history

	calls calls // of the API, under way

	keys        keyLocks   // one call at a time about an endpoint with a key
	registering sync.Mutex // one new endpoint, network, member or setting at a time; held during IO
	publishing  sync.Mutex // one keepPublished at a time; held during IO
	trying      sync.Mutex // one trial of the firewall at a time; held during IO

	mu       sync.Mutex // guards all below
	settled  bool       // membership can be believed: everybody had the time to be seen
	hostConf dns.HostConf
	last     compiled
	lost     map[catalog.NodeID]time.Time // since when membership has missed whom
	shut     []opening                    // what this host's firewall does not let in
	skew     skew                         // of the clocks, as it was at the door
}

// parts is what the desired state is applied by.
type parts struct {
	changes   map[string]*journal.Journal // by the name of the part
	wireguard *wireguard.Device
	overlay   *overlay.Manager
	gateway   *gateway.Manager
	ingress   *ingress.Applier
	dns       *dns.Resolver
}

// settleTime is how long a new session takes everybody for alive, so that a restart
// withdraws nothing only because it has not heard of it yet.
const settleTime = 10 * time.Second

// visitorNamespace is where the firewall is tried from.
func visitorNamespace(cfg configs.Config) string { return filepath.Join(cfg.RuntimeDir, "try") }

func meshNamespace(cfg configs.Config) string { return filepath.Join(cfg.RuntimeDir, "netns") }

// sessionOptions is who a session is, and where.
type sessionOptions struct {
	cfg        configs.Config
	version    string
	log        *slog.Logger
	dir        *identity.Dir
	id         *identity.Identity
	membership identity.Membership
}

// startSession makes this host a member: records is what it got at the door, or
// nothing when it goes on after a restart. On an error the session has ended, and the
// kernel is as far as it got: the caller decides whether to withdraw.
func startSession(ctx context.Context, o sessionOptions, records []catalog.Record) (*session, error) {
	s := &session{
		cfg: o.cfg, version: o.version, log: o.log, id: o.id, started: time.Now(),
		lost: make(map[catalog.NodeID]time.Time),
		news: make(chan struct{}, 1), claimNews: make(chan struct{}, 1), eventNews: make(chan struct{}, 1), history: newHistory(newInstance()),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.tasks, s.ctx = errgroup.WithContext(s.ctx)
	if err := s.start(ctx, o, records); err != nil {
		s.stop()
		return s, err
	}
	return s, nil
}

func (s *session) start(ctx context.Context, o sessionOptions, records []catalog.Record) error {
	var err error
	if s.store, err = newStore(catalogPath(s.cfg.StateDir), o.membership.Mesh, s.id.Key(), s.log); err != nil {
		return err
	}
	if _, rejected := s.store.Merge(append(slices.Clone(records), o.membership.Certificate)...); len(rejected) > 0 {
		return fmt.Errorf("taking over the mesh's records: %w", errors.Join(rejected...))
	}
	if member, _ := s.store.Standing(s.store.self); !member {
		return fmt.Errorf("%s does not hold who let this host into mesh %s: restore it from a backup, or move %s away and join again (as a new node)",
			catalogPath(s.cfg.StateDir), s.store.mesh, s.cfg.StateDir)
	}
	if s.locals, err = openLocals(s.cfg.StateDir); err != nil {
		return err
	}
	if err := s.makeNamespaces(); err != nil {
		return err
	}
	if err := s.makeParts(); err != nil {
		return err
	}
	s.loop = newLoop(s.compile, s.appliers(), s.log)
	s.loop.repairs.told = func(part string, changes journal.Changes, what string) {
		s.history.add(time.Now(), repaired(part, changes, what))
	}
	if err := s.beginEpoch(ctx, o.dir); err != nil {
		return err
	}
	// The mesh address comes with WireGuard's device, and what listens on it after that.
	if err := s.loop.pass(ctx); err != nil {
		return err
	}
	if err := s.loop.Failing()["wireguard"]; err != nil {
		return err
	}
	if err := s.startPeers(ctx); err != nil {
		return err
	}
	s.addresses = &allocator{store: s.store, locals: s.locals, confirm: s.syncer.Confirm, alive: s.mustAgree}
	errands, err := s.listenErrands(ctx)
	if err != nil {
		return err
	}
	s.runTasks()
	s.tasks.Go(func() error { return s.serveErrands(errands) })
	return nil
}

func (s *session) makeNamespaces() error {
	h, err := netns.Create(meshNamespace(s.cfg))
	if err != nil {
		return err
	}
	_ = h.Close() // it stays by its path
	return s.sweep()
}

func newDevice(cfg configs.Config, log *slog.Logger, changes *journal.Journal) (*wireguard.Device, error) {
	return wireguard.New(wireguard.Options{
		MeshNamespace: meshNamespace(cfg), RuntimeDir: cfg.RuntimeDir,
		Mode: wireguard.Mode(cfg.WireGuard.Mode), Logger: log, Changes: changes,
	})
}

func (s *session) makeParts() error {
	changes := map[string]*journal.Journal{"wireguard": {}, "overlay": {}, "gateway": {}, "ingress": {}}
	s.parts.changes = changes
	var err error
	if s.parts.wireguard, err = newDevice(s.cfg, s.log, changes["wireguard"]); err != nil {
		return err
	}
	s.parts.overlay = overlay.New(overlay.Options{MeshNamespace: meshNamespace(s.cfg), Logger: s.log, Changes: changes["overlay"]})
	s.parts.gateway = gateway.New(gateway.Options{
		Logger: s.log, StatePath: filepath.Join(s.cfg.RuntimeDir, "gateway"), Changes: changes["gateway"],
	})
	s.parts.ingress = ingress.New(ingress.Options{Logger: s.log, Occupied: func() { wake(s.claimNews) }, Changes: changes["ingress"]})
	s.parts.dns = dns.New(dns.Options{Logger: s.log})
	s.hostConf = s.findUpstreams()
	return gateway.CheckSubnets(GatewayBridge, s.cfg.Gateway.Subnets)
}

// appliers is the order in which the parts are applied: a tunnel before what travels in
// it, the way to a virtual IP before its name. A new endpoint's name server comes first of all.
func (s *session) appliers() []applier {
	changes := s.parts.changes
	published := part("ingress", s.parts.ingress.Apply, func(d Desired) ingress.Config { return d.Ingress }, changes)
	published.after = []string{"overlay", "gateway"}
	return []applier{
		part("wireguard", s.parts.wireguard.Apply, func(d Desired) wireguard.Config { return d.WireGuard }, changes),
		part("names", s.parts.dns.Open, func(d Desired) dns.Config { return d.DNS }, changes),
		part("overlay", s.parts.overlay.Apply, func(d Desired) overlay.Config { return d.Overlay }, changes),
		part("gateway", s.parts.gateway.Apply, func(d Desired) gateway.Config { return d.Gateway }, changes),
		published,
		part("dns", s.parts.dns.Apply, func(d Desired) dns.Config { return d.DNS }, changes),
	}
}

// part makes an applier of a part's one verb.
func part[C any](name string, apply func(context.Context, C) error, of func(Desired) C, changes map[string]*journal.Journal) applier {
	return applier{
		name: name, changes: changes[name],
		apply: func(ctx context.Context, d Desired) error { return apply(ctx, of(d)) },
		part:  func(d Desired) any { return of(d) },
	}
}

// beginEpoch writes this host's document anew: with a new epoch, and with what survived.
func (s *session) beginEpoch(ctx context.Context, dir *identity.Dir) error {
	epoch, err := dir.NextEpoch(s.store.Own().Epoch)
	if err != nil {
		return err
	}
	self, err := readHost(ctx, s.cfg, s.version, s.id)
	if err != nil {
		return err
	}
	if self.warning != "" {
		s.log.Warn(self.warning)
	}
	view, endpoints, holding := s.store.View(), s.pluggedEndpoints(), s.locals.Holding(now())
	_, err = s.store.Update(func(d *catalog.Document) {
		self.describe(d)
		d.Epoch, d.Left = epoch, false
		d.Claims = claims.InUse(view, d.Claims, holding)
		d.Endpoints = endpoints
	})
	return err
}

func (s *session) startPeers(ctx context.Context) error {
	network := meshnet.InNamespace(meshNamespace(s.cfg))
	address := catalog.MeshAddress(s.store.mesh, s.store.self)
	var err error
	s.membership, err = membership.New(ctx, membership.Config{
		Self: s.store.self, Address: address, Network: network,
		Known: s.knownPeers, Verify: s.verifyPeer, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.syncer, err = syncer.New(ctx, syncer.Config{
		Self: s.store.self, Address: address, Network: network, Store: s.store.forSyncer(),
		PeerOf: s.peerOf, Alive: s.alivePeers, Applied: s.applied, Logger: s.log,
		NameOf: func(id catalog.NodeID) string { return nodeName(s.store.View(), id) },
	})
	if err != nil {
		return errors.Join(err, s.membership.Close())
	}
	s.probe = probe.New(probe.Config{
		Open:    func() (probe.Pinger, error) { return probe.ICMP(meshNamespace(s.cfg), address) },
		Targets: s.dependencies, Logger: s.log,
	})
	s.store.spread = func(recs []catalog.Record) { s.syncer.Publish(recs...) }
	return nil
}

// applied returns once a pass that began after the call has ended: whatever the catalog
// held at the call, this host acts on it, what lost its address is fenced, and a power cut
// does not make it forget. It is an
// error if the disk takes nothing: nobody may rely on what this host would forget. What
// other parts fail at does not matter here; status tells it.
func (s *session) applied(ctx context.Context) error {
	if err := s.loop.Sync(ctx); errors.Is(err, errStopped) {
		return err
	}
	if err := s.store.settle(); err != nil {
		return err
	}
	return ctx.Err()
}

// compile gathers the inputs and compiles them, unless they are those of the last time: most passes only look
// whether somebody else has changed the host.
func (s *session) compile() Desired {
	s.mu.Lock()
	host := s.hostConf
	s.mu.Unlock()
	in := Inputs{
		Self: s.store.self, PrivateKey: s.id.WireGuardKey(), ListenPort: s.cfg.WireGuard.ListenPort,
		View: s.store.View(), Alive: s.aliveSet(), RTT: s.distances.steady(s.roundTrips()), Locals: s.locals.All(), Fenced: s.store.Rival(),
		Domain: s.cfg.DNS.Domain, Search: host.Search, Upstreams: host.Upstreams,
		GatewaySubnets: s.cfg.Gateway.Subnets, GatewayMTU: 1500,
	}
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	// Views that differ say different things: there is no need to compare all of them.
	if in.View == last.in.View && reflect.DeepEqual(in, last.in) {
		return last.desired
	}
	desired := Compile(in)
	s.mu.Lock()
	s.last = compiled{in, desired}
	s.mu.Unlock()
	return desired
}

// compiled is inputs with what follows from them. Nobody changes what it holds.
type compiled struct {
	in      Inputs
	desired Desired
}

// stop ends the calls under way and the tasks. What is in the kernel stays.
func (s *session) stop() {
	s.calls.close() // while the loop runs, so that they can undo what they began
	s.cancel()
	if s.membership != nil {
		_ = s.membership.Close() // the process goes on without it
	}
	_ = s.tasks.Wait() // reported where the tasks were started
	if s.store != nil {
		if err := s.store.save(); err != nil {
			s.log.Warn("the catalog was not saved; it comes back from the other hosts", "err", err)
		}
	}
}

// release lets go of what answers in other namespaces. Nothing is applied after it.
func (s *session) release() {
	if s.parts.dns != nil {
		_ = s.parts.dns.Close() // the process goes on without it
		s.parts.ingress.Close()
		s.parts.overlay.Close()
	}
}

// withdraw removes everything that sessions made on this host.
func (s *session) withdraw(ctx context.Context) error {
	var errs []error
	if s.parts.dns != nil {
		errs = append(errs,
			s.parts.dns.Apply(ctx, dns.Config{}),
			s.parts.ingress.Apply(ctx, ingress.Config{}),
			s.parts.gateway.Apply(ctx, gateway.Config{}),
			s.parts.overlay.Apply(ctx, overlay.Config{}),
			s.parts.wireguard.Remove(),
			s.parts.dns.Close())
	}
	if s.locals != nil {
		for _, l := range s.locals.All() {
			if !l.Infrastructure {
				errs = append(errs, netns.Delete(l.Namespace))
			}
		}
	}
	errs = append(errs, ingress.EndVisit(visitorNamespace(s.cfg)), netns.Delete(meshNamespace(s.cfg)))
	_ = os.Remove(filepath.Join(s.cfg.RuntimeDir, "endpoints")) // only if empty
	return errors.Join(errs...)
}

// removeState removes the files that sessions keep in the state directory.
func removeState(stateDir string) error {
	var errs []error
	known := catalogPath(stateDir)
	for _, path := range []string{known, previousPath(known), changesPath(known), filepath.Join(stateDir, "endpoints")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
