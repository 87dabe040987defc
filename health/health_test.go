package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/internal/netns"
)

func TestParse(t *testing.T) {
	for spec, want := range map[string]Check{
		"tcp:80":        {Port: 80},
		"http:80":       {Port: 80, Path: "/"},
		"http:80/":      {Port: 80, Path: "/"},
		"http:8080/a/b": {Port: 8080, Path: "/a/b"},
	} {
		want.Interval, want.Timeout, want.Retries, want.Successes = DefaultInterval, DefaultTimeout, DefaultRetries, DefaultSuccesses
		if got, err := Parse(spec); err != nil || got != want {
			t.Errorf("%s: %v, %v", spec, got, err)
		}
	}
	for _, spec := range []string{"", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:80/x", "udp:53", "http:x/", "http:80/a b"} {
		if got, err := Parse(spec); err == nil || !strings.Contains(err.Error(), spec) {
			t.Errorf("%q: %v, %v", spec, got, err)
		}
	}
}

var loopback = netip.MustParseAddr("127.0.0.1")

func TestTry(t *testing.T) {
	here := linktest.Namespace(t, "here") // nobody else takes the port when it is free again
	status := http.StatusOK
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	mux.HandleFunc("/stuck", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	var listener net.Listener
	if err := netns.Do(here, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(loopback, 80).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	try := func(c Check) error {
		c.Port = 80
		if c.Timeout == 0 {
			c.Timeout = 30 * time.Second
		}
		return c.Try(context.Background(), here, loopback)
	}
	if err := try(Check{}); err != nil {
		t.Error(err)
	}
	if err := try(Check{Path: "/healthz"}); err != nil {
		t.Error(err)
	}
	status = http.StatusServiceUnavailable
	if err := try(Check{Path: "/healthz"}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Error(err)
	}
	if err := try(Check{Path: "/stuck", Timeout: 50 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "within 50ms") {
		t.Error(err)
	}
	_ = server.Close()
	if err := try(Check{}); err == nil || !strings.Contains(err.Error(), "nobody listens") {
		t.Error(err)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		broken := errors.New("broken")
		outcomes := []error{broken, broken, nil, broken, broken, nil, broken, broken, broken, broken, nil}
		began := time.Now()
		var reports []State
		var took []time.Duration
		Check{Interval: DefaultInterval, Retries: 3}.Watch(ctx, func(context.Context) error {
			if len(outcomes) == 1 {
				cancel()
			}
			next := outcomes[0]
			outcomes = outcomes[1:]
			return next
		}, func(s State) {
			reports, took = append(reports, s), append(took, time.Since(began))
		})
		// The last success came with the end: nobody wants to hear of it.
		if want := []State{{true, true, ""}, {true, false, "broken"}}; !slices.Equal(reports, want) {
			t.Errorf("reports %v, want %v", reports, want)
		}
		if want := []time.Duration{2 * eager, 2*eager + 6*DefaultInterval}; !slices.Equal(took, want) {
			t.Errorf("reported after %v, want %v", took, want)
		}
	})
}

func TestVerdict(t *testing.T) {
	failed := errors.New("broken")
	for what, test := range map[string]struct {
		check    Check
		outcomes string // + a success, - a failure
		want     string // the state after each: ? not known, + healthy, - not
	}{
		"one success is enough at first":       {Check{Retries: 2, Successes: 3}, "+", "+"},
		"failures in a row":                    {Check{Retries: 2, Successes: 1}, "+-+--", "++++-"},
		"never worked":                         {Check{Retries: 3, Successes: 2}, "---", "??-"},
		"it works again after some successes":  {Check{Retries: 1, Successes: 3}, "+-+++", "+---+"},
		"and they are to be in a row":          {Check{Retries: 2, Successes: 2}, "+--+-++", "++----+"},
		"without a number one success mends":   {Check{Retries: 1}, "-+-+", "-+-+"},
		"a healthy one needs no more of them":  {Check{Retries: 2, Successes: 5}, "+-+-+", "+++++"},
		"unhealthy from the start, then mends": {Check{Retries: 1, Successes: 2}, "-++", "--+"},
	} {
		var v verdict
		got := ""
		for _, outcome := range test.outcomes {
			err := failed
			if outcome == '+' {
				err = nil
			}
			v.add(err, test.check)
			switch {
			case !v.Known:
				got += "?"
			case v.Healthy:
				got += "+"
			default:
				got += "-"
			}
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", what, got, test.want)
		}
	}
}
