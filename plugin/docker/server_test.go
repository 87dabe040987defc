package docker

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
)

func call(t *testing.T, p *Plugin, path, body string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	p.handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: status %d", path, w.Code)
	}
	if got := w.Header().Get("Content-Type"); got != contentType {
		t.Errorf("%s: Content-Type %q", path, got)
	}
	return strings.TrimSpace(w.Body.String())
}

// TestRecorded answers what Docker 20.10 asked for a network, two containers and their end.
func TestRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh(api.Network{Name: "appnet", Subnets: []string{"10.9.0.0/16", "fd00:9::/64"}})
		p := newPlugin(t, mesh, "/nonexistent")
		data, err := os.ReadFile("testdata/docker-20.10.txt")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(data)) {
			path, body, _ := strings.Cut(strings.TrimSpace(line), " ")
			answer := call(t, p, path, body)
			if path == "/NetworkDriver.CreateNetwork" {
				for id := range p.state.networks() {
					if err := p.state.putNetwork(id, known{Name: "appnet", Ready: true}); err != nil {
						t.Fatal(err)
					}
				}
			}
			got = append(got, path[1:]+" "+answer)
			for change := range strings.FieldsFuncSeq(mesh.Changes(), func(r rune) bool { return r == '\n' }) {
				got = append(got, "  "+change)
			}
		}
		want := `Plugin.Activate {"Implements":["NetworkDriver","IpamDriver"]}
NetworkDriver.GetCapabilities {"ConnectivityScope":"global","Scope":"local"}
IpamDriver.GetCapabilities {"RequiresMACAddress":true,"RequiresRequestReplay":false}
IpamDriver.GetDefaultAddressSpaces {"GlobalDefaultAddressSpace":"meshd","LocalDefaultAddressSpace":"meshd"}
IpamDriver.RequestPool {"PoolID":"4:appnet","Pool":"10.9.0.0/16"}
IpamDriver.RequestAddress {"Address":"10.9.0.1/16"}
IpamDriver.RequestPool {"PoolID":"6:appnet","Pool":"fd00:9::/64"}
IpamDriver.RequestAddress {"Address":"fd00:9::1/64"}
NetworkDriver.CreateNetwork {}
IpamDriver.RequestAddress {"Address":"10.9.0.7/16"}
  reserve 10.9.0.7 on appnet
IpamDriver.RequestAddress {"Address":"fd00:9::7/64"}
NetworkDriver.CreateEndpoint {"Interface":null}
NetworkDriver.Join {"DisableGatewayService":true}
NetworkDriver.EndpointOperInfo {"Value":{}}
NetworkDriver.EndpointOperInfo {"Value":{}}
IpamDriver.RequestAddress {"Address":"10.9.0.9/16"}
  reserve 10.9.0.9 on appnet
IpamDriver.RequestAddress {"Address":"fd00:9::9/64"}
NetworkDriver.CreateEndpoint {"Interface":null}
NetworkDriver.Join {"DisableGatewayService":true}
NetworkDriver.EndpointOperInfo {"Value":{}}
NetworkDriver.EndpointOperInfo {"Value":{}}
NetworkDriver.Leave {}
  detach docker/36f804434241 from appnet
NetworkDriver.DeleteEndpoint {}
  release 10.9.0.9 on appnet
IpamDriver.ReleaseAddress {}
IpamDriver.ReleaseAddress {}
NetworkDriver.Leave {}
  detach docker/53dcd85be279 from appnet
NetworkDriver.DeleteEndpoint {}
  release 10.9.0.7 on appnet
IpamDriver.ReleaseAddress {}
IpamDriver.ReleaseAddress {}
IpamDriver.ReleaseAddress {}
IpamDriver.ReleasePool {}
IpamDriver.ReleaseAddress {}
IpamDriver.ReleasePool {}
NetworkDriver.DeleteNetwork {}
  remove network appnet`
		if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
			t.Error(diff)
		}
		if left := p.state.endpoints(func(endpoint) bool { return true }); len(left) > 0 || len(p.state.networks()) > 0 {
			t.Errorf("left: %v %v", left, p.state.networks())
		}
	})
}

