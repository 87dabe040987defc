package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// ill is a file that makes a web server unhealthy while it exists.
const ill = "/tmp/ill"

// grace is how long a web server goes on after SIGTERM: until the news has reached everybody who might ask, also on
// a machine that is busy with other tests.
const grace = 3 * time.Second

// web answers HTTP until SIGTERM, some time more, and then until nobody waits for an answer. Each request is a connection
// of its own, for any of the replicas, unless connections are kept.
func web(name, port string, keep bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s\n", name, r.RemoteAddr) // a client that is gone needs no answer
	})
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(ill); !errors.Is(err, fs.ErrNotExist) {
			http.Error(w, "ill", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: timeout}
	server.SetKeepAlivesEnabled(keep)
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(grace):
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*timeout)
	defer cancel()
	return server.Shutdown(ctx)
}

func get(out io.Writer, url string) error {
	client := &http.Client{Timeout: timeout}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	_, err = io.Copy(out, answer.Body)
	return err
}
