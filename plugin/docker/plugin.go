package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/api"
)

// Driver is the name of our drivers in Docker: `docker network create -d meshd`.
const Driver = "meshd"

// Options is what a Plugin needs.
type Options struct {
	Mesh      Mesh
	StatePath string // file for what the Engine tells only once
	Engine    string // path of the Engine's socket
	Log       *slog.Logger
}

// Plugin serves one Engine.
type Plugin struct {
	mesh   Mesh
	state  *state
	engine *engine
	log    *slog.Logger

	wakeup  chan struct{} // capacity 1: look at the networks
	recheck chan struct{} // capacity 1: compare the containers
	running sync.WaitGroup
	leaving atomic.Int32 // endpoints that are being taken off their networks

	mu         sync.Mutex // guards all below
	ctx        context.Context
	reserved   map[string]reservation // by IPv4 address, in no endpoint yet
	removing   map[string]bool        // networks that we take off the Engine ourselves, by id
	swapping   *swap                  // the network that is being made anew; nil: none
	plugs      map[string]*plug       // by endpoint's id
	containers map[string]*guest      // by id
	working    map[string]bool        // containers that are being described; true: once more
	problems   map[string]string      // by what they are about
	version    string                 // of the Engine; empty while it is away
}

// New makes a Plugin. It knows what its predecessor was told.
func New(o Options) (*Plugin, error) {
	state, err := openState(o.StatePath)
	if err != nil {
		return nil, err
	}
	engine, err := newEngine(o.Engine)
	if err != nil {
		return nil, err
	}
	return &Plugin{
		mesh: o.Mesh, state: state, engine: engine, log: o.Log.With("part", "docker"),
		wakeup:   make(chan struct{}, 1),
		recheck:  make(chan struct{}, 1),
		reserved: make(map[string]reservation), removing: make(map[string]bool),
		plugs: make(map[string]*plug), containers: make(map[string]*guest),
		working: make(map[string]bool), problems: make(map[string]string),
	}, nil
}

// Run answers the Engine on listener, and follows it, until ctx ends, which is no error. Containers stay on
// their networks.
func (p *Plugin) Run(ctx context.Context, listener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	group.Go(func() error { return p.serve(ctx, listener) })
	group.Go(func() error { return p.follow(ctx) })
	err := group.Wait()
	p.running.Wait()
	return err
}

// goOn runs f in the background until the plugin ends.
func (p *Plugin) goOn(f func(ctx context.Context)) {
	p.mu.Lock()
	ctx := p.ctx
	p.mu.Unlock()
	p.running.Go(func() { f(ctx) })
}

// wake has the networks be looked at soon.
func (p *Plugin) wake() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// report keeps what is wrong with something, for status, or that it is well again.
func (p *Plugin) report(about string, err error) {
	p.mu.Lock()
	before := p.problems[about]
	if err == nil {
		delete(p.problems, about)
	} else {
		p.problems[about] = err.Error()
	}
	p.mu.Unlock()
	switch {
	case err != nil && err.Error() != before:
		p.log.Warn("Docker is not as it should be", "about", about, "err", err)
	case err == nil && before != "":
		p.log.Info("works again", "about", about)
	}
}

func code(err error) api.Code {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// detach takes an endpoint off its network. It is no error if it is not there.
func (p *Plugin) detach(ctx context.Context, e endpoint) error {
	if e.Sandbox == "" {
		return nil
	}
	err := p.mesh.DetachKey(ctx, api.DetachRequest{Key: e.key(), Network: e.Network})
	switch code(err) {
	case api.CodeNotFound, api.CodeNoMesh:
		return nil
	}
	if err != nil {
		return fmt.Errorf("taking a container off network %s: %w", e.Network, err)
	}
	return nil
}

// Status is the Engine as the plugin sees it.
func (p *Plugin) Status() api.DockerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := api.DockerStatus{State: "waiting", Version: p.version, Problems: []string{}}
	if p.version != "" {
		s.State = "connected"
	}
	for _, about := range sortedKeys(p.problems) {
		problem := p.problems[about]
		if !strings.HasPrefix(problem, about) {
			problem = about + ": " + problem
		}
		s.Problems = append(s.Problems, problem)
	}
	return s
}

const reservationLife = time.Minute

// reservation is an address that the Engine has and no endpoint yet.
type reservation struct {
	network string
	mac     string
	address Address
	made    time.Time
}