// TestRefusals: what cannot be done is said in words that the Engine's user can act on.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const createEndpoint = `{"NetworkID":"n1","EndpointID":"e1","Interface":{"Address":"10.9.0.7/16"},"Options":{"com.docker.network.portmap":[%s]}}`
		port := func(binding string) string { return strings.Replace(createEndpoint, "%s", binding, 1) }
		for _, test := range []struct{ path, body, says string }{
			{"/IpamDriver.RequestPool", `{"AddressSpace":"meshd","SubPool":"10.9.1.0/24","Pool":"10.9.0.0/16"}`, "leave it out"},
			{"/IpamDriver.RequestPool", `{"Pool":"ten"}`, "no CIDR"},
			{"/IpamDriver.RequestPool", `{"Options":{"meshd.network":"other"}}`, "network other is not in the mesh"},
			{"/IpamDriver.RequestPool", `{"Pool":`, "not understood"},
			{"/IpamDriver.RequestPool", `{} {}`, "more than one JSON value"},
			{"/IpamDriver.RequestAddress", `{"PoolID":"LocalDefault/172.18.0.0/16"}`, "none of meshd's"},
			{"/IpamDriver.RequestAddress", `{"PoolID":"4:appnet","Address":"10.9.0.254","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, "leave --gateway out"},
			{"/IpamDriver.RequestAddress", `{"PoolID":"4:appnet","Address":"10.9.0.66"}`, "10.9.0.66 is in use"},
			{"/NetworkDriver.CreateNetwork", `{"NetworkID":"n2","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"10.9.0.0/17"}]}`, "overlaps network appnet"},
			{"/NetworkDriver.CreateNetwork", `{"NetworkID":"n2","IPv4Data":[{"Pool":"10.1.0.0/16"},{"Pool":"10.2.0.0/16"}]}`, "one IPv4 subnet, not 2"},
			{"/NetworkDriver.CreateNetwork", `{"NetworkID":"n2","Options":{"com.docker.network.generic":{"colour":"red"}},"IPv4Data":[{"Pool":"10.1.0.0/16"}]}`, "option colour is not known"},
			{"/NetworkDriver.CreateEndpoint", `{"NetworkID":"n9","EndpointID":"e1","Interface":{}}`, "try again in a second"},
			{"/NetworkDriver.CreateEndpoint", port(`{"Proto":132,"Port":80,"HostPort":80}`), "use tcp or udp"},
			{"/NetworkDriver.CreateEndpoint", port(`{"Proto":6,"Port":80}`), "-p 8080:80"},
			{"/NetworkDriver.CreateEndpoint", port(`{"Proto":6,"Port":80,"HostPort":8080,"HostIP":"127.0.0.1"}`), "meshd.publish=host"},
			{"/NetworkDriver.CreateEndpoint", port(`{"Proto":6,"Port":80,"HostPort":8080}`), "port 8080/tcp is published by service other.appnet"},
			{"/NetworkDriver.Join", `{"NetworkID":"n1","EndpointID":"e9","SandboxKey":"/run/docker/netns/x"}`, "not known"},
		} {
			mesh := newFakeMesh(api.Network{Name: "appnet", Subnets: []string{"10.9.0.0/16", "fd00:9::/64"}})
			mesh.refuse = &api.Error{Code: api.CodeConflict, Message: "port 8080/tcp is published by service other.appnet: choose another port"}
			mesh.reserved[must(address("10.9.0.66"))] = true
			p := newPlugin(t, mesh, "/nonexistent")
			p.containers["c1"] = &guest{ID: "c1", Name: "web", learned: true, Ports: []uint16{8080}, Networks: map[string][]string{"appnet": nil}}
			if err := p.state.putNetwork("n1", known{Name: "appnet", Ready: true}); err != nil {
				t.Fatal(err)
			}
			if got := call(t, p, test.path, test.body); !strings.Contains(got, `"Err":"`) || !strings.Contains(got, test.says) {
				t.Errorf("%s %s: %s, want %q", test.path, test.body, got, test.says)
			}
			if left := p.state.endpoints(func(endpoint) bool { return true }); len(left) > 0 || mesh.Changes() != "" {
				t.Errorf("%s %s: left behind: %v", test.path, test.body, left)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestWithoutMesh: the Engine hears at once what is missing, and can let go of what it has.
func TestWithoutMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh()
		mesh.away = true
		p := newPlugin(t, mesh, "/nonexistent")
		if err := p.state.putNetwork("n1", known{Name: "appnet", Ready: true}); err != nil {
			t.Fatal(err)
		}
		if err := p.state.putEndpoint(endpoint{ID: "e1", NetworkID: "n1", Network: "appnet", IP: "10.9.0.7", Sandbox: "/run/docker/netns/x"}); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct{ path, body, want string }{
			{"/NetworkDriver.CreateNetwork", `{"NetworkID":"n2","IPv4Data":[{"Pool":"172.18.0.0/16"}]}`, "belongs to no mesh yet"},
			{"/IpamDriver.RequestAddress", `{"PoolID":"4:appnet"}`, "belongs to no mesh yet"},
			// Docker starts with a network that it knows.
			{"/IpamDriver.RequestPool", `{"Pool":"10.9.0.0/16","Options":{"meshd.network":"appnet"}}`, `"PoolID":"4:appnet","Pool":"10.9.0.0/16"`},
			{"/NetworkDriver.Leave", `{"NetworkID":"n1","EndpointID":"e1"}`, "{}"},
			{"/NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"e1"}`, "{}"},
			{"/IpamDriver.ReleaseAddress", `{"PoolID":"4:appnet","Address":"10.9.0.7"}`, "{}"},
		} {
			if got := call(t, p, test.path, test.body); !strings.Contains(got, test.want) {
				t.Errorf("%s %s: %s, want %q", test.path, test.body, got, test.want)
			}
		}
	})
}

// TestStateIsKept: the Engine does not repeat what it told an earlier agent.
func TestStateIsKept(t *testing.T) {
	path := t.TempDir() + "/docker"
	s := must(openState(path))
	e := endpoint{ID: "e1", NetworkID: "n1", Network: "appnet", IP: "10.9.0.7", MAC: "02:00:00:00:00:01",
		Publish: []api.Publish{{Published: 1, Target: 2, Protocol: "tcp"}}, Sandbox: "/run/docker/netns/x", Interface: "mesh0", Container: "c1"}
	if err := s.putEndpoint(e); err != nil {
		t.Fatal(err)
	}
	if err := s.putNetwork("n1", known{Name: "appnet", Ready: true}); err != nil {
		t.Fatal(err)
	}
	again := must(openState(path))
	got, _ := again.endpoint("e1")
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
	if n, ok := again.network("n1"); !ok || n.Name != "appnet" || !n.Ready {
		t.Errorf("network: %+v", n)
	}
	for _, damaged := range []string{"{", `{"networks":null}`, `{"networks":1}`} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openState(path); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", damaged, err)
		}
	}
}

