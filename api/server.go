package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxBody is the size of the largest request that is read, in bytes.
const maxBody = 256 << 10

// Options are what a Server needs besides its Backend.
type Options struct {
	Log     *slog.Logger // nil: nothing is logged
	Version string       // of meshd, told by /v1/version

	Colleagues *Colleagues // nil: who may open the socket may ask everything
}

// Server answers the API: locally, or other hosts' agents.
type Server struct {
	backend    Backend
	log        *slog.Logger
	version    string
	colleagues *Colleagues
	mux        *http.ServeMux
}

// NewServer makes a Server that asks backend.
func NewServer(backend Backend, options Options) *Server {
	s := &Server{backend: backend, log: options.Log, version: options.Version, colleagues: options.Colleagues, mux: http.NewServeMux()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, r := range routes() {
		if !s.colleagues.may(r.operation) {
			continue
		}
		s.mux.HandleFunc(r.method+" "+r.path, s.handler(r))
	}
	s.mux.HandleFunc("/", s.noRoute)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r, err := s.colleagues.admit(r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Serve answers on a listener, such as [Listen] makes, until ctx ends; it closes the listener.
// It then lets calls that run end within five seconds. It returns nil when ctx ended.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the API on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		_ = server.Close() // what still ran is cut off, and its caller sees that
	}
	<-failed // the listener is closed
	return nil
}

// handler makes a route's HTTP handler.
func (s *Server) handler(r route) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		ctx := req.Context()
		if r.completes {
			ctx = context.WithoutCancel(ctx)
		}
		result, err := r.call(ctx, s, req)
		if r.change {
			s.logChange(req, err, time.Since(start))
		}
		if err != nil {
			s.writeError(w, req, err)
			return
		}
		writeJSON(w, r.status(result), withoutNil(result))
	}
}

func (s *Server) logChange(req *http.Request, err error, took time.Duration) {
	level := slog.LevelInfo
	args := []any{"call", req.Method + " " + req.URL.Path, "took", took.Round(time.Millisecond)}
	if p, ok := peerOf(req.Context()); ok {
		args = append(args, "pid", p.PID, "uid", p.UID)
	}
	if name, ok := req.Context().Value(colleagueKey{}).(string); ok {
		args = append(args, "host", name)
	}
	if err != nil {
		level = slog.LevelWarn
		var own *Error
		if errors.As(err, &own) && own.Code == CodeNotFound {
			level = slog.LevelDebug // such as an endpoint whose process ended before it was detached
		}
		args = append(args, "err", err)
	}
	s.log.Log(req.Context(), level, "change asked for", args...)
}

func (s *Server) noRoute(w http.ResponseWriter, req *http.Request) {
	s.writeError(w, req, &Error{CodeNotFound, fmt.Sprintf(
		"%s %s: this daemon (version %s) knows no such call: use a client of its own version", req.Method, req.URL.Path, s.version)})
}

// writeError answers with a *Error as it is, and with anything else as the daemon's own failure.
func (s *Server) writeError(w http.ResponseWriter, req *http.Request, err error) {
	var known *Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		known = &Error{CodeUnavailable, "the call was cut off before it was done: " + err.Error() + ": try again"}
	default:
		s.log.Error("call failed", "call", req.Method+" "+req.URL.Path, "err", err)
		known = &Error{CodeInternal, err.Error() + ": this is a failure of the daemon itself: see its log (journalctl -u meshd)"}
	}
	writeJSON(w, httpStatus(known.Code), known)
}

// httpStatus is the status that goes with a code.
func httpStatus(code Code) int {
	switch code {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeNoMesh:
		return http.StatusPreconditionFailed
	case CodeDenied:
		return http.StatusForbidden
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
