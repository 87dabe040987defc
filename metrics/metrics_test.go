package metrics

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/api/apitest"
)

var quiet = slog.New(slog.DiscardHandler)

// scrape is the lines of one scrape that are meshd's own.
func scrape(t *testing.T, source Source, log *slog.Logger) string {
	t.Helper()
	w := httptest.NewRecorder()
	handler(t.Context(), source, log).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var own strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "meshd_") {
			own.WriteString(line)
		}
	}
	return own.String()
}

const want = `meshd_build_info{version="1.0.0"} 1
meshd_endpoints{health="healthy"} 1
meshd_healthy 0
meshd_member 1
meshd_member_rtt_seconds{id="bbbb7pdl3nq2kzv5xw4tbhyr6c",name="host-b"} 0.00025
meshd_members{status="alive"} 2
meshd_members{status="evicted"} 0
meshd_members{status="failed"} 0
meshd_members{status="left"} 0
meshd_members{status="suspect"} 0
meshd_network_endpoints{network="appnet"} 1
meshd_network_used_ratio{network="appnet"} 0
meshd_networks 1
meshd_peer_handshake_age_seconds{id="bbbb7pdl3nq2kzv5xw4tbhyr6c",name="host-b"} 12.5
meshd_peer_mtu_bytes{id="bbbb7pdl3nq2kzv5xw4tbhyr6c",name="host-b"} 1420
meshd_peer_received_bytes_total{id="bbbb7pdl3nq2kzv5xw4tbhyr6c",name="host-b"} 4096
meshd_peer_sent_bytes_total{id="bbbb7pdl3nq2kzv5xw4tbhyr6c",name="host-b"} 1.536e+06
meshd_peer_up{id="bbbb7pdl3nq2kzv5xw4tbhyr6c",name="host-b"} 1
meshd_problems 1
meshd_repairs_total{part="gateway"} 0
meshd_repairs_total{part="ingress"} 3
meshd_repairs_total{part="overlay"} 0
meshd_repairs_total{part="wireguard"} 0
meshd_scrape_success 1
`

func TestScrape(t *testing.T) {
	backend := new(apitest.Backend)
	ctx := t.Context()
	if _, err := backend.Init(ctx, api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := backend.CreateNetwork(ctx, api.NetworkRequest{Name: "appnet"}); err != nil {
		t.Fatal(err)
	}
	if _, err := backend.Attach(ctx, api.AttachRequest{PID: 1, Networks: []string{"appnet"}}); err != nil {
		t.Fatal(err)
	}
	backend.Break("the disk is full: make room")
	if diff := cmp.Diff(want, scrape(t, backend, quiet)); diff != "" {
		t.Error(diff)
	}
}

type failing struct{ *apitest.Backend }

func (failing) Endpoints(context.Context) ([]api.Endpoint, error) { return nil, errors.New("broken") }

// Half an answer is better than none, and says that it is half.
func TestIncomplete(t *testing.T) {
	backend := new(apitest.Backend)
	if _, err := backend.Init(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	got := scrape(t, failing{backend}, slog.New(slog.NewTextHandler(&log, nil)))
	if !strings.Contains(got, "meshd_scrape_success 0") || !strings.Contains(got, "meshd_member 1") {
		t.Error(got)
	}
	if !strings.Contains(log.String(), "broken") {
		t.Error(log.String())
	}
}

func TestIdle(t *testing.T) {
	got := scrape(t, new(apitest.Backend), quiet)
	if !strings.Contains(got, "meshd_member 0") || strings.Contains(got, "meshd_members") {
		t.Error(got)
	}
}

func TestRun(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := Run(t.Context(), address, new(apitest.Backend), quiet); err == nil || !strings.HasPrefix(err.Error(), "metrics.listen: "+address+" is taken") {
		t.Errorf("a port that is taken: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, new(apitest.Backend), quiet) }()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != 200 {
		t.Error(resp.StatusCode, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
