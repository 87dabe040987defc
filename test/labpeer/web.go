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
	"sync/atomic"
	"syscall"
	"time"
)

// ill is a file that makes a web server unhealthy while it exists.
const ill = "/tmp/ill"

// grace is how long nobody has asked a web server that ends after SIGTERM: then the news has reached everybody who might.
const grace = 3 * time.Second

// web answers HTTP until SIGTERM, some time more, and then until nobody waits for an answer. Each request is a connection
// of its own, for any of the replicas, unless connections are kept. Whoever goes on asking keeps it from ending.
func web(name, port string, keep bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	began := time.Now()
	var asked atomic.Int64 // when somebody did last, in nanoseconds since the beginning
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		asked.Store(int64(time.Since(began)))
		_, _ = fmt.Fprintf(w, "%s %s\n", name, r.RemoteAddr) // a client that is gone needs no answer
	})
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(ill); !errors.Is(err, fs.ErrNotExist) {
			http.Error(w, "ill", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: patience}
	server.SetKeepAlivesEnabled(keep)
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	told := time.Since(began)
	for rest := grace; rest > 0; rest = grace - (time.Since(began) - max(told, time.Duration(asked.Load()))) {
		select {
		case err := <-ended:
			return err
		case <-time.After(rest):
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return server.Shutdown(ctx)
}

func get(out io.Writer, url string) error {
	return timely(func(context.Context) error {
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
	})
}
