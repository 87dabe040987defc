package api_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/api/apitest"
)

// serve runs a server on a socket and returns a client of it. The returned function stops it.
func serve(t *testing.T, backend api.Backend, log *slog.Logger) (*api.Client, string, func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "meshd.sock")
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- api.NewServer(backend, api.Options{Log: log, Version: "1.2.3"}).Serve(ctx, listener) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return api.NewClient(socket), socket, stop
}

// Whatever the backend answers, the client has.
func TestRoundTrip(t *testing.T) {
	direct, behind := new(apitest.Backend), new(apitest.Backend)
	client, _, _ := serve(t, behind, nil)
	for _, step := range []func(api.Backend) (any, error){
		func(b api.Backend) (any, error) { return b.Networks(t.Context()) }, // no mesh yet
		func(b api.Backend) (any, error) { return b.Init(t.Context(), api.InitRequest{}) },
		func(b api.Backend) (any, error) {
			return b.Join(t.Context(), api.JoinRequest{Addresses: []string{"a"}, Token: "x"})
		},
		func(b api.Backend) (any, error) { return b.Members(t.Context()) },
		func(b api.Backend) (any, error) {
			return b.CreateToken(t.Context(), api.TokenRequest{TTL: time.Hour, Uses: 2, Signer: true})
		},
		func(b api.Backend) (any, error) { return nil, b.RevokeToken(t.Context(), "tok1") },
		func(b api.Backend) (any, error) { return nil, b.RevokeToken(t.Context(), "a/b?c") },
		func(b api.Backend) (any, error) { return b.Tokens(t.Context()) },
		func(b api.Backend) (any, error) {
			return b.CreateNetwork(t.Context(), api.NetworkRequest{Name: "appnet", Subnets: []string{"10.1.0.0/16"}, Internal: true})
		},
		func(b api.Backend) (any, error) {
			return b.Attach(t.Context(), api.AttachRequest{PID: 1, Networks: []string{"appnet"}, Name: "db-1", Service: "db",
				Publish: []api.Publish{{Published: 8080, Target: 80, Protocol: "tcp"}}})
		},
		func(b api.Backend) (any, error) { return b.Network(t.Context(), "appnet") },
		func(b api.Backend) (any, error) { return b.Networks(t.Context()) },
		func(b api.Backend) (any, error) { return b.Services(t.Context()) },
		func(b api.Backend) (any, error) { return b.Service(t.Context(), "db.appnet") },
		func(b api.Backend) (any, error) { return b.Service(t.Context(), "none") },
		func(b api.Backend) (any, error) {
			return b.UpdateService(t.Context(), "db.appnet", api.ServiceRequest{Affinity: "client-ip", Unpublish: []api.Port{{Port: 8080}},
				Publish: []api.Publish{{Published: 1, Target: 2, Protocol: "udp"}}})
		},
		func(b api.Backend) (any, error) { return b.UpdateService(t.Context(), "none", api.ServiceRequest{}) },
		func(b api.Backend) (any, error) { return b.Endpoints(t.Context()) },
		func(b api.Backend) (any, error) {
			return nil, b.Drain(t.Context(), api.DrainRequest{Endpoint: "db-1", Limit: time.Minute, Wait: true})
		},
		func(b api.Backend) (any, error) { return nil, b.Drain(t.Context(), api.DrainRequest{Endpoint: "none"}) },
		func(b api.Backend) (any, error) { return nil, b.RemoveNetwork(t.Context(), "appnet") }, // in use
		func(b api.Backend) (any, error) {
			return b.Attach(t.Context(), api.AttachRequest{NetNS: "/run/netns/x", Networks: []string{"appnet"}, Key: "cni/x", Interface: "eth0", Owner: "list"})
		},
		func(b api.Backend) (any, error) { return b.Endpoints(t.Context()) },
		func(b api.Backend) (any, error) {
			return nil, b.DetachKey(t.Context(), api.DetachRequest{Key: "cni/x", Network: "appnet"})
		},
		func(b api.Backend) (any, error) {
			return nil, b.DetachKey(t.Context(), api.DetachRequest{Key: "cni/x"})
		}, // gone
		func(b api.Backend) (any, error) { return nil, b.Detach(t.Context(), "db-1") },
		func(b api.Backend) (any, error) { return nil, b.RemoveNetwork(t.Context(), "appnet") },
		func(b api.Backend) (any, error) { return nil, b.Evict(t.Context(), "host-b") },
		func(b api.Backend) (any, error) { return nil, b.Leave(t.Context()) },
	} {
		want, wantErr := step(direct)
		got, gotErr := step(client)
		if !reflect.DeepEqual(wantErr, gotErr) {
			t.Errorf("error %#v, want %#v", gotErr, wantErr)
		}
		if diff := cmp.Diff(want, got, emptyIsNil); wantErr == nil && diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(direct.Changes(), behind.Changes()); diff != "" {
		t.Error(diff)
	}
	if v, err := client.Version(t.Context()); err != nil || v.Version != "1.2.3" {
		t.Error(v, err)
	}
}

var emptyIsNil = cmpopts.EquateEmpty()

func TestRawHTTP(t *testing.T) {
	backend := new(apitest.Backend)
	server := api.NewServer(backend, api.Options{Version: "1.2.3"})
	ask := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/members", "", 412, `{"code":"no_mesh","message":"this host belongs to no mesh`},
		{"POST", "/v1/init", "", 200, `"join_command":"sudo meshd join`},
		{"POST", "/v1/init", "{}", 409, `"code":"conflict"`},
		{"GET", "/v1/networks", "", 200, "[]"},
		{"GET", "/v1/status", "", 200, `"health":[]`},
		{"GET", "/v1/healthz", "", 200, `{"healthy":true,"health":[]}`},
		{"POST", "/v1/networks", `{"name":"a","subnet":["10.0.0.0/8"]}`, 400, `unknown field \"subnet\"`},
		{"POST", "/v1/networks", `{"name":"a"} {}`, 400, `there is more after the JSON object`},
		{"POST", "/v1/networks", `{"name":7}`, 400, `"code":"invalid"`},
		{"POST", "/v1/networks", `{"name":"` + strings.Repeat("a", 300<<10) + `"}`, 400, `larger than 262144 bytes`},
		{"GET", "/v1/networks/none", "", 404, `"code":"not_found"`},
		{"PUT", "/v1/networks", "", 404, `"code":"not_found"`},
		{"GET", "/v2/networks", "", 404, `knows no such call`},
		{"POST", "/v1/evict", `{"node":"host-b"}`, 204, ""},
	} {
		if status, body := ask(test.method, test.path, test.body); status != test.status || !strings.Contains(body, test.want) {
			t.Errorf("%s %s: %d %.200s, want %d %s", test.method, test.path, status, body, test.status, test.want)
		}
	}
	backend.Break("no peer answers: check the firewall")
	if status, body := ask("GET", "/v1/healthz", ""); status != 503 || !strings.Contains(body, "no peer answers") {
		t.Error(status, body)
	}
}

