package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/api/apitest"
	"github.com/meshd/meshd/internal/link"
)

// bench is a plugin with an in-memory daemon and a made-up namespace.
type bench struct {
	t       *testing.T
	daemon  *apitest.Backend
	plugin  *Plugin
	out     bytes.Buffer
	request api.AttachRequest // of the last Attach
	inside  map[string]Interface
	gone    bool
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, inside: map[string]Interface{
		"eth0": {MAC: "02:00:00:00:00:01", MTU: 1350, Addresses: prefixes("10.64.0.2/16", "fd00:1:2:3::2/64")},
		"eth1": {MAC: "02:00:00:00:00:01", MTU: 1350, Addresses: prefixes("10.65.0.3/16")},
		"gw0": {MAC: "02:00:00:00:00:09", MTU: 1500, Addresses: prefixes("172.30.0.2/24"),
			Routes: []link.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("172.30.0.1")}}},
	}}
	b.daemon = &apitest.Backend{OnAttach: func(_ context.Context, req api.AttachRequest) error {
		b.request = req
		return nil
	}}
	b.plugin = &Plugin{
		Stdout:  &b.out,
		Connect: func(string) Daemon { return b.daemon },
		Observe: func(_ string, names ...string) (map[string]Interface, error) {
			found := make(map[string]Interface)
			for _, n := range names {
				if i, ok := b.inside[n]; ok {
					found[n] = i
				}
			}
			return found, nil
		},
		Gone: func(string) bool { return b.gone },
	}
	if _, err := b.daemon.Init(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"appnet", "backnet"} {
		if _, err := b.daemon.CreateNetwork(t.Context(), api.NetworkRequest{Name: network}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

const containerID = "0123456789abcdef0123"

func call(config, ifname string) *skel.CmdArgs {
	return &skel.CmdArgs{ContainerID: containerID, Netns: "/run/netns/c", IfName: ifname, StdinData: []byte(config)}
}

func (b *bench) rows() []api.Endpoint {
	b.t.Helper()
	rows, err := b.daemon.Endpoints(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return rows
}

// number is the CNI code of an error; 0 for none.
func number(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return types.ErrUnknown + 12345
	}
	return 0
}

func TestAddTellsWhatIsThere(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		b := newBench(t)
		add := call(`{"cniVersion":"`+version+`","name":"appnet","type":"meshd-cni"}`, "eth0")
		if err := b.plugin.Add(add); err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		var got struct {
			CNIVersion string
			Interfaces []struct{ Name, Mac, Sandbox string }
			IPs        []struct {
				Interface        int
				Address, Gateway string
			}
			Routes []struct{ Dst, GW string }
			DNS    struct{ Nameservers, Search []string }
		}
		if err := json.Unmarshal(b.out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		want := got
		want.CNIVersion = version
		want.Interfaces = []struct{ Name, Mac, Sandbox string }{
			{"eth0", "02:00:00:00:00:01", "/run/netns/c"}, {"gw0", "02:00:00:00:00:09", "/run/netns/c"}}
		want.IPs = []struct {
			Interface        int
			Address, Gateway string
		}{{0, "10.64.0.2/16", ""}, {0, "fd00:1:2:3::2/64", ""}, {1, "172.30.0.2/24", "172.30.0.1"}}
		want.Routes = []struct{ Dst, GW string }{{"0.0.0.0/0", "172.30.0.1"}}
		want.DNS.Nameservers, want.DNS.Search = []string{"127.0.0.11"}, []string{"appnet.mesh.internal", "mesh.internal"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
	}
}

// TestAddAsks: what the daemon is asked for follows from the configuration and the engine.
func TestAddAsks(t *testing.T) {
	const id = "0123456789ab"
	for _, test := range []struct {
		name, config, args string
		want               api.AttachRequest
	}{
		{"the network is named like the list", `{"name":"appnet"}`, "", api.AttachRequest{Networks: []string{"appnet"}, Name: id, Owner: "appnet"}},
		{"the network has a name of its own", `{"name":"web","network":"appnet"}`, "", api.AttachRequest{Networks: []string{"appnet"}, Name: id, Owner: "web"}},
		{"service and ports for all containers", `{"name":"appnet","service":"web","publish":["8080:80","53/udp"]}`, "IgnoreUnknown=1;K8S_POD_NAME=web-1;FOO=bar",
			api.AttachRequest{Networks: []string{"appnet"}, Name: "web-1", Service: "web", Owner: "appnet",
				Publish: []api.Publish{{Published: 8080, Target: 80, Protocol: "tcp"}, {Published: 53, Target: 53, Protocol: "udp"}}}},
		{"Podman's alias is the service", `{"name":"appnet","runtimeConfig":{"aliases":{"appnet":["db","` + id + `"],"other":["x"]}}}`, "K8S_POD_NAME=db-1",
			api.AttachRequest{Networks: []string{"appnet"}, Name: "db-1", Service: "db", Owner: "appnet"}},
		{"an alias as CNI's conventions have it", `{"name":"appnet","service":"web","runtimeConfig":{"aliases":["db"]}}`, "",
			api.AttachRequest{Networks: []string{"appnet"}, Name: id, Service: "db", Owner: "appnet"}},
		{"the engine's ports", `{"name":"appnet","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":53,"containerPort":5353,"protocol":"UDP","hostIP":"0.0.0.0"}]}}`, "",
			api.AttachRequest{Networks: []string{"appnet"}, Name: id, Owner: "appnet",
				Publish: []api.Publish{{Published: 8080, Target: 80, Protocol: "tcp"}, {Published: 53, Target: 5353, Protocol: "udp"}}}},
		{"our own arguments go first", `{"name":"appnet","service":"web"}`, "K8S_POD_NAME=a;MESHD_NAME=b;MESHD_SERVICE=c",
			api.AttachRequest{Networks: []string{"appnet"}, Name: "b", Service: "c", Owner: "appnet"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			add := call(strings.Replace(test.config, "{", `{"cniVersion":"1.0.0","type":"meshd-cni",`, 1), "eth0")
			add.Args = test.args
			if err := b.plugin.Add(add); err != nil {
				t.Fatal(err)
			}
			test.want.Key, test.want.Interface, test.want.NetNS = "cni/"+containerID, "eth0", "/run/netns/c"
			if diff := cmp.Diff(test.want, b.request); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAddRefuses(t *testing.T) {
	for _, test := range []struct {
		config, args string
		code         uint
		says         string
	}{
		{`{"name":"nonet"}`, "", types.ErrInvalidNetworkConfig, "meshd network create nonet"},
		{`{"name":"appnet","publish":["80:"]}`, "", types.ErrInvalidNetworkConfig, `publish "80:"`},
		{`{"name":"appnet","publish":["0:80"]}`, "", types.ErrInvalidNetworkConfig, `publish "0:80"`},
		{`{"name":"appnet","publish":["80/sctp"]}`, "", types.ErrInvalidNetworkConfig, "tcp|udp"},
		{`{"name":"appnet","publish":80}`, "", types.ErrDecodingFailure, "not understood"},
		{`{"name":"appnet","runtimeConfig":{"ips":["10.64.0.9/16"]}}`, "", types.ErrUnsupportedField, "--ip"},
		{`{"name":"appnet","runtimeConfig":{"mac":"02:00:00:00:00:07"}}`, "", types.ErrUnsupportedField, "--mac-address"},
		{`{"name":"appnet"}`, "IgnoreUnknown=1;IP=10.64.0.9", types.ErrUnsupportedField, "--ip"},
		{`{"name":"appnet","runtimeConfig":{"aliases":["a","b"]}}`, "", types.ErrUnsupportedField, "2 aliases (a, b)"},
		{`{"name":"appnet","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"tcp","hostIP":"127.0.0.1"}]}}`, "", types.ErrUnsupportedField, "127.0.0.1"},
	} {
		b := newBench(t)
		add := call(strings.Replace(test.config, "{", `{"cniVersion":"1.0.0","type":"meshd-cni",`, 1), "eth0")
		add.Args = test.args
		err := b.plugin.Add(add)
		if number(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s %s: error %d %v, want %d with %q", test.config, test.args, number(err), err, test.code, test.says)
		}
		if rows := b.rows(); len(rows) > 0 {
			t.Errorf("%s: left behind: %v", test.config, rows)
		}
	}
}

const appnet, backnet = `{"cniVersion":"1.1.0","name":"appnet","type":"meshd-cni"}`, `{"cniVersion":"1.1.0","name":"backnet","type":"meshd-cni"}`

// TestTwoNetworks goes through a container's life.
func TestTwoNetworks(t *testing.T) {
	b := newBench(t)
	for range 2 { // the second time changes nothing
		if err := b.plugin.Add(call(appnet, "eth0")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.plugin.Add(call(backnet, "eth1")); err != nil {
		t.Fatal(err)
	}
	if rows := b.rows(); len(rows) != 2 {
		t.Fatalf("endpoints %v, want one on each network", rows)
	}
	if err := b.plugin.Check(call(appnet, "eth0")); err != nil {
		t.Error(err)
	}
	for range 2 { // what is not there is removed with success
		if err := b.plugin.Del(call(appnet, "eth0")); err != nil {
			t.Fatal(err)
		}
	}
	if rows := b.rows(); len(rows) != 1 || rows[0].Network != "backnet" {
		t.Fatalf("endpoints %v, want that on backnet", rows)
	}
	if err := b.plugin.Check(call(appnet, "eth0")); number(err) != types.ErrUnknownContainer {
		t.Errorf("check of what was removed: %v", err)
	}
}

func TestCheckSeesWhatIsBroken(t *testing.T) {
	b := newBench(t)
	if err := b.plugin.Add(call(appnet, "eth0")); err != nil {
		t.Fatal(err)
	}
	previous := strings.TrimSuffix(appnet, "}") + `,"prevResult":` + b.out.String() + "}"
	if err := b.plugin.Check(call(previous, "eth0")); err != nil {
		t.Fatalf("all is well, but: %v", err)
	}
	whole := b.inside["eth0"]
	for says, broken := range map[string]Interface{
		"MAC":                        {MAC: "02:00:00:00:00:05", Addresses: whole.Addresses},
		"lacks its address 10.64":    {MAC: whole.MAC, Addresses: whole.Addresses[1:]},
		"lacks the address 10.64":    {MAC: whole.MAC, Addresses: prefixes("10.64.0.2/24", "fd00:1:2:3::2/64")},
		"lacks its address fd00:1:2": {MAC: whole.MAC, Addresses: whole.Addresses[:1]},
	} {
		b.inside["eth0"] = broken
		if err := b.plugin.Check(call(previous, "eth0")); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one with %q", err, says)
		}
	}
	delete(b.inside, "eth0")
	if err := b.plugin.Check(call(previous, "eth0")); err == nil || !strings.Contains(err.Error(), "not there") {
		t.Errorf("no interface: error %v", err)
	}
}

// TestGarbage: what the engine does not list goes, if this configuration made it.
func TestGarbage(t *testing.T) {
	b := newBench(t)
	add := func(config, container, ifname string) {
		t.Helper()
		c := call(config, ifname)
		c.ContainerID = container
		if err := b.plugin.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	add(appnet, "kept", "eth0")
	add(appnet, "lost", "eth0")
	add(appnet, "renamed", "eth0")
	add(`{"cniVersion":"1.1.0","name":"other","network":"appnet"}`, "others", "eth0")
	if _, err := b.daemon.Attach(t.Context(), api.AttachRequest{PID: 1, Networks: []string{"appnet"}, Name: "plain"}); err != nil {
		t.Fatal(err)
	}
	gc := call(`{"cniVersion":"1.1.0","name":"appnet","cni.dev/valid-attachments":[{"containerID":"kept","ifname":"eth0"},{"containerID":"renamed","ifname":"eth7"}]}`, "")
	for range 2 {
		if err := b.plugin.GC(gc); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	for _, e := range b.rows() {
		left = append(left, e.Key)
	}
	slices.Sort(left)
	if diff := cmp.Diff([]string{"", "cni/kept", "cni/others"}, left); diff != "" {
		t.Error(diff)
	}
}

// TestWithoutDaemon: the engine is told to come again, unless nothing is left to be done.
func TestWithoutDaemon(t *testing.T) {
	b := newBench(t)
	b.plugin.Connect = func(string) Daemon { return api.NewClient(filepath.Join(t.TempDir(), "none.sock")) }
	if err := b.plugin.Add(call(appnet, "eth0")); number(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "not running") {
		t.Errorf("add: %v", err)
	}
	if err := b.plugin.Status(call(appnet, "")); number(err) != types.ErrPluginNotAvailable {
		t.Errorf("status: %v", err)
	}
	if err := b.plugin.Del(call(appnet, "eth0")); number(err) != types.ErrTryAgainLater {
		t.Errorf("del with the namespace there: %v", err)
	}
	b.gone = true
	if err := b.plugin.Del(call(appnet, "eth0")); err != nil {
		t.Errorf("del with the namespace gone: %v", err)
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t)
	if err := b.plugin.Status(call(appnet, "")); err != nil {
		t.Error(err)
	}
	if err := b.plugin.Status(call(`{"cniVersion":"1.1.0","name":"nonet"}`, "")); number(err) != types.ErrPluginNotAvailable {
		t.Errorf("no such network: %v", err)
	}
	if err := b.daemon.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.plugin.Status(call(appnet, "")); number(err) != types.ErrPluginNotAvailable {
		t.Errorf("no mesh: %v", err)
	}
	if err := b.plugin.Del(call(appnet, "eth0")); err != nil {
		t.Errorf("del on a host that has left: %v", err)
	}
}

func TestShort(t *testing.T) {
	for id, want := range map[string]string{
		containerID:                            "0123456789ab",
		"default-" + containerID:               "0123456789ab",
		"f81d4fae-7dec-11d0-a765-00a0c91e6bf6": "00a0c91e6bf6",
		"short":                                "short",
	} {
		if got := short(id); got != want {
			t.Errorf("short(%q) = %q, want %q", id, got, want)
		}
	}
}

// TestDelIgnoresWhatItNeedNotKnow: a container goes although its wishes are not understood.
func TestDelIgnoresWhatItNeedNotKnow(t *testing.T) {
	b := newBench(t)
	if err := b.plugin.Add(call(appnet, "eth0")); err != nil {
		t.Fatal(err)
	}
	del := call(`{"cniVersion":"1.1.0","name":"appnet","publish":7,"runtimeConfig":{"ips":["10.0.0.1/8"]}}`, "eth0")
	del.Args = "nonsense"
	if err := b.plugin.Del(del); err != nil {
		t.Fatal(err)
	}
	if rows := b.rows(); len(rows) > 0 {
		t.Errorf("left: %v", rows)
	}
}
