package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/configs"
	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/peers/door"
	"github.com/meshd/meshd/peers/identity"
	"github.com/meshd/meshd/peers/wireguard"
)

// host is what others have to know of this host, as it is now.
type host struct {
	name       string
	version    string
	wireGuard  catalog.WireGuardKey
	candidates []netip.AddrPort
	mtu        int
	routes     []netip.Prefix
	warning    string // about the MTU
}

func readHost(ctx context.Context, cfg configs.Config, version string, id *identity.Identity) (host, error) {
	h := host{name: cfg.Node.Name, version: version, wireGuard: id.WireGuardPublic()}
	underlay, err := wireguard.ReadUnderlay("")
	if err != nil {
		return host{}, err
	}
	h.candidates = underlay.Candidates(cfg.WireGuard.ListenPort)
	if len(cfg.Node.Advertise) > 0 {
		h.candidates, err = wireguard.Advertise(ctx, cfg.Node.Advertise, cfg.WireGuard.ListenPort, wireguard.SystemLookup)
		if err != nil {
			return host{}, err
		}
	}
	h.mtu, h.warning = wireguard.DeviceMTU(underlay.MTU, h.candidates)
	routes, err := gateway.HostRoutes(GatewayBridge, hostInterface)
	if err != nil {
		return host{}, err
	}
	h.routes = catalog.SummarizeRoutes(routes)
	if h.name == "" {
		if h.name, err = os.Hostname(); err != nil {
			return host{}, fmt.Errorf("finding this host's name: %w: set node.name", err)
		}
	}
	return h, nil
}

// describe writes it into the host's document.
func (h host) describe(d *catalog.Document) {
	d.Name, d.Version, d.WireGuard, d.Candidates, d.MTU, d.Routes = h.name, h.version, h.wireGuard, h.candidates, h.mtu, h.routes
}

// admit lets a newcomer in if its token is good, tells the others, and hands the whole
// catalog over.
func (s *session) admit(ctx context.Context, req door.Request, _ netip.AddrPort) (door.Response, error) {
	certificate, err := s.sponsor(req)
	if err != nil {
		return door.Response{}, err
	}
	_ = s.loop.Sync(ctx) // the tunnel to the newcomer; what else failed is in status
	s.log.Info("let a host in", "node", catalog.NodeIDOf(req.Node))
	return door.Response{Certificate: certificate, Records: s.store.Records()}, nil
}

// sponsor certifies one newcomer at a time, so that a token's uses are counted.
func (s *session) sponsor(req door.Request) (catalog.Record, error) {
	s.registering.Lock()
	defer s.registering.Unlock()
	certificate, err := s.store.Sponsor(req)
	if err != nil {
		return catalog.Record{}, err
	}
	return certificate, s.store.Spread(req.Token, certificate, req.Document)
}

// CreateToken makes an admission token. Only a signer can.
func (s *session) CreateToken(_ context.Context, req api.TokenRequest) (api.TokenSecret, error) {
	address := joinAddress(s.store.Own().Candidates, s.cfg.Join.Listen)
	token, err := s.id.NewToken(s.store.View(), identity.TokenRequest{
		Now: now(), TTL: req.TTL, Uses: req.Uses, Signer: req.Signer,
	})
	if errors.Is(err, identity.ErrNotSigner) {
		return api.TokenSecret{}, &api.Error{Code: api.CodeDenied, Message: err.Error()}
	}
	if err != nil {
		return api.TokenSecret{}, invalid("%v", err)
	}
	if err := s.store.Spread(token.Record); err != nil {
		return api.TokenSecret{}, err
	}
	text, err := token.Text()
	if err != nil {
		return api.TokenSecret{}, err
	}
	return api.TokenSecret{
		ID: token.Invite.ID, Token: text, Expires: rfc3339(token.Invite.Expires),
		JoinCommand: "meshd join " + address + " --token " + text,
	}, nil
}

// Tokens lists the admission tokens.
func (s *session) Tokens(context.Context) ([]api.Token, error) {
	view := s.store.View()
	out := []api.Token{}
	for _, t := range view.Tokens {
		state := "valid"
		switch {
		case t.Revoked:
			state = "revoked"
		case t.Uses > 0 && t.Used >= t.Uses:
			state = "used"
		case t.Expires > 0 && t.Expires <= now():
			state = "expired"
		}
		out = append(out, api.Token{
			ID: t.ID, Created: rfc3339(t.Created), Expires: rfc3339(t.Expires), Uses: t.Uses, Used: t.Used,
			Signer: t.Signer, By: nodeName(view, t.By), State: state,
		})
	}
	return out, nil
}

