package docker

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

var firstActs = flag.Int("docker.first", 15, "how many containers on each of two hosts begin with a look-up")

// TestFirstAct: the first thing that a container does may be a look-up, of a name on its own host or on
// another.
func TestFirstAct(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "db", "--network", "appnet")
	for _, host := range []string{"h1", "h2"} {
		w.web(host, "warm", "--network", "appnet") // the news of db's birth takes its time; not what is tested
		w.finds(host, "warm", "db")
	}
	tries, workers := *firstActs, 2
	if tries > 15 {
		w.ctx = context.Background() // it takes its time
	}
	var wait sync.WaitGroup
	began := time.Now()
	for _, host := range []string{"h1", "h2"} {
		for worker := range workers {
			wait.Go(func() {
				for i := worker; i < tries; i += workers {
					out, err := engines[host].Docker(w.ctx, "run", "--rm", "--network", "appnet", "peer", "/labpeer", "patient", "lookup", "db")
					if err != nil {
						t.Errorf("%s, container %d: %v: %s", host, i, err, out)
					}
				}
			})
		}
	}
	wait.Wait()
	t.Logf("%d containers looked up a name after %s", 2*tries, time.Since(began).Round(time.Millisecond))
}

// TestNames: the names of containers, aliases, compose services and labels; replicas share a virtual IP.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "c1", "--network", "appnet")
	w.web("h2", "aliased", "--network", "appnet", "--network-alias", "other", "--network-alias", "third")
	compose := []string{"--network", "appnet", "--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=app"}
	w.web("h2", "shop_app_1", compose...)
	w.web("h3", "shop_app_2", compose...)
	w.web("h3", "labelled", append(compose, "--label", "meshd.service=mine")...)
	w.reaches("h1", "c1", "http://aliased", "aliased")
	for _, name := range []string{"other", "third", "other.appnet", "aliased.appnet.mesh.internal"} {
		w.reaches("h1", "c1", "http://"+name, "aliased")
	}
	w.reaches("h1", "c1", "http://mine", "labelled")
	w.reaches("h1", "c1", "http://labelled", "labelled")
	w.reaches("h2", "aliased", "http://shop_app_2", "shop_app_2")
	both := []string{w.ip("h2", "shop_app_1", "appnet"), w.ip("h3", "shop_app_2", "appnet")}
	slices.Sort(both)
	within(t, 5*time.Second, "tasks.app is both replicas", func() error {
		got, err := w.lookup("h1", "c1", "tasks.app")
		if err == nil && !slices.Equal(ipv4(got), both) {
			err = fmt.Errorf("%v, not %v", got, both)
		}
		return err
	})
	vip := ipv4(w.finds("h1", "c1", "app"))
	if len(vip) != 1 || slices.Contains(both, vip[0]) {
		t.Errorf("app is %v, no virtual IP of %v", vip, both)
	}
	answered := make(map[string]bool)
	within(t, 10*time.Second, "app's virtual IP leads to both replicas", func() error {
		out, err := w.exec("h1", "c1", "/labpeer", "get", "http://app")
		who, _, _ := strings.Cut(out, " ")
		if answered[who] = true; err == nil && !(answered["shop_app_1"] && answered["shop_app_2"]) {
			err = fmt.Errorf("answered: %v", answered)
		}
		return err
	})
	if len(answered) != 2 {
		t.Errorf("of app answered: %v", answered)
	}
	// A renamed container is found by its new name.
	w.docker("h1", "rename", "c1", "c2")
	w.reaches("h2", "aliased", "http://c2", "c1")
	w.misses("h2", "aliased", "c1")
}

func ipv4(addresses []string) []string {
	return slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { return strings.Contains(a, ":") })
}

// TestOtherResolvers: names of Docker's own networks, of the servers that --dns gives, and what resolv.conf has.
func TestOtherResolvers(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.docker("h1", "network", "create", "local")
	w.web("h1", "both", "--network", "appnet", "--dns", "10.77.0.100", "--dns-opt", "ndots:2", "--dns-search", "example")
	w.docker("h1", "network", "connect", "local", "both")
	w.web("h1", "neighbour", "--network", "local")
	w.web("h2", "db", "--network", "appnet")
	w.reaches("h1", "both", "http://neighbour", "neighbour")
	w.reaches("h1", "both", "http://db", "db")
	for _, name := range []string{"outside.example", "outside"} {
		if got := w.finds("h1", "both", name); !slices.Contains(got, "192.0.2.7") {
			t.Errorf("%s is %v", name, got)
		}
	}
	resolv, err := w.exec("h1", "both", "cat", "/etc/resolv.conf")
	if err != nil {
		t.Error(err)
	}
	w.says(resolv, "127.0.0.11", "ndots:2", "example")
	// Without --dns it is the host's server that knows.
	w.web("h2", "plain", "--network", "appnet")
	if got := w.finds("h2", "plain", "outside.example"); !slices.Contains(got, "192.0.2.7") {
		t.Errorf("the host's server gives %v", got)
	}
}

