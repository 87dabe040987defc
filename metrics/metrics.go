// Package metrics shows the daemon's state to Prometheus, at /metrics. Every value is asked for
// when it is scraped; nothing is counted in between.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshd/meshd/api"
)

// Source is what the metrics are made of.
type Source interface {
	Status(ctx context.Context) (api.Status, error)
	Members(ctx context.Context) ([]api.Member, error)
	Endpoints(ctx context.Context) ([]api.Endpoint, error)
}

// Run serves the metrics of source on address (metrics.listen, ADDRESS:PORT) until ctx
// ends, and returns nil then. It returns at once with an error that names the key
// if it cannot listen there. An empty address serves nothing and waits for ctx.
func Run(ctx context.Context, address string, source Source, log *slog.Logger) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("metrics.listen: %s is taken by another program: choose another port, or turn metrics off with metrics.listen: off", address)
	}
	if err != nil {
		return fmt.Errorf("metrics.listen: cannot listen on %s: %w: choose an address of this host, or turn metrics off with metrics.listen: off", address, err)
	}
	return serve(ctx, listener, source, log)
}

func serve(ctx context.Context, listener net.Listener, source Source, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", handler(ctx, source, log))
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // a scrape that is cut off is made again
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics on %s: %w", listener.Addr(), err)
	}
	return nil
}

func handler(ctx context.Context, source Source, log *slog.Logger) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{ctx: ctx, source: source, log: log},
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
