// Command web is the demonstration's web service: it counts its visits in a redis that it
// knows by name only, and says who answered and whom it answered.
//
//	web [-name NAME] [-listen :80] [-db db:6379] [-grace 1s]
//	web -check URL                      fail unless it answers with success: for a HEALTHCHECK
//	web -get URL                        the same, and print the answer
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding this host's name: %w", err)
	}
	name := flag.String("name", "web", "what this replica calls itself")
	listen := flag.String("listen", ":80", "`ADDRESS:PORT` to listen on")
	grace := flag.Duration("grace", 0, "how long to go on after SIGTERM, for those who have not heard of it yet")
	check := flag.String("check", "", "ask this `URL`, fail if it fails, and do nothing else")
	get := flag.String("get", "", "ask this `URL`, print what it answers, and do nothing else")
	db := flag.String("db", "db:6379", "`NAME:PORT` of the redis that counts the visits")
	flag.Parse()
	if *check != "" {
		return ask(*check, io.Discard)
	}
	if *get != "" {
		return ask(*get, os.Stdout)
	}

	server := &http.Server{
		Addr:              *listen,
		ReadHeaderTimeout: 5 * time.Second,
		Handler:           &counter{name: *name, host: host, db: *db},
	}
	server.SetKeepAlivesEnabled(false) // each visit is a connection of its own, so that replicas take turns
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
	case <-time.After(*grace):
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return fmt.Errorf("ending the visits that are under way: %w", err)
	}
	return nil
}

// ask writes what a URL answers with success.
func ask(url string, out io.Writer) error {
	answer, err := (&http.Client{Timeout: 2 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // it was only read
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	_, err = io.Copy(out, answer.Body)
	return err
}

// counter answers every request with the number of visits so far.
type counter struct {
	name, host, db string
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" { // that it answers is all that is asked
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	visits, err := increment(ctx, c.db, "visits")
	if err != nil {
		http.Error(w, fmt.Sprintf("%s on %s cannot count: %v", c.name, c.host, err), http.StatusBadGateway)
		return
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	_, _ = fmt.Fprintf(w, "visit %s: answered by %s on %s, asked by %s\n", visits, c.name, c.host, client) // a client that is gone needs no answer
}

// increment adds one to a key of redis (INCR, in redis' own protocol) and returns the sum.
func increment(ctx context.Context, address, key string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // the answer is read by then
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "INCR %s\r\n", key); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	sum, ok := strings.CutPrefix(strings.TrimSpace(line), ":")
	if !ok {
		return "", errors.New("redis says " + strings.TrimSpace(line))
	}
	return sum, nil
}
