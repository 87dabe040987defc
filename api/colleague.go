package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
)

// An agent asks another's in the same words as a client asks its own: HTTP and JSON, inside the tunnel.

// Colleagues are the other agents of the mesh, to a Server that answers them.
type Colleagues struct {
	Operations []string // what they may ask, by the operationId in openapi.yaml
	// Name says which member has an address of the mesh, which WireGuard lets nobody else have; it is false
	// for addresses of none.
	Name func(netip.Addr) (string, bool)
}

func (c *Colleagues) may(operation string) bool {
	return c == nil || slices.Contains(c.Operations, operation)
}

type colleagueKey struct{}

// admit lets members of the mesh in, and remembers who asks.
func (c *Colleagues) admit(req *http.Request) (*http.Request, error) {
	if c == nil {
		return req, nil
	}
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err == nil {
		if name, ok := c.Name(from.Addr()); ok {
			return req.WithContext(context.WithValue(req.Context(), colleagueKey{}, name)), nil
		}
	}
	return req, &Error{CodeDenied, fmt.Sprintf("%s is no member of this mesh", req.RemoteAddr)}
}

// NewColleague makes a client of another host's agent, whose name errors mention; dial connects to it. It can ask what that
// agent's Server was told to answer.
func NewColleague(name string, dial func(context.Context) (net.Conn, error)) *Client {
	connect := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	return &Client{
		http:    &http.Client{Transport: &http.Transport{DialContext: connect, DisableKeepAlives: true}},
		explain: func(ctx context.Context, err error) error { return explainColleague(ctx, name, err) },
	}
}

func explainColleague(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return &Error{CodeUnavailable, fmt.Sprintf("given up before host %s answered: %v: try again", name, context.Cause(ctx))}
	}
	var cause *net.OpError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return &Error{CodeUnavailable, fmt.Sprintf("cannot ask host %s: %v: see whether it is alive and its agent runs (meshd members), or run the command there", name, err)}
}
