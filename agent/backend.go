package agent

import (
	"context"
	"errors"

	"github.com/meshd/meshd/api"
)

// The Agent is the API's backend. What needs a mesh goes to the session.
var _ api.Backend = (*Agent)(nil)

// inMesh asks the session, if there is one. It ends when the session does.
func inMesh[T any](ctx context.Context, a *Agent, ask func(context.Context, *session) (T, error)) (T, error) {
	s, err := a.member()
	if err != nil {
		var none T
		return none, err
	}
	return during(ctx, s, ask)
}

// during asks a session. It ends when the session does.
func during[T any](ctx context.Context, s *session, ask func(context.Context, *session) (T, error)) (T, error) {
	var none T
	ending := &api.Error{Code: api.CodeUnavailable, Message: errStopped.Error()}
	call, done, ok := s.calls.begin(ctx)
	if !ok {
		return none, ending
	}
	defer done()
	answer, err := ask(call, s)
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return none, errors.Join(ending, err)
	}
	return answer, err
}

// tellMesh is inMesh for what has no answer.
func tellMesh(ctx context.Context, a *Agent, tell func(context.Context, *session) error) error {
	_, err := inMesh(ctx, a, func(ctx context.Context, s *session) (struct{}, error) { return struct{}{}, tell(ctx, s) })
	return err
}

// Members lists the hosts of the mesh.
func (a *Agent) Members(ctx context.Context) ([]api.Member, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) ([]api.Member, error) { return s.Members(ctx) })
}

// Evict shuts a host out for ever.
func (a *Agent) Evict(ctx context.Context, node string) error {
	return tellMesh(ctx, a, func(ctx context.Context, s *session) error { return s.Evict(ctx, node) })
}

// CreateToken makes an admission token.
func (a *Agent) CreateToken(ctx context.Context, req api.TokenRequest) (api.TokenSecret, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.TokenSecret, error) { return s.CreateToken(ctx, req) })
}

// Tokens lists the admission tokens.
func (a *Agent) Tokens(ctx context.Context) ([]api.Token, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) ([]api.Token, error) { return s.Tokens(ctx) })
}

// RevokeToken takes a token back.
func (a *Agent) RevokeToken(ctx context.Context, id string) error {
	return tellMesh(ctx, a, func(ctx context.Context, s *session) error { return s.RevokeToken(ctx, id) })
}

// CreateNetwork makes a network.
func (a *Agent) CreateNetwork(ctx context.Context, req api.NetworkRequest) (api.Network, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Network, error) { return s.CreateNetwork(ctx, req) })
}

// GrowNetwork gives a network one more subnet.
func (a *Agent) GrowNetwork(ctx context.Context, req api.GrowthRequest) (api.Network, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Network, error) { return s.GrowNetwork(ctx, req) })
}

// Networks lists the networks.
func (a *Agent) Networks(ctx context.Context) ([]api.Network, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) ([]api.Network, error) { return s.Networks(ctx) })
}

// Network describes one network.
func (a *Agent) Network(ctx context.Context, name string) (api.NetworkDetail, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.NetworkDetail, error) { return s.Network(ctx, name) })
}

// RemoveNetwork removes a network that nobody uses.
func (a *Agent) RemoveNetwork(ctx context.Context, name string) error {
	return tellMesh(ctx, a, func(ctx context.Context, s *session) error { return s.RemoveNetwork(ctx, name) })
}

// Events tells what happened.
func (a *Agent) Events(ctx context.Context, req api.EventsRequest) (api.Events, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Events, error) { return s.Events(ctx, req) })
}

// Services lists the services.
func (a *Agent) Services(ctx context.Context) ([]api.Service, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) ([]api.Service, error) { return s.Services(ctx) })
}

// Service describes one service.
func (a *Agent) Service(ctx context.Context, name string) (api.Service, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Service, error) { return s.Service(ctx, name) })
}

// UpdateService changes a service everywhere.
func (a *Agent) UpdateService(ctx context.Context, name string, req api.ServiceRequest) (api.Service, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Service, error) { return s.UpdateService(ctx, name, req) })
}

// Attach puts a namespace on networks.
func (a *Agent) Attach(ctx context.Context, req api.AttachRequest) (api.Attached, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) (api.Attached, error) { return s.Attach(ctx, req) })
}

// Drain takes endpoints out of rotation, or puts them back.
func (a *Agent) Drain(ctx context.Context, req api.DrainRequest) error {
	return tellMesh(ctx, a, func(ctx context.Context, s *session) error { return s.Drain(ctx, req) })
}

// Detach takes an endpoint off its networks.
func (a *Agent) Detach(ctx context.Context, endpoint string) error {
	return tellMesh(ctx, a, func(ctx context.Context, s *session) error { return s.Detach(ctx, endpoint) })
}

// DetachKey takes an endpoint off one of its networks, or off all, by its key.
func (a *Agent) DetachKey(ctx context.Context, req api.DetachRequest) error {
	return tellMesh(ctx, a, func(ctx context.Context, s *session) error { return s.DetachKey(ctx, req) })
}

// Endpoints lists the endpoints.
func (a *Agent) Endpoints(ctx context.Context) ([]api.Endpoint, error) {
	return inMesh(ctx, a, func(ctx context.Context, s *session) ([]api.Endpoint, error) { return s.Endpoints(ctx) })
}
