package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/peers/door"
)

// pairing is this host waiting at a signer's door.
type pairing struct {
	id string
	*door.Pairing
}

// Pair knocks at a signer's door. Until Join has waited there, another call or the door's patience ends it.
func (a *Agent) Pair(ctx context.Context, req api.PairRequest) (api.Pairing, error) {
	if s, err := a.member(); err == nil {
		return api.Pairing{}, alreadyMember(s)
	}
	waiting, err := door.Pair(ctx, req.Addresses, a.cfg.Node.Name)
	if err != nil {
		return api.Pairing{}, notStarted(refusal(err))
	}
	p := &pairing{newInstance(), waiting}
	a.setPairing(p)
	return api.Pairing{
		ID: p.id, Code: p.Code, Name: a.cfg.Node.Name, Address: p.Address, Expires: p.Expires.UTC().Format(time.RFC3339),
	}, nil
}

// setPairing puts p in the place of the pairing before, which ends.
func (a *Agent) setPairing(p *pairing) {
	a.mu.Lock()
	before := a.pairing
	a.pairing = p
	a.mu.Unlock()
	if before != nil {
		before.Close()
	}
}

// letIn waits at the door until this host is let in, and returns how to join then.
func (a *Agent) letIn(ctx context.Context, id string) (api.JoinRequest, error) {
	a.mu.Lock()
	p := a.pairing
	if p != nil && p.id == id {
		a.pairing = nil // ours now
	}
	a.mu.Unlock()
	if p == nil || p.id != id {
		return api.JoinRequest{}, &api.Error{Code: api.CodeNotFound, Message: "this host does not wait at any door: run meshd join again"}
	}
	defer p.Close()
	token, err := p.Wait(ctx)
	if err != nil {
		return api.JoinRequest{}, notStarted(refusal(err))
	}
	return api.JoinRequest{Addresses: []string{p.Address}, Token: token}, nil
}

// Waiting lists the hosts that wait at this host's door.
func (a *Agent) Waiting(context.Context) ([]api.Waiting, error) {
	if err := a.mayLetIn(); err != nil {
		return nil, err
	}
	list := []api.Waiting{}
	for _, w := range a.door.Waiting() {
		list = append(list, api.Waiting{
			Name: w.Name, Code: w.Code, Address: w.Remote.Addr().String(), Since: w.Since.UTC().Format(time.RFC3339),
		})
	}
	return list, nil
}

func (a *Agent) mayLetIn() error {
	s, err := a.member()
	if err != nil {
		return err
	}
	return s.mustSign(s.store.View(), "let hosts in")
}

// LetIn sends a host that waits a token of its own.
func (a *Agent) LetIn(ctx context.Context, req api.LetInRequest) error {
	if err := a.mayLetIn(); err != nil {
		return err
	}
	if err := a.checkWaits(req); err != nil {
		return err
	}
	s, err := a.member()
	if err != nil {
		return err
	}
	token, err := s.CreateToken(ctx, api.TokenRequest{TTL: door.PairTime, Uses: 1})
	if err != nil {
		return err
	}
	if err := a.door.Grant(ctx, req.Name, req.Code, token.Token); err != nil {
		err = errors.Join(err, s.RevokeToken(ctx, token.ID))
		return &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("%s was not let in: %v: run meshd join there again", req.Name, err)}
	}
	return nil
}

// checkWaits says why the host that is asked for cannot be let in.
func (a *Agent) checkWaits(req api.LetInRequest) error {
	named := false
	for _, w := range a.door.Waiting() {
		if w.Name == req.Name && w.Code == req.Code {
			return nil
		}
		named = named || w.Name == req.Name
	}
	if named {
		return &api.Error{Code: api.CodeDenied, Message: fmt.Sprintf(
			"%s does not wait with the code %q: if it shows another code than meshd admit does here, somebody sits between the two hosts: do not let it in", req.Name, req.Code)}
	}
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no host %q waits at this host's door: see meshd admit, and run meshd join there", req.Name)}
}
