package docker

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"log/slog"

	"github.com/meshd/meshd/api"
)

// fakeMesh is a strict mesh in memory, that remembers what it was asked for.
type fakeMesh struct {
	mu        sync.Mutex // guards all below
	away      bool       // this host belongs to no mesh
	networks  []api.Network
	inUse     map[string]bool // networks
	reserved  map[netip.Addr]bool
	described map[string]Description
	prepared  map[string]int
	refuse    error         // CheckPublish's answer
	stuck     error         // DetachKey's
	pace      time.Duration // of DetachKey
	changes   []string
}

func newFakeMesh(networks ...api.Network) *fakeMesh {
	return &fakeMesh{networks: networks, inUse: map[string]bool{}, reserved: map[netip.Addr]bool{}, described: map[string]Description{}, prepared: map[string]int{}}
}

var errNoMesh = &api.Error{Code: api.CodeNoMesh, Message: "this host belongs to no mesh yet: found one with meshd init"}

func (m *fakeMesh) change(format string, args ...any) {
	m.changes = append(m.changes, fmt.Sprintf(format, args...))
}

// Changes returns what was changed since the last call.
func (m *fakeMesh) Changes() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := strings.Join(m.changes, "\n")
	m.changes = nil
	return out
}

func (m *fakeMesh) Networks(context.Context) ([]api.Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, errNoMesh
	}
	return slices.Clone(m.networks), nil
}

func (m *fakeMesh) CreateNetwork(_ context.Context, req api.NetworkRequest) (api.Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := api.Network{Name: req.Name, Subnets: []string{"10.85.0.0/16", "fd00:85::/64"}, Internal: req.Internal}
	copy(n.Subnets, req.Subnets)
	m.networks = append(m.networks, n)
	m.change("create network %s %v", n.Name, n.Subnets)
	return n, nil
}

func (m *fakeMesh) RemoveNetwork(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inUse[name] {
		return &api.Error{Code: api.CodeConflict, Message: "network " + name + " is in use"}
	}
	m.networks = slices.DeleteFunc(m.networks, func(n api.Network) bool { return n.Name == name })
	m.change("remove network %s", name)
	return nil
}

func (m *fakeMesh) FreeSubnets(context.Context) ([]netip.Prefix, error) {
	return prefixes([]string{"10.70.0.0/16", "fd00:70::/64"}), nil
}

func (m *fakeMesh) CheckSubnets(_ context.Context, subnets []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		for _, have := range prefixes(n.Subnets) {
			if slices.ContainsFunc(subnets, have.Overlaps) {
				return &api.Error{Code: api.CodeConflict, Message: "it overlaps network " + n.Name}
			}
		}
	}
	return nil
}

func (m *fakeMesh) Attach(_ context.Context, req api.AttachRequest) (api.Attached, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change("attach %s to %v at %s %s as %s", req.Key, req.Networks, req.IP, req.MAC, req.Interface)
	return api.Attached{}, nil
}

func (m *fakeMesh) DetachKey(ctx context.Context, req api.DetachRequest) error {
	if m.pace > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(m.pace):
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errNoMesh
	}
	if m.stuck != nil {
		return m.stuck
	}
	m.change("detach %s from %s", req.Key, req.Network)
	return nil
}

func (m *fakeMesh) Endpoints(context.Context) ([]api.Endpoint, error) { return nil, nil }

func (m *fakeMesh) Describe(_ context.Context, d Description) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.described[d.Key] = d
	return nil
}

// Described is what the mesh was told last.
func (m *fakeMesh) Described(key string) Description {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.described[key]
}

func (m *fakeMesh) CheckPublish(context.Context, string, string, []api.Publish) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refuse
}

func (m *fakeMesh) Prepare(_ context.Context, network string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prepared[network]++
	return nil
}

// Prepared is how often addresses of a network were asked to be made ready.
func (m *fakeMesh) Prepared(network string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.prepared[network]
}

// Reserve gives 10.9.0.7 or the address that is wanted, and its like in IPv6.
func (m *fakeMesh) Reserve(_ context.Context, network string, want netip.Addr) (Address, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !want.IsValid() {
		want = netip.MustParseAddr("10.9.0.7")
	}
	if m.reserved[want] {
		return Address{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("address %s is in use", want)}
	}
	m.reserved[want] = true
	m.change("reserve %s on %s", want, network)
	six := netip.MustParseAddr("fd00:9::").As16()
	four := want.As4()
	six[14], six[15] = four[2], four[3]
	return Address{netip.PrefixFrom(want, 16), netip.PrefixFrom(netip.AddrFrom16(six), 64)}, nil
}

func (m *fakeMesh) Release(_ context.Context, network string, address netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reserved[address] {
		m.change("release %s on %s", address, network)
	}
	delete(m.reserved, address)
	return nil
}

// newPlugin makes a plugin that does not run yet.
func newPlugin(t *testing.T, mesh Mesh, socket string) *Plugin {
	t.Helper()
	p, err := New(Options{Mesh: mesh, StatePath: filepath.Join(t.TempDir(), "docker"), Engine: socket, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx = ctx
	t.Cleanup(func() {
		cancel()
		p.running.Wait()
	})
	return p
}
