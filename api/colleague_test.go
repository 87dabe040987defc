package api_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/api/apitest"
)

// A member of the mesh is answered what colleagues may ask, and nothing else; nobody else is answered at all.
func TestColleagues(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	member := true
	backend := new(apitest.Backend)
	if _, err := backend.Init(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	server := api.NewServer(backend, api.Options{Colleagues: &api.Colleagues{
		Operations: []string{"networks"},
		Name: func(a netip.Addr) (string, bool) {
			return "h2", member && a == netip.MustParseAddr("127.0.0.1")
		},
	}})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	client := api.NewColleague("h1", func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	})
	code := func(err error) api.Code {
		var refused *api.Error
		if !errors.As(err, &refused) {
			return ""
		}
		return refused.Code
	}
	if _, err := client.Networks(ctx); err != nil {
		t.Errorf("what it may ask: %v", err)
	}
	if err := client.Leave(ctx); code(err) != api.CodeNotFound {
		t.Errorf("what it may not ask: %v", err)
	}
	member = false
	if _, err := client.Networks(ctx); code(err) != api.CodeDenied {
		t.Errorf("as no member: %v", err)
	}
	nobody := api.NewColleague("h9", func(context.Context) (net.Conn, error) { return nil, errors.New("no way there") })
	if _, err := nobody.Networks(ctx); code(err) != api.CodeUnavailable || !strings.Contains(err.Error(), "h9") {
		t.Errorf("where nobody answers: %v", err)
	}
}
