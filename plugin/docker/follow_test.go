package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
)

// fakeEngine is a small Docker Engine: its networks and containers, over HTTP on a Unix socket, as version
// 1.41 of its API has them.
type fakeEngine struct {
	t      *testing.T
	socket string

	mu         sync.Mutex // guards all below
	networks   map[string]map[string]any
	containers map[string]map[string]any
	on         map[string]map[string]string // network → container → endpoint
	made       int
	changes    []string
	watchers   []chan string
	asks       func(path, body string) // the driver of networks; nil: nobody is asked
}

func newFakeEngine(t *testing.T) *fakeEngine {
	e := &fakeEngine{
		t: t, socket: filepath.Join(t.TempDir(), "docker.sock"), networks: map[string]map[string]any{},
		containers: map[string]map[string]any{}, on: map[string]map[string]string{},
	}
	listener, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
	mux.HandleFunc("GET /v1.41/version", func(w http.ResponseWriter, _ *http.Request) { e.say(w, map[string]any{"Version": "20.10.24"}) })
	mux.HandleFunc("GET /v1.41/events", e.serveEvents)
	mux.HandleFunc("GET /v1.41/networks", func(w http.ResponseWriter, _ *http.Request) { e.say(w, e.list(e.networks)) })
	mux.HandleFunc("POST /v1.41/networks/create", e.serveCreate)
	mux.HandleFunc("GET /v1.41/networks/{id}", e.serveNetwork)
	mux.HandleFunc("DELETE /v1.41/networks/{id}", e.serveRemove)
	mux.HandleFunc("GET /v1.41/containers/json", func(w http.ResponseWriter, _ *http.Request) { e.say(w, e.list(e.containers)) })
	mux.HandleFunc("GET /v1.41/containers/{id}/json", e.serveContainer)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return e
}

func (e *fakeEngine) say(w http.ResponseWriter, v any) {
	e.mu.Lock() // a test may change what it is made of
	data, err := json.Marshal(v)
	e.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // who does not listen any more needs no answer
}

func (e *fakeEngine) list(of map[string]map[string]any) []map[string]any {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := []map[string]any{}
	for _, id := range sortedKeys(of) {
		out = append(out, of[id])
	}
	return out
}

func (e *fakeEngine) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	lines := make(chan string, 100)
	e.mu.Lock()
	e.watchers = append(e.watchers, lines)
	e.mu.Unlock()
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case line := <-lines:
			fmt.Fprintln(w, line)
			w.(http.Flusher).Flush()
		}
	}
}

