package many

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/test/lab"
)

var (
	agents = flag.Int("agents", 0, "how many agents to run")
	binary = flag.String("binary", "", "path of meshd")
)

// TestManyAgents forms a mesh of real agents, and prints what it costs and how quick it is.
func TestManyAgents(t *testing.T) {
	if *agents < 2 {
		t.Skip("a measurement: make bench-agents")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	m, err := lab.NewMesh(ctx, *binary, lab.Options{Name: fmt.Sprintf("many%d", os.Getpid()), Hosts: *agents})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d agents started, joined and all alive after %s", *agents, time.Since(began).Round(time.Millisecond))

	f := &fleet{t: t, mesh: m}
	for _, h := range m.Members() {
		pid, err := m.AgentPID(h)
		if err != nil {
			t.Fatal(err)
		}
		f.clients = append(f.clients, api.NewClient(fmt.Sprintf("/proc/%d/root/run/meshd/meshd.sock", pid)))
		f.pids = append(f.pids, pid)
	}
	f.eventually(ctx, "all are healthy", func(c *api.Client) bool {
		s, err := c.Status(ctx)
		return err == nil && s.Healthy
	})
	f.rest(ctx, 20*time.Second) // hosts claim addresses for published ports, and settle
	f.idle(ctx, 20*time.Second)
	f.changes(ctx, 20)
}

type fleet struct {
	t       *testing.T
	mesh    *lab.Mesh
	clients []*api.Client
	pids    []int
}

// eventually waits until a condition holds on every host, and returns when it did on each.
func (f *fleet) eventually(ctx context.Context, what string, ok func(*api.Client) bool) []time.Duration {
	f.t.Helper()
	began := time.Now()
	took := make([]time.Duration, len(f.clients))
	var wg sync.WaitGroup
	for i, c := range f.clients {
		wg.Go(func() {
			for !ok(c) {
				select {
				case <-ctx.Done():
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
			took[i] = time.Since(began)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		f.t.Fatalf("%s: %v", what, ctx.Err())
	}
	return took
}

// changes makes networks, one after the other on one host after the other, and waits until every host
// lists it. Asking takes a processor as well, so what is measured is an upper bound.
func (f *fleet) changes(ctx context.Context, count int) {
	var all, last []time.Duration
	for i := range count {
		name := fmt.Sprintf("n%d", i)
		if _, err := f.clients[i%len(f.clients)].CreateNetwork(ctx, api.NetworkRequest{Name: name}); err != nil {
			f.t.Fatal(err)
		}
		took := f.eventually(ctx, "network "+name+" is known", func(c *api.Client) bool {
			_, err := c.Network(ctx, name)
			return err == nil
		})
		slices.Sort(took)
		all, last = append(all, took...), append(last, took[len(took)-1])
	}
	slices.Sort(all)
	slices.Sort(last)
	f.t.Logf("a change is known: half %s, 99 %% %s, the last %s; on all, of the middle change, %s",
		all[len(all)/2], all[len(all)*99/100], all[len(all)-1], last[len(last)/2])
}

// rest lets the agents do nothing for so long.
func (f *fleet) rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
		f.t.Fatal(ctx.Err())
	}
}

// idle measures what the agents cost that have nothing to do.
func (f *fleet) idle(ctx context.Context, d time.Duration) {
	sent := func() (sum uint64) {
		for _, c := range f.clients {
			s, err := c.Status(ctx)
			if err != nil {
				f.t.Fatal(err)
			}
			for _, p := range s.Peers {
				sum += p.TX
			}
		}
		return sum
	}
	ticks := func() (agents, tunnels int) {
		for _, pid := range f.pids {
			agents += processorTicks(f.t, pid)
		}
		for _, pid := range tunnelProcesses(f.mesh) {
			tunnels += processorTicks(f.t, pid)
		}
		return agents, tunnels
	}
	bytes, began := sent(), time.Now()
	agentsBefore, tunnelsBefore := ticks()
	f.rest(ctx, d)
	agentsAfter, tunnelsAfter := ticks()
	seconds := time.Since(began).Seconds()
	per := seconds * float64(len(f.pids))
	memory := 0
	for _, pid := range f.pids {
		memory += residentBytes(f.t, pid)
	}
	f.t.Logf("idle, each host: %.0f bytes a second into the tunnels, %.2f %% of a processor the agent and %.2f %% the tunnels' process, %.1f MB resident",
		float64(sent()-bytes)/per, float64(agentsAfter-agentsBefore)/per, float64(tunnelsAfter-tunnelsBefore)/per, float64(memory)/1e6/float64(len(f.pids)))
}

// processorTicks is the processor time that a process has had, in hundredths of a second (proc(5)).
func processorTicks(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		t.Fatalf("times of process %d: %s", pid, data)
	}
	return user + system
}

func residentBytes(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// tunnelProcesses is the processes that are WireGuard for this lab's hosts, where the kernel has none.
func tunnelProcesses(m *lab.Mesh) (pids []int) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		root, err2 := os.Readlink(filepath.Join(dir, "ns", "pid"))
		if err != nil || err2 != nil || !strings.Contains(string(command), "wireguard") {
			continue
		}
		for _, h := range m.Members() {
			agent, err := m.AgentPID(h)
			if err != nil {
				continue
			}
			own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", agent))
			pid, err2 := strconv.Atoi(filepath.Base(dir))
			if err == nil && err2 == nil && own == root && pid != agent {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