// TestLetGo: what the Engine takes off a network goes, whatever fails here: refused, it would keep the endpoint for ever, and with it the network.
func TestLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh(api.Network{Name: "appnet", Subnets: []string{"10.9.0.0/16"}})
		p := newPlugin(t, mesh, "/nonexistent")
		for id, stuck := range map[string]error{"e1": errors.New("no room"), "e2": nil} {
			err := p.state.putEndpoint(endpoint{ID: id, NetworkID: "net1", Network: "appnet", IP: "10.9.0.7", Sandbox: "/nonexistent/netns/" + id})
			if err != nil {
				t.Fatal(err)
			}
			mesh.mu.Lock()
			mesh.stuck = stuck
			mesh.mu.Unlock()
			for _, method := range []string{"Leave", "DeleteEndpoint", "Leave"} { // the last one is of an endpoint that is not known any more
				if got := call(t, p, "/NetworkDriver."+method, `{"NetworkID":"net1","EndpointID":"`+id+`"}`); got != "{}" {
					t.Errorf("%s of %s: %s", method, id, got)
				}
			}
			select {
			case <-p.recheck:
				if stuck == nil {
					t.Error("all is compared although nothing failed")
				}
			default:
				if stuck != nil {
					t.Error("what failed is not looked at again")
				}
			}
		}
	})
}

// TestLetGoLate: what the mesh refuses after the Engine has had its answer is looked at again as well.
func TestLetGoLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh(api.Network{Name: "appnet", Subnets: []string{"10.9.0.0/16"}})
		mesh.stuck, mesh.pace = errors.New("no room"), time.Second
		p := newPlugin(t, mesh, "/nonexistent")
		if err := p.state.putEndpoint(endpoint{ID: "e1", NetworkID: "net1", Network: "appnet", IP: "10.9.0.7", Sandbox: "/nonexistent/netns/e1"}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if got := call(t, p, "/NetworkDriver.Leave", `{"NetworkID":"net1","EndpointID":"e1"}`); got != "{}" || time.Since(began) > leaveWait {
			t.Errorf("after %s: %s", time.Since(began), got)
		}
		select {
		case <-p.recheck:
		case <-time.After(time.Minute):
			t.Error("what failed is not looked at again")
		}
	})
}