// TestSharedNamespaces: --network container: shares all, host networking is left alone.
func TestSharedNamespaces(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h1", "db", "--network", "appnet")
	w.web("h2", "main", "--network", "appnet")
	w.docker("h2", "run", "-d", "--name", "side", "--network", "container:main", "peer", "/labpeer", "web", "side", "81")
	w.reaches("h2", "side", "http://db", "db")
	w.reaches("h1", "db", "http://main:81", "side")
	w.docker("h2", "run", "-d", "--name", "onhost", "--network", "host", "peer", "/labpeer", "web", "onhost", "8099")
	w.answers("h1", "http://10.77.0.2:8099", "onhost")
	if _, err := w.lookup("h2", "onhost", "db"); err == nil {
		t.Error("a container with the host's network resolves names of the mesh")
	}
	if out, err := mesh.Host("h2").Run(w.ctx, "nft", "list", "ruleset"); err != nil || strings.Contains(out, "127.0.0.11") {
		t.Errorf("the host's namespace has a container's rules (%v): %s", err, out)
	}
}

// TestSeveralNetworks: a container on two networks has the names of both, a client of one only its own.
func TestSeveralNetworks(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.network("back")
	w.web("h1", "proxy", "--network", "front")
	w.docker("h1", "network", "connect", "--alias", "gate", "back", "proxy")
	w.web("h2", "user", "--network", "front")
	w.web("h3", "db", "--network", "back")
	w.reaches("h1", "proxy", "http://db", "db")
	w.reaches("h1", "proxy", "http://user", "user")
	w.reaches("h2", "user", "http://proxy", "proxy")
	w.reaches("h3", "db", "http://gate", "proxy")
	w.misses("h2", "user", "db")
	w.misses("h2", "user", "gate")
	w.docker("h1", "network", "disconnect", "back", "proxy")
	w.misses("h1", "proxy", "db")
	w.misses("h3", "db", "proxy")
	w.reaches("h2", "user", "http://proxy", "proxy")
	w.docker("h1", "network", "connect", "back", "proxy")
	w.reaches("h3", "db", "http://proxy", "proxy")
	w.reaches("h1", "proxy", "http://db", "db")
}

// TestLookupsSurviveTheAgent: with the agent killed, Docker's resolver answers what it can, and meshd
// takes over when it is back.
func TestLookupsSurviveTheAgent(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h2", "far", "--network", "appnet")
	w.web("h1", "near", "--network", "appnet")
	w.web("h1", "client", append(asksAgain, "--network", "appnet")...)
	w.finds("h1", "client", "far")
	w.finds("h1", "client", "near")
	end := w.lookups("h1", "client", "near", "/tmp/stop")
	if err := mesh.SignalAgent(w.ctx, mesh.Host("h1"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ensureAgent(t, mesh.Host("h1")) })
	// What was connected goes on without the agent.
	if _, err := w.exec("h1", "client", "/labpeer", "patient", "get", "http://"+w.ip("h2", "far", "appnet")); err != nil {
		t.Errorf("without the agent: %v", err)
	}
	if err := mesh.StartAgent(w.ctx, mesh.Host("h1")); err != nil {
		t.Fatal(err)
	}
	w.finds("h1", "client", "far")
	if _, err := w.exec("h1", "client", "touch", "/tmp/stop"); err != nil {
		t.Fatal(err)
	}
	out := end(0)
	w.says(out, " 0 failed")
	t.Log(out)
}

// asksAgain has a container's resolver ask again after a second, not five: the question that an agent has when it is
// killed is not answered.
var asksAgain = []string{"--dns-opt", "timeout:1", "--dns-opt", "attempts:5"}

// lookups has a container look a name up all the time, until there is a file in it, and returns what waits for the end.
func (w *world) lookups(host, container, name, file string) (end func(syscall.Signal) string) {
	w.Helper()
	end = w.background(host, "/usr/bin/docker", "exec", container, "/labpeer", "patient", "lookups", name, file)
	within(w.T, 30*time.Second, container+" looks up "+name, func() error {
		_, err := mesh.Host(host).Run(w.ctx, "pgrep", "-f", "^/labpeer patient lookups "+name)
		return err
	})
	return end
}

// ensureAgent starts a host's agent if it does not run.
func ensureAgent(t *testing.T, h *lab.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := mesh.Meshd(ctx, h, "members"); err == nil {
		return
	}
	if err := mesh.StartAgent(ctx, h); err != nil {
		t.Error(err)
	}
}
