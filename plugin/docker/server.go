package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// The Engine waits for the plugin with locks of its own held: what takes longer is told to
// try again, or goes on after the answer.
const callTimeout = 1800 * time.Millisecond

// method answers one of the Engine's calls.
type method func(ctx context.Context, r *http.Request) (any, error)

// answer makes a method of a function that takes the decoded request.
func answer[Request, Response any](f func(context.Context, Request) (Response, error)) method {
	return func(ctx context.Context, r *http.Request) (any, error) {
		var req Request
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		return f(ctx, req)
	}
}

type nothing struct{}

// fixedAnswers is to the calls that are always answered alike, by path.
func fixedAnswers() map[string]any {
	return map[string]any{
		"/Plugin.Activate": map[string]any{"Implements": []string{"NetworkDriver", "IpamDriver"}},

		"/NetworkDriver.GetCapabilities":             map[string]any{"Scope": "local", "ConnectivityScope": "global"},
		"/NetworkDriver.EndpointOperInfo":            map[string]any{"Value": map[string]any{}},
		"/NetworkDriver.DiscoverNew":                 nothing{},
		"/NetworkDriver.DiscoverDelete":              nothing{},
		"/NetworkDriver.ProgramExternalConnectivity": nothing{}, // the daemon publishes ports
		"/NetworkDriver.RevokeExternalConnectivity":  nothing{},

		// With the MAC, the two addresses of one endpoint are known to belong together. Nothing need be replayed
		// when the Engine starts: what it holds is in our state.
		"/IpamDriver.GetCapabilities":         map[string]any{"RequiresMACAddress": true, "RequiresRequestReplay": false},
		"/IpamDriver.GetDefaultAddressSpaces": map[string]any{"LocalDefaultAddressSpace": Driver, "GlobalDefaultAddressSpace": Driver},
	}
}

// methods is all that libnetwork calls, by path.
func (p *Plugin) methods() map[string]method {
	all := map[string]method{
		"/NetworkDriver.CreateNetwork":  answer(p.createNetwork),
		"/NetworkDriver.DeleteNetwork":  answer(p.deleteNetwork),
		"/NetworkDriver.CreateEndpoint": answer(p.createEndpoint),
		"/NetworkDriver.DeleteEndpoint": answer(p.deleteEndpoint),
		"/NetworkDriver.Join":           answer(p.join),
		"/NetworkDriver.Leave":          answer(p.leave),

		"/IpamDriver.RequestPool":    answer(p.requestPool),
		"/IpamDriver.ReleasePool":    answer(p.releasePool),
		"/IpamDriver.RequestAddress": answer(p.requestAddress),
		"/IpamDriver.ReleaseAddress": answer(p.releaseAddress),
	}
	for path, v := range fixedAnswers() {
		all[path] = func(context.Context, *http.Request) (any, error) { return v, nil }
	}
	return all
}

func (p *Plugin) handler() http.Handler {
	mux := http.NewServeMux()
	for path, m := range p.methods() {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
			defer cancel()
			began := time.Now()
			response, err := m(ctx, r)
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("the mesh did not answer in %s: try again, and see meshd status (%w)", callTimeout, err)
			}
			if err != nil {
				response = refused{err.Error(), err.Error()}
			}
			p.log.LogAttrs(ctx, slog.LevelDebug, "the Engine asked", slog.String("method", path[1:]), slog.Duration("took", time.Since(began)), slog.Any("err", err))
			w.Header().Set("Content-Type", contentType)
			_ = json.NewEncoder(w).Encode(response) // an Engine that went hears nothing
		})
	}
	return mux
}

// serve answers the Engine until ctx ends.
func (p *Plugin) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: p.handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }, // calls under way finish
	}
	stop := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = server.Shutdown(last) // what still runs is cut off
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering Docker: %w", err)
	}
	return nil
}
