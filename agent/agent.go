// Package agent is one host's member of the mesh. It watches its inputs (members,
// catalog, local endpoints), compiles the whole desired state of the host from
// them, which is pure, and has each part make the kernel equal to it.
//
// What the kernel was told outlives the agent: traffic goes on while it is away, and its
// successor adopts what is right.
package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/configs"
	"github.com/meshd/meshd/metrics"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
	"github.com/meshd/meshd/plugin/docker"
)

// Agent is the daemon. It is idle until its host belongs to a mesh.
type Agent struct {
	cfg     configs.Config
	log     *slog.Logger
	version string
	dir     *identity.Dir
	idleKey ed25519.PrivateKey // the door's while this host has no identity

	door *door.Server // set once, before anything asks for it

	changing sync.Mutex // one init, join or leave at a time; held during IO

	mu      sync.Mutex // guards all below
	session *session   // nil while idle
	up      bool       // the session has started
	joining bool
	pairing *pairing       // nil: this host waits at no door
	docker  *docker.Plugin // nil while Docker is not served
	ended   chan error     // what ends the daemon: a task that failed
}

// New makes an agent. Run starts it.
func New(cfg configs.Config, log *slog.Logger, version string) (*Agent, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for the join door: %w", err)
	}
	return &Agent{cfg: cfg, log: log, version: version, idleKey: key, ended: make(chan error, 1)}, nil
}

// ErrNotRoot is returned by Run without root's rights.
var ErrNotRoot = errors.New("the agent needs root, for it makes network namespaces and interfaces: run it as root, or systemctl start meshd")

// Run is the daemon's life: until ctx ends, which is no error. It leaves what it made in
// the kernel.
func (a *Agent) Run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	var err error
	if a.dir, err = identity.Open(a.cfg.StateDir); err != nil {
		return unusable("state_dir", a.cfg.StateDir, err)
	}
	defer func() { _ = a.dir.Close() }() // the process ends
	if err := os.MkdirAll(a.cfg.RuntimeDir, 0o755); err != nil {
		return unusable("runtime_dir", a.cfg.RuntimeDir, fmt.Errorf("making it: %w", err))
	}
	local, err := api.Listen(a.cfg.Socket())
	if err != nil {
		return err
	}
	defer func() { _ = local.Close() }() // closed already if it was served
	entrance, err := door.Listen(ctx, a.cfg.Join.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = entrance.Close() }() // closed already if it was served
	if err := a.resume(ctx); err != nil {
		return err
	}
	defer a.stop()
	return a.serve(ctx, local, entrance)
}

// serve runs what an agent has, member or not.
func (a *Agent) serve(ctx context.Context, local, entrance net.Listener) error {
	a.door = door.NewServer(door.Options{Credentials: a.credentials, Admitter: a, Now: now, Logger: a.log})
	server := api.NewServer(a, api.Options{Log: a.log, Version: a.version})
	engine, err := a.listenDocker(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(ctx, local) })
	group.Go(func() error { return a.door.Serve(ctx, entrance) })
	group.Go(func() error { return metrics.Run(ctx, a.cfg.Metrics.Listen, a, a.log) })
	group.Go(func() error { return a.joinByItself(ctx) })
	group.Go(func() error { return a.serveDocker(ctx, engine) })
	group.Go(func() error { return a.notifySystemd(ctx) })
	group.Go(func() error {
		select {
		case err := <-a.ended:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// resume goes on being a member, if this host is one.
func (a *Agent) resume(ctx context.Context) error {
	id, err := a.dir.Load()
	if errors.Is(err, identity.ErrNone) {
		a.log.Info("idle: this host belongs to no mesh; meshd init founds one, meshd join enters one")
		return nil
	}
	if err != nil {
		return err
	}
	membership, err := a.dir.Membership(id)
	if errors.Is(err, identity.ErrNone) {
		membership, err = a.finish(id)
	}
	if errors.Is(err, identity.ErrNone) {
		a.log.Warn("a join was cut short before the mesh had answered: removing what it left")
		return a.clear(ctx)
	}
	if err != nil {
		return err
	}
	return a.begin(ctx, id, membership, nil)
}

// begin makes this host a member: its session starts.
func (a *Agent) begin(ctx context.Context, id *identity.Identity, m identity.Membership, records []catalog.Record) error {
	s, err := startSession(ctx, a.sessionOptions(id, m), records)
	a.mu.Lock()
	a.session, a.up = s, err == nil // one that failed to start is kept for undo
	a.mu.Unlock()
	if err != nil {
		return err
	}
	go func() {
		if err := s.tasks.Wait(); err != nil {
			a.ended <- err
		}
	}()
	return nil
}

func (a *Agent) sessionOptions(id *identity.Identity, m identity.Membership) sessionOptions {
	return sessionOptions{cfg: a.cfg, version: a.version, log: a.log, dir: a.dir, id: id, membership: m}
}

// credentials is what the door shows of this host.
func (a *Agent) credentials() door.Credentials {
	s, err := a.member()
	if err != nil {
		return door.Credentials{Key: a.idleKey}
	}
	view := s.store.View()
	c := door.Credentials{
		Key: s.id.Key(), Mesh: s.store.mesh, Chain: door.Chain(s.store.Records(), s.store.self),
		Signer: s.mustSign(view, "let hosts in") == nil,
	}
	if !c.Signer {
		c.Signers = signersDoors(view, s.aliveSet(), a.cfg.Join.Listen)
	}
	return c
}

// signersDoors is where signers' doors are, those of hosts that are alive first: at the addresses of their tunnels, and, for
// nobody tells of his door, at the port of ours.
func signersDoors(view *catalog.View, alive map[catalog.NodeID]bool, listen string) []netip.AddrPort {
	port := uint16(door.DefaultPort)
	if _, text, err := net.SplitHostPort(listen); err == nil {
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			port = uint16(n)
		}
	}
	var first, last []netip.AddrPort
	for _, m := range signers(view) {
		for _, c := range m.Candidates {
			if at := netip.AddrPortFrom(c.Addr(), port); alive == nil || alive[m.ID] {
				first = append(first, at)
			} else {
				last = append(last, at)
			}
		}
	}
	return append(first, last...)
}

// stop ends the session without a trace in the kernel or on the wire.
func (a *Agent) stop() {
	a.mu.Lock()
	s := a.session
	a.session = nil
	a.mu.Unlock()
	if s != nil {
		s.stop()
		s.release()
	}
}

// member is the session, or an error that says how to become a member.
func (a *Agent) member() (*session, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.session == nil || !a.up {
		return nil, &api.Error{Code: api.CodeNoMesh, Message: "this host belongs to no mesh yet: found one with meshd init, or enter one with meshd join ADDRESS --token TOKEN"}
	}
	return a.session, nil
}

// joinByItself joins unattended, as join.addresses and join.token_file ask for. It tries
// for ever: the mesh may come up later than this host.
func (a *Agent) joinByItself(ctx context.Context) error {
	if len(a.cfg.Join.Addresses) == 0 || a.cfg.Join.TokenFile == "" {
		return nil
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		if _, err := a.member(); err == nil {
			return nil
		}
		token, err := os.ReadFile(a.cfg.Join.TokenFile)
		if err == nil {
			_, err = a.Join(ctx, api.JoinRequest{Addresses: a.cfg.Join.Addresses, Token: string(token)})
		}
		if err == nil {
			return nil
		}
		a.log.Warn("joining failed, trying again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