// RevokeToken takes a token back.
func (s *session) RevokeToken(_ context.Context, id string) error {
	view := s.store.View()
	if err := s.mustSign(view, "take tokens back"); err != nil {
		return err
	}
	for _, t := range view.Tokens {
		if t.ID == id {
			return s.store.Publish(catalog.KindRevocation, catalog.Revocation{Mesh: view.Mesh, Token: id, Issued: now()})
		}
	}
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no token %q: see meshd token ls", id)}
}

// Evict shuts a host out for ever.
func (s *session) Evict(ctx context.Context, node string) error {
	view := s.store.View()
	if err := s.mustSign(view, "evict"); err != nil {
		return err
	}
	m, err := findMember(view, node)
	if err != nil {
		return err
	}
	if m.ID == s.store.self {
		return invalid("%s is this host: use meshd leave", m.Name)
	}
	err = s.store.Publish(catalog.KindRevocation, catalog.Revocation{
		Mesh: view.Mesh, Node: m.ID, Name: m.Name, Claims: s.store.ClaimsOf(m.ID), Issued: now(),
	})
	if err != nil {
		return err
	}
	return s.loop.Sync(ctx)
}

func (s *session) mustSign(view *catalog.View, what string) error {
	var names []string
	for _, m := range signers(view) {
		if m.ID == s.store.self {
			return nil
		}
		names = append(names, m.Name)
	}
	return &api.Error{Code: api.CodeDenied, Message: fmt.Sprintf("this host is no signer and may not %s: do it on one that is: %s", what, strings.Join(names, ", "))}
}

// signers are the members that may let hosts in and shut them out.
func signers(view *catalog.View) (out []catalog.Member) {
	for _, m := range view.Members {
		if m.Signer && !m.Evicted && !m.Left {
			out = append(out, m)
		}
	}
	return out
}

// findMember finds a member by ID or name.
func findMember(view *catalog.View, node string) (catalog.Member, error) {
	var found []catalog.Member
	for _, m := range view.Members {
		if string(m.ID) == node {
			return m, nil
		}
		if m.Name == node && !m.Evicted && !m.Left {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return catalog.Member{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no host %q: see meshd members", node)}
	default:
		return catalog.Member{}, invalid("%d hosts are named %s: give the id; see meshd members", len(found), node)
	}
}

// farewell tells the others that this host leaves on purpose.
func (s *session) farewell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	version, err := s.store.Update(func(d *catalog.Document) {
		d.Left, d.Endpoints = true, nil // the claims stay: their blocks go into quarantine
	})
	if err != nil {
		return err
	}
	heard, cancelHeard := context.WithTimeout(ctx, 2*time.Second) // the rest of the time is membership's
	defer cancelHeard()
	return errors.Join(s.syncer.Confirm(heard, version, s.aliveOthers()), s.membership.Leave(ctx))
}

// makeIngressNetwork makes the network that published ports travel over.
func (s *session) makeIngressNetwork() error {
	routes, err := gateway.HostRoutes()
	if err != nil {
		return err
	}
	record, err := s.store.View().ProposeNetwork(catalog.NetworkRequest{
		Name: catalog.IngressNetwork, Internal: true, System: true, Avoid: routes,
		Pools: s.cfg.AddressPools, PrefixLen: s.cfg.NetworkPrefix, Now: now(),
	})
	if err != nil {
		return err
	}
	return s.store.Publish(catalog.KindNetwork, record)
}

// refusal makes a caller's error of what the catalog or a door refused.
func refusal(err error) error {
	var own *api.Error
	if errors.As(err, &own) {
		return err
	}
	code := api.CodeInvalid
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		code = api.CodeNotFound
	case errors.Is(err, catalog.ErrExists), errors.Is(err, catalog.ErrInUse), errors.Is(err, catalog.ErrOverlap):
		code = api.CodeConflict
	case errors.Is(err, catalog.ErrNoRoom):
		code = api.CodeUnavailable
	}
	return &api.Error{Code: code, Message: err.Error()}
}