type broken struct{ api.Backend }

func (broken) Members(context.Context) ([]api.Member, error) { return nil, errors.New("disk on fire") }

func TestInternalError(t *testing.T) {
	client, _, _ := serve(t, broken{}, nil)
	_, err := client.Members(t.Context())
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeInternal || !strings.HasPrefix(e.Message, "disk on fire: ") {
		t.Error(err)
	}
}

// joining tells when a join has come to the daemon.
type joining struct {
	*apitest.Backend
	entered chan struct{}
}

func (j joining) Join(ctx context.Context, req api.JoinRequest) (api.Status, error) {
	close(j.entered)
	return j.Backend.Join(ctx, req)
}

// A join that nobody waits for any more is given up; the change and who asked are logged.
func TestClientGoes(t *testing.T) {
	backend := joining{new(apitest.Backend), make(chan struct{})}
	var log bytes.Buffer
	client, _, stop := serve(t, backend, slog.New(slog.NewTextHandler(&log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-backend.entered
		cancel()
	}()
	_, err := client.Join(ctx, api.JoinRequest{Addresses: []string{"a"}, Token: "wait"})
	if err == nil || !strings.HasPrefix(err.Error(), "given up") {
		t.Error(err)
	}
	stop() // waits for the call
	if got := backend.Changes(); !slices.Equal(got, []string{"join given up"}) {
		t.Error(got)
	}
	if !strings.Contains(log.String(), "call=\"POST /v1/join\"") || !strings.Contains(log.String(), "pid=") {
		t.Error(log.String())
	}
}

type slow struct {
	api.Backend
	entered, proceed chan struct{}
	err              chan error
}

func (s slow) Leave(ctx context.Context) error {
	close(s.entered)
	<-s.proceed
	s.err <- ctx.Err()
	return nil
}

// A change that is under way is done to its end, also without its client.
func TestChangeCompletes(t *testing.T) {
	backend := slow{entered: make(chan struct{}), proceed: make(chan struct{}), err: make(chan error, 1)}
	client, _, stop := serve(t, backend, nil)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() { _ = client.Leave(ctx); close(gone) }()
	<-backend.entered
	cancel()
	<-gone
	close(backend.proceed)
	if err := <-backend.err; err != nil {
		t.Errorf("the change saw %v", err)
	}
	stop()
}

func TestSocket(t *testing.T) {
	_, socket, stop := serve(t, new(apitest.Backend), nil)
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatal(info.Mode(), err)
	}
	if _, err := api.Listen(socket); err == nil || !strings.Contains(err.Error(), "another meshd agent runs there") {
		t.Errorf("a second daemon: %v", err)
	}
	stop()
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "meshd.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if _, err := api.Listen(socket); err == nil {
		t.Error("took the socket of somebody who answers")
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatalf("a dead one's socket: %v", err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(socket); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in its place: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(socket), ".new*"))
	if err != nil || len(left) > 0 {
		t.Error("left behind:", left, err)
	}
	if _, err := api.Listen("/" + strings.Repeat("x", 120) + "/meshd.sock"); err == nil || !strings.Contains(err.Error(), "shorter runtime_dir") {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{filepath.Join(dir, "none.sock"), stale} {
		_, err := api.NewClient(socket).Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), socket+": it is not running: start it with") || strings.Contains(err.Error(), "\n") {
			t.Error(err)
		}
	}
	long := filepath.Join(dir, strings.Repeat("x", 108))
	if _, err := api.NewClient(long).Status(t.Context()); err == nil || !strings.Contains(err.Error(), long+": no socket has so long a path") {
		t.Error(err)
	}
	hangup, err := net.Listen("unix", filepath.Join(dir, "hangup.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })} //nolint:gosec // no timeouts in a test
	go func() { _ = server.Serve(hangup) }()
	t.Cleanup(func() { _ = server.Close() })
	_, err = api.NewClient(hangup.Addr().String()).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "went away before it answered") {
		t.Error(err)
	}
}
