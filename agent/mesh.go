package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
	"github.com/meshd/meshd/peers/wireguard"
)

// Init founds a mesh on this host. On an error nothing is left.
func (a *Agent) Init(ctx context.Context, _ api.InitRequest) (api.InitResponse, error) {
	ctx = context.WithoutCancel(ctx) // a half-founded mesh is worse than one nobody waited for
	a.changing.Lock()
	defer a.changing.Unlock()
	if s, err := a.member(); err == nil {
		return api.InitResponse{}, alreadyMember(s)
	}
	id, err := a.newIdentity()
	if err != nil {
		return api.InitResponse{}, notStarted(err)
	}
	response, err := a.found(ctx, id)
	if err != nil {
		return api.InitResponse{}, notStarted(errors.Join(err, a.undo(ctx)))
	}
	return response, nil
}

// newIdentity makes the keys of a new node. Of an older one nothing is kept.
func (a *Agent) newIdentity() (*identity.Identity, error) {
	id, err := a.dir.Create()
	if err != nil {
		return nil, err
	}
	if err := removeState(a.cfg.StateDir); err != nil {
		return nil, errors.Join(err, a.dir.Wipe())
	}
	return id, nil
}

func (a *Agent) found(ctx context.Context, id *identity.Identity) (api.InitResponse, error) {
	founding, err := id.Found(now())
	if err != nil {
		return api.InitResponse{}, err
	}
	if err := a.keep(id, founding.Membership, founding.Records); err != nil {
		return api.InitResponse{}, err
	}
	if err := a.begin(ctx, id, founding.Membership, founding.Records); err != nil {
		return api.InitResponse{}, err
	}
	s, err := a.member()
	if err != nil {
		return api.InitResponse{}, err
	}
	if err := s.makeIngressNetwork(); err != nil {
		return api.InitResponse{}, err
	}
	token, err := s.CreateToken(ctx, api.TokenRequest{})
	if err != nil {
		return api.InitResponse{}, err
	}
	return api.InitResponse{
		Mesh: string(s.store.mesh), Node: string(s.store.self),
		JoinCommand: token.JoinCommand, Token: token.Token, RecoveryCode: founding.RecoveryCode,
	}, nil
}

