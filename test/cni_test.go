package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// cniPrograms builds the plugin and cnitool, the reference engine, once for all tests. A machine that is new downloads
// what the latter is made of.
var cniPrograms = sync.OnceValues(func() (dir string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir = filepath.Dir(meshdBinary)
	for _, args := range [][]string{
		{"build", "-o", filepath.Join(dir, "meshd-cni"), "../cmd/meshd-cni"},
		{"install", "github.com/containernetworking/cni/cnitool@v1.3.1"}, // not of our modules: it needs more than the plugin does
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return dir, nil
})

// cniLists writes network configuration lists, named like files, and returns their folder.
func cniLists(t *testing.T, lists map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range lists {
		if err := os.WriteFile(filepath.Join(dir, name+".conflist"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// cniResult is what a test wants to know of a result.
type cniResult struct {
	Interfaces []struct{ Name, Mac, Sandbox string }
	IPs        []struct{ Address string }
	Routes     []struct{ Dst, GW string }
	DNS        struct{ Nameservers []string }
}

// cni is an engine on a host: cnitool, and a folder of configuration lists.
type cni struct {
	t          *testing.T
	host       *lab.Host
	bin, lists string
}

func newCNI(t *testing.T, h *lab.Host, lists map[string]string) *cni {
	t.Helper()
	bin, err := cniPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return &cni{t, h, bin, cniLists(t, lists)}
}

// tool runs cnitool, with settings of its environment before the verb.
func (c *cni) tool(args ...string) (string, error) {
	c.t.Helper()
	command := []string{"CNI_PATH=" + c.bin, "NETCONFPATH=" + c.lists}
	i := slices.IndexFunc(args, func(a string) bool { return !strings.Contains(a, "=") })
	command = append(append(command, args[:i]...), filepath.Join(c.bin, "cnitool"))
	return c.host.Run(testContext(c.t), "env", append(command, args[i:]...)...)
}

func (c *cni) add(args ...string) cniResult {
	c.t.Helper()
	began := time.Now()
	out, err := c.tool(args...)
	if err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	c.t.Logf("%v took %s", args, time.Since(began).Round(time.Millisecond))
	var result cniResult
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	return result
}

// namespace makes a namespace on the host, as an engine does for a container.
func (c *cni) namespace(name string) string {
	c.t.Helper()
	if _, err := c.host.Run(testContext(c.t), "ip", "netns", "add", name); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if out, err := c.host.Run(testContext(c.t), "sh", "-c", "! test -e /run/netns/"+name+" || ip netns del "+name); err != nil {
			c.t.Errorf("%v: %s", err, out)
		}
	})
	return "/run/netns/" + name
}

// endpointsNamed are the host's endpoints that have a name.
func endpointsNamed(t *testing.T, h *lab.Host, name string) []endpointRow {
	t.Helper()
	rows, err := tryEndpointsNamed(t, h, name)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// tryEndpointsNamed is endpointsNamed for an agent that may not answer yet.
func tryEndpointsNamed(t *testing.T, h *lab.Host, name string) ([]endpointRow, error) {
	t.Helper()
	var rows []endpointRow
	err := shared.MeshdJSON(testContext(t), h, &rows, "endpoint", "ls")
	return slices.DeleteFunc(rows, func(r endpointRow) bool { return r.Name != name }), err
}

func conflist(version, name, more string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[{"type":"meshd-cni"%s}]}`, version, name, more)
}

// TestCNI goes through the life of two containers on two hosts, one of them on two networks.
func TestCNI(t *testing.T) {
	newNetwork(t, shared, "cnia")
	newNetwork(t, shared, "cnib", "--internal")
	lists := map[string]string{
		"a": conflist("1.1.0", "cnia", `,"capabilities":{"aliases":true,"portMappings":true}`),
		"b": conflist("1.1.0", "back", `,"network":"cnib","publish":[]`),
		"c": conflist("0.3.1", "old", `,"network":"cnia"`),
	}
	h1, h2 := shared.Host("h1"), shared.Host("h2")
	one, two := newCNI(t, h1, lists), newCNI(t, h2, lists)
	c1, c2 := one.namespace("c1"), two.namespace("c2")
	t.Cleanup(func() {
		for _, list := range []string{"cnia", "back"} {
			if out, err := one.tool("CNI_IFNAME=eth0", "del", list, c1); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := two.tool("CNI_IFNAME=eth0", "del", list, c2); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	for _, list := range []string{"cnia", "back"} {
		if out, err := one.tool("status", list, c1); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}

	first := one.add("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=client", "add", "cnia", c1)
	if len(first.Interfaces) != 2 || first.Interfaces[0].Name != "eth0" || len(first.Interfaces[0].Mac) != 17 ||
		len(first.IPs) < 3 || len(first.Routes) == 0 || !slices.Equal(first.DNS.Nameservers, []string{"127.0.0.11"}) {
		t.Errorf("result %+v", first)
	}
	second := one.add("CNI_IFNAME=eth1", "CNI_ARGS=K8S_POD_NAME=client", "add", "back", c1)
	if len(second.Interfaces) != 2 || second.Interfaces[0].Name != "eth1" {
		t.Errorf("second network: %+v", second)
	}
	if again := one.add("CNI_ARGS=K8S_POD_NAME=client", "add", "cnia", c1); !slices.Equal(again.IPs, first.IPs) {
		t.Errorf("added again, it has %v, not %v", again.IPs, first.IPs)
	}
	if rows := endpointsNamed(t, h1, "client"); len(rows) != 2 || rows[0].ID != rows[1].ID {
		t.Errorf("one container on two networks is %+v", rows)
	}
	for list, ifname := range map[string]string{"cnia": "eth0", "back": "eth1"} {
		if out, err := one.tool("CNI_IFNAME="+ifname, "check", list, c1); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}

	two.add(`CAP_ARGS={"aliases":{"cnia":["cnidb"]},"portMappings":[{"hostPort":8086,"containerPort":80,"protocol":"tcp"}]}`, "add", "cnia", c2)
	server := h2.Command(testContext(t), "ip", "netns", "exec", "c2", peerBinary, "serve", "cnidb", "80")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalChildren(server.Process.Pid, syscall.SIGTERM)
		_ = server.Wait() // ended by us
	})
	ask := func(h *lab.Host, address string, in ...string) error {
		out, err := h.Run(testContext(t), "env", append(in, peerBinary, "ask", "tcp", address)...)
		if err == nil && !strings.HasPrefix(out, "cnidb ") {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	}
	within(t, 10*time.Second, "the alias resolves to what answers", func() error {
		out, err := h1.Run(testContext(t), "ip", "netns", "exec", "c1", "dig", "+short", "+time=1", "+tries=1", "@127.0.0.11", "cnidb.cnia.mesh.internal")
		if err != nil {
			return err
		}
		vip, err := netip.ParseAddr(strings.TrimSpace(out))
		if err != nil {
			return err
		}
		return ask(h1, vip.String()+":80", "ip", "netns", "exec", "c1")
	})
	within(t, 10*time.Second, "the published port answers on another host", func() error { return ask(h1, "127.0.0.1:8086") })

	// A network is left, the other stays.
	for range 2 {
		if out, err := one.tool("CNI_IFNAME=eth1", "del", "back", c1); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	links, err := h1.Run(testContext(t), "ip", "-n", "c1", "-br", "link")
	if err != nil || strings.Contains(links, "eth1@") || !strings.Contains(links, "eth0@") {
		t.Errorf("interfaces after leaving a network: %v:\n%s", err, links)
	}
	if err := ask(h1, strings.SplitN(endpointRowOf(t, h2, "cnidb").IP, "/", 2)[0]+":80", "ip", "netns", "exec", "c1"); err != nil {
		t.Errorf("the network that stays: %v", err)
	}
	if out, err := one.tool("CNI_IFNAME=eth1", "check", "back", c1); err == nil {
		t.Errorf("check of a network that was left says nothing: %s", out)
	}
}

// TestCNINetworksAtOnce: some engines attach a container to all its networks at the same time. One
// that is refused leaves the others as they are.
func TestCNINetworksAtOnce(t *testing.T) {
	newNetwork(t, shared, "cni0", "--subnet", "10.201.0.0/16")
	newNetwork(t, shared, "cni1", "--subnet", "10.202.0.0/16", "--internal")
	newNetwork(t, shared, "cni2", "--subnet", "10.203.0.0/16")
	newNetwork(t, shared, "cni3", "--subnet", "10.203.0.0/16")
	h := shared.Host("h2")
	c := newCNI(t, h, map[string]string{
		"0": conflist("1.1.0", "cni0", `,"service":"many"`),
		"1": conflist("1.1.0", "cni1", ""),
		"2": conflist("1.1.0", "cni2", ""),
		"3": conflist("1.1.0", "cni3", ""),
	})
	path := c.namespace("many")
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			if out, err := c.tool(fmt.Sprintf("CNI_IFNAME=net%d", i), "CNI_ARGS=K8S_POD_NAME=many", "add", fmt.Sprintf("cni%d", i), path); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	three := endpointsNamed(t, h, "many")
	if len(three) != 3 || three[0].ID != three[1].ID || three[1].ID != three[2].ID || three[0].Service != "many" {
		t.Fatalf("one container on three networks is %+v", three)
	}
	for i := range 3 {
		if out, err := c.tool(fmt.Sprintf("CNI_IFNAME=net%d", i), "check", fmt.Sprintf("cni%d", i), path); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	out, err := c.tool("CNI_IFNAME=net3", "CNI_ARGS=K8S_POD_NAME=many", "add", "cni3", path)
	if err == nil || !strings.Contains(err.Error()+out, "cannot be on both") {
		t.Errorf("a network that overlaps: %v, %s", err, out)
	}
	if again := endpointsNamed(t, h, "many"); !slices.Equal(again, three) {
		t.Errorf("after a refusal %+v, want %+v", again, three)
	}
	for i := range 3 {
		all.Go(func() {
			if out, err := c.tool(fmt.Sprintf("CNI_IFNAME=net%d", i), "del", fmt.Sprintf("cni%d", i), path); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	if left := endpointsNamed(t, h, "many"); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	links, err := h.Run(testContext(t), "ip", "-n", "many", "-br", "link")
	if err != nil || strings.Contains(links, "net0") || strings.Contains(links, "gw0") {
		t.Errorf("interfaces left: %v:\n%s", err, links)
	}
}

// endpointRowOf is the host's only endpoint of a service.
func endpointRowOf(t *testing.T, h *lab.Host, service string) endpointRow {
	t.Helper()
	var rows []endpointRow
	if err := shared.MeshdJSON(testContext(t), h, &rows, "endpoint", "ls"); err != nil {
		t.Fatal(err)
	}
	rows = slices.DeleteFunc(rows, func(r endpointRow) bool { return r.Service != service })
	if len(rows) != 1 {
		t.Fatalf("endpoints of service %s: %+v", service, rows)
	}
	return rows[0]
}

// TestCNIErrors: what an engine is told says what to do, and nothing is left behind.
func TestCNIErrors(t *testing.T) {
	newNetwork(t, shared, "cnie")
	h := shared.Host("h1")
	c := newCNI(t, h, map[string]string{
		"none":  conflist("1.1.0", "cninone", ""),
		"port":  conflist("1.1.0", "cniport", `,"network":"cnie","publish":["80:"]`),
		"taken": conflist("1.1.0", "cnitaken", `,"network":"cnie"`),
	})
	path := c.namespace("cnierr")
	if _, err := h.Run(testContext(t), "ip", "-n", "cnierr", "link", "add", "eth0", "type", "veth", "peer", "name", "other"); err != nil {
		t.Fatal(err)
	}
	for list, says := range map[string]string{
		"cninone":  "meshd network create cninone",
		"cniport":  "8080:80",
		"cnitaken": "has an interface eth0 already",
	} {
		out, err := c.tool("CNI_ARGS=K8S_POD_NAME=refused", "add", list, path)
		if err == nil || !strings.Contains(err.Error()+out, says) {
			t.Errorf("%s: %v, %s: want %q", list, err, out, says)
		}
	}
	if rows := endpointsNamed(t, h, "refused"); len(rows) > 0 {
		t.Errorf("left behind: %+v", rows)
	}
	if out, err := c.tool("status", "cninone", path); err == nil {
		t.Errorf("status of a network that is not there says nothing: %s", out)
	}
}

// TestCNIContainerGoesWhileTheAgentIsDown: the engine is not held up by it, and the endpoint is
// gone when the agent is back. One whose container stays, stays.
func TestCNIContainerGoesWhileTheAgentIsDown(t *testing.T) {
	newNetwork(t, shared, "cnid")
	h := shared.Host("h3")
	c := newCNI(t, h, map[string]string{"d": conflist("1.1.0", "cnid", "")})
	goes, stays := c.namespace("goes"), c.namespace("stays")
	c.add("CNI_ARGS=K8S_POD_NAME=goes", "add", "cnid", goes)
	before := c.add("CNI_ARGS=K8S_POD_NAME=stays", "add", "cnid", stays)
	if err := shared.SignalAgent(testContext(t), h, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	out, err := c.tool("del", "cnid", goes)
	if err == nil || !strings.Contains(err.Error()+out, "not running") {
		t.Errorf("del while the namespace is there: %v, %s: want an error that says why", err, out)
	}
	if _, err := h.Run(testContext(t), "ip", "netns", "del", "goes"); err != nil {
		t.Fatal(err)
	}
	if err := shared.StartAgent(testContext(t), h); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "the agent sees that the container went", func() error {
		if rows, err := tryEndpointsNamed(t, h, "goes"); err != nil || len(rows) > 0 {
			return fmt.Errorf("still there: %+v, %w", rows, err)
		}
		return nil
	})
	if rows := endpointsNamed(t, h, "stays"); len(rows) != 1 || !strings.HasPrefix(before.IPs[0].Address, rows[0].IP+"/") {
		t.Errorf("the other is %+v, was %+v", rows, before)
	}
	if out, err := c.tool("check", "cnid", stays); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// An engine that knows of no container wants none left.
	if out, err := h.Run(testContext(t), "rm", "-rf", "/var/lib/cni/results"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := c.tool("gc", "cnid", stays); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if rows := endpointsNamed(t, h, "stays"); len(rows) > 0 {
		t.Errorf("left after garbage was collected: %+v", rows)
	}
}