// Event tells all who listen.
func (e *fakeEngine) Event(kind, action, id string, attributes map[string]string) {
	data, err := json.Marshal(map[string]any{"Type": kind, "Action": action, "Actor": map[string]any{"ID": id, "Attributes": attributes}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.watchers {
		w <- string(data)
	}
}

func (e *fakeEngine) serveCreate(w http.ResponseWriter, r *http.Request) {
	var req map[string]any
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.say(w, map[string]string{"Id": e.CreateNetwork(req)})
}

// CreateNetwork makes a network of what POST /networks/create says.
func (e *fakeEngine) CreateNetwork(n map[string]any) string {
	e.mu.Lock()
	e.made++
	id := fmt.Sprintf("net%d", e.made)
	n["Id"], n["Scope"] = id, "local"
	asks := e.asks
	e.mu.Unlock()
	if asks != nil && ipamOf(n) == Driver {
		subnet := n["IPAM"].(map[string]any)["Config"].([]any)[0].(map[string]any)["Subnet"]
		asks("/NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID":%q,"IPv4Data":[{"AddressSpace":"meshd","Pool":%q}]}`, id, subnet))
	}
	e.mu.Lock()
	e.networks[id] = n
	e.changes = append(e.changes, fmt.Sprintf("create %s %s %v", id, n["Name"], n["IPAM"]))
	e.mu.Unlock()
	e.Event("network", "create", id, map[string]string{"name": fmt.Sprint(n["Name"]), "type": "meshd"})
	return id
}

func (e *fakeEngine) serveNetwork(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	containers := map[string]any{}
	for c, endpoint := range e.on[r.PathValue("id")] {
		containers[c] = map[string]any{"EndpointID": endpoint}
	}
	e.mu.Unlock()
	e.say(w, map[string]any{"Id": r.PathValue("id"), "Containers": containers})
}

func (e *fakeEngine) serveRemove(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	delete(e.networks, r.PathValue("id"))
	e.changes = append(e.changes, "remove "+r.PathValue("id"))
	asks := e.asks
	e.mu.Unlock()
	if asks != nil {
		asks("/NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, r.PathValue("id")))
	}
	w.WriteHeader(http.StatusNoContent)
	e.Event("network", "destroy", r.PathValue("id"), nil)
}

func (e *fakeEngine) serveContainer(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	c, ok := e.containers[r.PathValue("id")]
	e.mu.Unlock()
	if !ok {
		http.Error(w, `{"message":"no such container"}`, http.StatusNotFound)
		return
	}
	e.say(w, c)
}

// Changes returns what was changed since the last call.
func (e *fakeEngine) Changes() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := strings.Join(e.changes, "\n")
	e.changes = nil
	return out
}

// until waits until a condition holds, which it says what it lacks of.
func until(t *testing.T, lacks func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		missing := lacks()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("gave up waiting: " + missing)
		}
		<-ticker.C
	}
}

// follow has a plugin follow the engine until the test ends.
func follow(t *testing.T, mesh *fakeMesh, engine *fakeEngine) *Plugin {
	t.Helper()
	p := newPlugin(t, mesh, engine.socket)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- p.follow(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	until(t, func() string {
		engine.mu.Lock()
		defer engine.mu.Unlock()
		if len(engine.watchers) == 0 {
			return "nobody listens to events"
		}
		return ""
	})
	return p
}

func ipamOf(network map[string]any) string {
	ipam, _ := network["IPAM"].(map[string]any)
	return fmt.Sprint(ipam["Driver"])
}

// TestNetworksBothWays: a network made in Docker comes into the mesh, one of the mesh's comes into Docker, and
// one that the mesh has no more goes.
func TestNetworksBothWays(t *testing.T) {
	mesh, engine := newFakeMesh(), newFakeEngine(t)
	p := follow(t, mesh, engine)
	call(t, p, "/NetworkDriver.CreateNetwork", `{"NetworkID":"net1","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"172.18.0.0/16"}]}`)
	engine.CreateNetwork(map[string]any{
		"Name": "appnet", "Driver": "meshd", "Labels": map[string]string{"a": "b"},
		"IPAM": map[string]any{"Driver": "default", "Config": []any{map[string]any{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}}},
	})
	until(t, func() string {
		engine.mu.Lock()
		defer engine.mu.Unlock()
		if n := engine.networks["net2"]; n == nil || ipamOf(n) != "meshd" || engine.networks["net1"] != nil {
			return fmt.Sprint("the network was not made anew: ", engine.networks)
		}
		return ""
	})
	if got := mesh.Changes(); got != "create network appnet [10.85.0.0/16 fd00:85::/64]" {
		t.Errorf("in the mesh: %s", got)
	}
	until(t, func() string {
		if n, _ := p.state.network("net2"); !n.Ready {
			return "the network is not ready"
		}
		return ""
	})
	engine.Changes()
	if _, err := mesh.CreateNetwork(t.Context(), api.NetworkRequest{Name: "backnet", Subnets: []string{"10.86.0.0/16"}}); err != nil {
		t.Fatal(err)
	}
	until(t, func() string { return lacking(engine, "net3") })
	if got, want := engine.Changes(), "create net3 backnet map[Config:[map[Subnet:10.86.0.0/16] map[Subnet:fd00:85::/64]] Driver:meshd Options:map[meshd.network:backnet]]"; got != want {
		t.Errorf("in Docker: %s, want %s", got, want)
	}
	if err := mesh.RemoveNetwork(t.Context(), "appnet"); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		if lacking(engine, "net2") == "" {
			return "the network is still in Docker"
		}
		return ""
	})
}

// TestAnewAtOnce: while a network is made anew, there are never two of its name, and the time without any is only that in which the
// Engine writes the new one down.
func TestAnewAtOnce(t *testing.T) {
	mesh, engine := newFakeMesh(), newFakeEngine(t)
	p := follow(t, mesh, engine)
	engine.asks = func(path, body string) { call(t, p, path, body) }
	call(t, p, "/NetworkDriver.CreateNetwork", `{"NetworkID":"net1","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"172.18.0.0/16"}]}`)
	engine.CreateNetwork(map[string]any{
		"Name": "appnet", "Driver": "meshd",
		"IPAM": map[string]any{"Driver": "default", "Config": []any{map[string]any{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}}},
	})
	until(t, func() string {
		if n, _ := p.state.network("net2"); !n.Ready {
			return "the network is not ready"
		}
		return ""
	})
	changes := engine.Changes()
	removed, created := strings.Index(changes, "remove net1"), strings.Index(changes, "create net2")
	if removed < 0 || created < removed {
		t.Errorf("the new network was there before the old one had gone:\n%s", changes)
	}
	if _, known := p.state.network("net1"); known {
		t.Error("the old network is still known")
	}
}

func lacking(e *fakeEngine, network string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.networks[network] == nil {
		return "Docker lacks " + network
	}
	return ""
}

// TestLeftTheMesh: on a host that has left its mesh the mesh's networks go from Docker, those that containers are on when these go.
func TestLeftTheMesh(t *testing.T) {
	mesh, engine := newFakeMesh(appnet(), api.Network{Name: "idle", Subnets: []string{"10.87.0.0/16"}}), newFakeEngine(t)
	p := follow(t, mesh, engine)
	ready := func(id string) func() string {
		return func() string {
			if n, _ := p.state.network(id); !n.Ready {
				return id + " is not ready"
			}
			return ""
		}
	}
	until(t, ready("net1"))
	until(t, ready("net2"))
	call(t, p, "/NetworkDriver.CreateEndpoint", `{"NetworkID":"net1","EndpointID":"e1","Interface":{"Address":"10.85.0.7/16"}}`)
	mesh.mu.Lock()
	mesh.away = true
	mesh.mu.Unlock()
	gone := func(id string) func() string {
		return func() string {
			if lacking(engine, id) == "" {
				return id + " is still in Docker"
			}
			return ""
		}
	}
	until(t, gone("net2"))
	if missing := lacking(engine, "net1"); missing != "" {
		t.Error(missing + ", and a container is on it")
	}
	call(t, p, "/NetworkDriver.DeleteEndpoint", `{"NetworkID":"net1","EndpointID":"e1"}`)
	until(t, gone("net1"))
}

// TestContainerIsKnown: an endpoint without a name becomes a container with all that the Engine says of it.
func TestContainerIsKnown(t *testing.T) {
	mesh, engine := newFakeMesh(appnet()), newFakeEngine(t)
	p := follow(t, mesh, engine)
	until(t, func() string { return lacking(engine, "net1") })
	until(t, func() string {
		if n, _ := p.state.network("net1"); !n.Ready {
			return "the network is not ready"
		}
		return ""
	})
	const id = "c0ffee0123456789"
	container := map[string]any{
		"Id": id, "Name": "/proj_web_1", "State": map[string]any{"Running": false},
		"Config":          map[string]any{"Labels": map[string]string{"com.docker.compose.service": "web"}, "Healthcheck": map[string]any{"Test": []string{"CMD", "true"}}},
		"HostConfig":      map[string]any{"NetworkMode": "appnet"},
		"NetworkSettings": map[string]any{"Networks": map[string]any{"appnet": map[string]any{"EndpointID": "e1", "Aliases": []string{"front"}}}},
	}
	engine.mu.Lock()
	engine.containers[id] = container
	engine.on["net1"] = map[string]string{id: "e1"}
	engine.mu.Unlock()
	names := map[string]string{"name": "proj_web_1", "com.docker.compose.service": "web"}
	engine.Event("container", "create", id, names)
	call(t, p, "/NetworkDriver.CreateEndpoint", `{"NetworkID":"net1","EndpointID":"e1","Interface":{"Address":"10.85.0.7/16"}}`)
	call(t, p, "/NetworkDriver.Join", `{"NetworkID":"net1","EndpointID":"e1","SandboxKey":"/nonexistent/netns/53dc"}`)
	engine.Event("network", "connect", "net1", map[string]string{"container": id, "name": "appnet", "type": "meshd"})

	want := Description{
		Key: "docker/53dc", Name: "proj_web_1", Service: "web", Health: "starting", Reason: "it does not run",
		Aliases: map[string][]string{"appnet": {"proj_web_1", "c0ffee012345", "front"}},
	}
	expect := func(after string) {
		t.Helper()
		until(t, func() string {
			if diff := cmp.Diff(want, mesh.Described("docker/53dc")); diff != "" {
				return after + ": " + diff
			}
			return ""
		})
	}
	// The Engine's state is what its events say: it is asked for it at any time.
	become := func(action, signal, health string, state map[string]any) {
		engine.mu.Lock()
		state["Health"] = map[string]any{"Status": health}
		container["State"] = state
		engine.mu.Unlock()
		engine.Event("container", action, id, map[string]string{"name": "proj_web_1", "com.docker.compose.service": "web", "signal": signal})
	}
	running := func() map[string]any { return map[string]any{"Running": true} }
	expect("connected")
	until(t, func() string {
		if mesh.Prepared("appnet") == 0 {
			return "no addresses were asked for before the container is started"
		}
		return ""
	})
	become("start", "", "starting", running())
	want.Reason = ""
	expect("started")
	become("health_status: healthy", "", "healthy", running())
	want.Health = "healthy"
	expect("healthy")
	become("kill", "1", "healthy", running())
	become("pause", "", "healthy", map[string]any{"Running": true, "Paused": true})
	want.Draining = true
	expect("paused")
	become("unpause", "", "healthy", running())
	want.Draining = false
	expect("unpaused, and not stopped by a HUP")
	become("health_status: unhealthy", "", "unhealthy", running())
	want.Health, want.Reason = "unhealthy", "its HEALTHCHECK fails"
	expect("unhealthy")
	become("health_status: healthy", "", "healthy", running())
	become("kill", "15", "healthy", running())
	want.Health, want.Reason, want.Draining = "healthy", "", true
	expect("stopping")
	become("die", "", "unhealthy", map[string]any{"Running": false})
	want.Health, want.Reason, want.Draining = "starting", "it does not run", false
	expect("dead")
}

// TestLeftovers: what happened while one of both was away is put right when they meet.
func TestLeftovers(t *testing.T) {
	mesh, engine := newFakeMesh(appnet()), newFakeEngine(t)
	engine.CreateNetwork(map[string]any{
		"Name": "appnet", "Driver": "meshd", "EnableIPv6": true,
		"IPAM": map[string]any{"Driver": "meshd", "Config": []any{map[string]any{"Subnet": "10.85.0.0/16"}, map[string]any{"Subnet": "fd00:85::/64"}}},
	})
	p := newPlugin(t, mesh, engine.socket)
	if err := p.state.putNetwork("net1", known{Name: "appnet", Ready: true}); err != nil {
		t.Fatal(err)
	}
	if err := p.state.putEndpoint(endpoint{ID: "gone", NetworkID: "net1", Network: "appnet", IP: "10.85.0.7", Sandbox: "/nonexistent/netns/old"}); err != nil {
		t.Fatal(err)
	}
	engine.containers["c1"] = map[string]any{
		"Id": "c1", "Name": "/web", "Names": []string{"/web"}, "State": map[string]any{"Running": true}, "Config": map[string]any{}, "HostConfig": map[string]any{},
		"NetworkSettings": map[string]any{"SandboxKey": "/nonexistent/netns/new", "Networks": map[string]any{
			"appnet": map[string]any{"NetworkID": "net1", "EndpointID": "e1", "IPAddress": "10.85.0.8", "MacAddress": "02:00:00:00:00:08"}}},
	}
	if err := p.adopt(t.Context(), must(p.engine.inspect(t.Context(), "c1"))); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	gone := func(e endpoint) bool { return e.ID != "e1" && isOver(e, map[string]time.Time{"c1": {}}, now) }
	if err := p.sweep(t.Context(), map[string]bool{"e1": true}, gone, now); err != nil {
		t.Fatal(err)
	}
	if got := mesh.Changes(); got != "detach docker/old from appnet" {
		t.Errorf("in the mesh: %s", got)
	}
	if _, ok := p.state.endpoint("gone"); ok {
		t.Error("the endpoint without a container is still known")
	}
	e, ok := p.state.endpoint("e1")
	e.Created = time.Time{}
	if diff := cmp.Diff(endpoint{ID: "e1", NetworkID: "net1", Network: "appnet", IP: "10.85.0.8", MAC: "02:00:00:00:00:08",
		Sandbox: "/nonexistent/netns/new", Interface: "mesh0", Container: "c1"}, e); !ok || diff != "" {
		t.Error(diff)
	}
}

// TestEndedElsewhere: a container that Docker took off its network while nobody heard has all compared soon after its end.
func TestEndedElsewhere(t *testing.T) {
	p := newPlugin(t, newFakeMesh(appnet()), newFakeEngine(t).socket)
	if err := p.state.putEndpoint(endpoint{ID: "e1", NetworkID: "net1", Network: "appnet", IP: "10.85.0.7", Sandbox: "/nonexistent/netns/old", Container: "c1"}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		for container, want := range map[string]bool{"c1": true, "c2": false} {
			p.checkEnded(t.Context(), container)
			got := false
			select {
			case <-p.recheck:
				got = true
			default:
			}
			if got != want {
				t.Errorf("after the end of %s: compared %t", container, got)
			}
		}
	})
}

// TestStartedAgain: a container that was started anew, after the Engine took it off its network while nobody heard, is known at its
// new place at once, and what was at the old one is removed.
func TestStartedAgain(t *testing.T) {
	mesh, engine := newFakeMesh(appnet()), newFakeEngine(t)
	p := newPlugin(t, mesh, engine.socket)
	if err := p.state.putNetwork("net1", known{Name: "appnet", Ready: true}); err != nil {
		t.Fatal(err)
	}
	for i, e := range []endpoint{
		{ID: "old", Sandbox: "/nonexistent/netns/old", IP: "10.85.0.7", Container: "c1"},
		{ID: "other", Sandbox: "/nonexistent/netns/other", IP: "10.85.0.9", Container: "c2"},
		{ID: "new", Sandbox: "/nonexistent/netns/new", IP: "10.85.0.8"},
	} {
		e.NetworkID, e.Network, e.Created = "net1", "appnet", time.Now().Add(time.Duration(i)*time.Second)
		if err := p.state.putEndpoint(e); err != nil {
			t.Fatal(err)
		}
	}
	engine.on["net1"] = map[string]string{"c1": "new"}
	p.containers["c1"] = &guest{ID: "c1", Name: "web", Running: true, learned: true}
	if err := p.bind(t.Context(), "c1", "net1"); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		if got := mesh.Described("docker/new").Health; got != "healthy" {
			return "the new endpoint is " + got
		}
		return ""
	})
	if got := mesh.Described("docker/old").Health; got != "" {
		t.Errorf("the old endpoint was said to be %s", got)
	}
	if got := mesh.Changes(); got != "detach docker/old from appnet" {
		t.Errorf("in the mesh: %s", got)
	}
	if got := p.state.endpoints(func(endpoint) bool { return true }); len(got) != 2 || got[0].ID != "other" || got[1].ID != "new" {
		t.Errorf("what is known: %v", got)
	}
}

// Whether an endpoint that the Engine does not list is a left-over, or one that is being made.
func TestIsOver(t *testing.T) {
	began := time.Now()
	ends := map[string]time.Time{"runs": {}, "ended": began.Add(-time.Second), "ended before": began.Add(-time.Minute)}
	for _, c := range []struct {
		container string
		age       time.Duration
		want      bool
	}{
		{"", time.Minute, true},
		{"", 5 * time.Second, false}, // nobody said yet whose it is
		{"removed", 5 * time.Second, true},
		{"removed", -time.Millisecond, false}, // made after the list
		{"runs", 5 * time.Second, false},
		{"ended", 5 * time.Second, true},
		{"ended before", 5 * time.Second, false}, // it is being started again
	} {
		if got := isOver(endpoint{Container: c.container, Created: began.Add(-c.age)}, ends, began); got != c.want {
			t.Errorf("container %q, endpoint of %s ago: %t", c.container, c.age, got)
		}
	}
}