// Join enters a mesh through any of its members. On an error nothing is left.
func (a *Agent) Join(ctx context.Context, req api.JoinRequest) (api.Status, error) {
	if req.Pairing != "" {
		var err error
		if req, err = a.letIn(ctx, req.Pairing); err != nil {
			return api.Status{}, err
		}
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	if s, err := a.member(); err == nil {
		return api.Status{}, alreadyMember(s)
	}
	token, err := identity.ParseToken(strings.TrimSpace(req.Token))
	if err != nil {
		return api.Status{}, invalid("%v", err)
	}
	id, err := a.newIdentity()
	if err != nil {
		return api.Status{}, notStarted(err)
	}
	a.setJoining(true)
	defer a.setJoining(false)
	if err := a.enter(ctx, id, token, req.Addresses); err != nil {
		return api.Status{}, notStarted(errors.Join(err, a.undo(context.WithoutCancel(ctx))))
	}
	return a.Status(ctx)
}

func (a *Agent) enter(ctx context.Context, id *identity.Identity, token identity.Token, addresses []string) error {
	first, err := a.firstDocument(ctx, id, token.Mesh())
	if err != nil {
		return err
	}
	record, err := catalog.Sign(id.Key(), catalog.KindDocument, first)
	if err != nil {
		return err
	}
	// Whatever keeps a tunnel from being made must show before the mesh knows of this host.
	withdraw, err := a.openTunnel(ctx, id, first)
	if err != nil {
		return err
	}
	response, err := door.Join(ctx, door.JoinRequest{Addresses: addresses, Token: token, Identity: id, Document: record, Now: now})
	if err != nil {
		return errors.Join(refusal(err), withdraw())
	}
	ctx = context.WithoutCancel(ctx) // the mesh knows us now: finish
	membership := identity.Membership{Mesh: token.Mesh(), Certificate: response.Certificate}
	if err := a.keep(id, membership, response.Records); err != nil {
		return errors.Join(err, withdraw())
	}
	if err := a.begin(ctx, id, membership, response.Records); err != nil {
		return err
	}
	s, err := a.member()
	if err != nil {
		return err
	}
	s.noteClock(response.Ahead, response.Sponsor)
	s.awaitPeer(ctx, 5*time.Second)
	return nil
}

// firstDocument is what a newcomer says of itself at the door, so that the member that
// lets it in can open a tunnel at once.
func (a *Agent) firstDocument(ctx context.Context, id *identity.Identity, mesh catalog.MeshID) (catalog.Document, error) {
	epoch, err := a.dir.NextEpoch(0)
	if err != nil {
		return catalog.Document{}, err
	}
	doc := catalog.Document{Mesh: mesh, Epoch: epoch, Sequence: 1, Stamp: now()}
	self, err := readHost(ctx, a.cfg, a.version, id)
	if err != nil {
		return catalog.Document{}, err
	}
	self.describe(&doc)
	return doc, nil
}

// openTunnel makes the WireGuard device that the session will adopt, without peers. It
// returns how to remove it.
func (a *Agent) openTunnel(ctx context.Context, id *identity.Identity, self catalog.Document) (func() error, error) {
	namespace, err := netns.Create(meshNamespace(a.cfg))
	if err != nil {
		return nil, err
	}
	_ = namespace.Close() // it stays by its path
	device, err := newDevice(a.cfg, a.log, nil)
	if err != nil {
		return nil, errors.Join(err, netns.Delete(meshNamespace(a.cfg)))
	}
	remove := func() error { return errors.Join(device.Remove(), netns.Delete(meshNamespace(a.cfg))) }
	err = device.Apply(ctx, wireguard.Config{
		PrivateKey: id.WireGuardKey(), ListenPort: int(a.cfg.WireGuard.ListenPort), MTU: self.MTU,
		Address: netip.PrefixFrom(catalog.MeshAddress(self.Mesh, id.ID()), catalog.MeshPrefix(self.Mesh).Bits()),
	})
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// keep makes this host a member on disk. The membership comes last: with it, and without
// what the mesh knows, a host that crashed in between would find nobody.
func (a *Agent) keep(id *identity.Identity, m identity.Membership, records []catalog.Record) error {
	s, err := newStore(catalogPath(a.cfg.StateDir), m.Mesh, id.Key(), a.log)
	if err != nil {
		return err
	}
	if _, rejected := s.Merge(records...); len(rejected) > 0 {
		return fmt.Errorf("taking over the mesh's records: %w", errors.Join(rejected...))
	}
	err = s.save()
	if err == nil {
		err = a.dir.SaveMembership(id, m)
	}
	if err != nil {
		return fmt.Errorf("%w: make %s writable, and room in it", err, a.cfg.StateDir)
	}
	return nil
}

// notStarted is for a person who wanted a mesh and got none: the host is at fault, not the
// daemon.
func notStarted(err error) error {
	var own *api.Error
	if errors.As(err, &own) {
		return err
	}
	return &api.Error{Code: api.CodeUnavailable, Message: err.Error()}
}

// Leave takes this host out of its mesh, and all that meshd made off this host.
func (a *Agent) Leave(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // half-left is no state to be in
	a.changing.Lock()
	defer a.changing.Unlock()
	s, err := a.member()
	if err != nil && a.remains() {
		return a.clear(ctx)
	}
	if err != nil {
		return err
	}
	s.calls.close()
	farewell := s.farewell(ctx)
	if farewell != nil {
		a.log.Warn("the others may not have heard that this host leaves", "err", farewell)
	}
	return a.undo(ctx)
}

// undo removes everything that being a member made: the session, the kernel's state, the
// files. It can be repeated.
func (a *Agent) undo(ctx context.Context) error {
	a.mu.Lock()
	s := a.session
	a.session = nil
	a.mu.Unlock()
	var errs []error
	if s != nil {
		s.stop()
		errs = append(errs, s.withdraw(ctx))
	}
	errs = append(errs, removeState(a.cfg.StateDir), a.dir.Wipe())
	return errors.Join(errs...)
}

// Admit lets a newcomer in: it is the door's question to this host.
func (a *Agent) Admit(ctx context.Context, req door.Request, remote netip.AddrPort) (door.Response, error) {
	s, err := a.member()
	if err != nil {
		return door.Response{}, door.ErrNotMember
	}
	ctx, done, ok := s.calls.begin(ctx)
	if !ok {
		return door.Response{}, door.ErrNotMember
	}
	defer done()
	return s.admit(ctx, req, remote)
}

func (a *Agent) setJoining(joining bool) {
	a.mu.Lock()
	a.joining = joining
	a.mu.Unlock()
}

func alreadyMember(s *session) error {
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(
		"this host belongs to mesh %s already, as %s: meshd leave takes it out", s.store.mesh, s.store.Own().Name)}
}

// joinAddress is what others type to reach this host's door.
func joinAddress(candidates []netip.AddrPort, listen string) string {
	_, port, _ := net.SplitHostPort(listen)
	if len(candidates) == 0 {
		return "ADDRESS"
	}
	host := candidates[0].Addr().String()
	if n, err := strconv.Atoi(port); err == nil && n != door.DefaultPort {
		return net.JoinHostPort(host, port)
	}
	return host
}
