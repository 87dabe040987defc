// Package health finds out whether a service in a network namespace works, by using it from inside that
// namespace: by a TCP connection, or by an HTTP request.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshd/meshd/internal/netns"
)

// Check says how a service is tried. The zero Check means that it is not.
type Check struct {
	Port      uint16        `json:"port"`
	Path      string        `json:"path,omitempty"`      // of an HTTP request, with its slash; empty: a TCP connection will do
	Interval  time.Duration `json:"interval"`            // between two tries
	Timeout   time.Duration `json:"timeout"`             // of one
	Retries   int           `json:"retries"`             // so many failures in a row make a service unhealthy,
	Successes int           `json:"successes,omitempty"` // and so many successes make it healthy again; 0 is 1. The first time one is enough
}

// What is not said otherwise.
const (
	DefaultInterval  = 2 * time.Second
	DefaultTimeout   = 2 * time.Second
	DefaultRetries   = 3
	DefaultSuccesses = 1

	// eager is the interval until a service has worked once: nobody can use it before.
	eager = 250 * time.Millisecond
)

// Parse reads tcp:PORT or http:PORT/PATH, with the defaults for the rest.
func Parse(spec string) (Check, error) {
	c := Check{Interval: DefaultInterval, Timeout: DefaultTimeout, Retries: DefaultRetries, Successes: DefaultSuccesses}
	kind, rest, _ := strings.Cut(spec, ":")
	port, path, slash := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || kind != "tcp" && kind != "http" || kind == "tcp" && slash {
		return Check{}, fmt.Errorf("health check %q: write it as tcp:PORT or http:PORT/PATH, such as http:80/healthz", spec)
	}
	c.Port = uint16(n)
	if kind == "http" {
		c.Path = "/" + path
		if _, err := url.ParseRequestURI(c.Path); err != nil || strings.ContainsAny(c.Path, " #") {
			return Check{}, fmt.Errorf("health check %q: %q is no path of a URL", spec, c.Path)
		}
	}
	return c, nil
}

// Try tries the service once, on an address of the namespace at path. The error is the reason why it
// does not work.
func (c Check) Try(ctx context.Context, path string, addr netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		var conn net.Conn
		err := netns.Do(path, func() error {
			var err error
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	address := netip.AddrPortFrom(addr, c.Port).String()
	if c.Path == "" {
		conn, err := dial(ctx, "tcp", address)
		if err != nil {
			return c.reason(err)
		}
		return conn.Close()
	}
	return c.get(ctx, dial, "http://"+address+c.Path)
}

func (c Check) get(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), url string) error {
	client := http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it may lead elsewhere
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "meshd-health")
	response, err := client.Do(request)
	if err != nil {
		return c.reason(err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // that it can be read is not asked
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("http:%d%s answers %s", c.Port, c.Path, response.Status)
	}
	return nil
}

// reason puts an error into few words that are the same each time.
func (c Check) reason(err error) error {
	what := fmt.Sprintf("tcp:%d", c.Port)
	if c.Path != "" {
		what = fmt.Sprintf("http:%d%s", c.Port, c.Path)
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s does not answer within %s", what, c.Timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens on port %d", c.Port)
	case errors.Is(err, netns.ErrNotExist):
		return errors.New("its network namespace has gone")
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// State is what tries have shown so far.
type State struct {
	Known   bool // a success, or enough failures
	Healthy bool
	Reason  string // of the last failure
}

// A verdict is reached by counting. It knows no clock and no network.
type verdict struct {
	State
	failures, successes int // in a row
}

// add takes the outcome of a try, and returns whether the state has changed.
func (v *verdict) add(outcome error, c Check) bool {
	before := v.State
	if outcome == nil {
		v.failures, v.successes = 0, v.successes+1
		if !v.Known || v.Healthy || v.successes >= c.Successes {
			v.State = State{Known: true, Healthy: true}
		}
		return v.State != before
	}
	v.failures, v.successes = v.failures+1, 0
	// Once it is unhealthy, any failure says why.
	if v.failures >= c.Retries || v.Known && !v.Healthy {
		v.State = State{Known: true, Reason: outcome.Error()}
	}
	return v.State != before
}

// Watch tries again and again until ctx ends, and reports each change of the state.
func (c Check) Watch(ctx context.Context, try func(context.Context) error, report func(State)) {
	var v verdict
	worked := false
	for {
		outcome := try(ctx)
		if ctx.Err() != nil {
			return
		}
		if v.add(outcome, c) {
			report(v.State)
		}
		worked = worked || outcome == nil
		wait := c.Interval
		if !worked {
			wait = min(wait, eager)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
