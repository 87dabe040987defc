package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/internal/atomicfile"
)

// state is what the Engine has told, once, and is on disk for the next agent: the Engine does not repeat it.
type state struct {
	path string

	writing sync.Mutex // one change at a time; held during IO

	mu   sync.Mutex // guards what is below; its maps are replaced whole
	file stateFile
}

type stateFile struct {
	Networks  map[string]known    `json:"networks"`  // by the Engine's id
	Endpoints map[string]endpoint `json:"endpoints"` // by the Engine's id
}

// known is a network of the Engine's with our driver.
type known struct {
	Name string `json:"name"` // of the mesh's network too
	// Ready says that the mesh had it, with the same subnets: containers can be on it.
	Ready bool `json:"ready"`
}

// endpoint is a container's presence on a network.
type endpoint struct {
	ID        string        `json:"id"`
	NetworkID string        `json:"network_id"`
	Network   string        `json:"network"` // its name
	IP        string        `json:"ip"`
	MAC       string        `json:"mac"`
	Publish   []api.Publish `json:"publish,omitempty"`
	Sandbox   string        `json:"sandbox,omitempty"`   // path of the namespace; empty before it has joined
	Interface string        `json:"interface,omitempty"` // its name there
	Container string        `json:"container,omitempty"` // id, once known
	Created   time.Time     `json:"created"`
}

// key is what the daemon knows a container's endpoint by: the same for all its networks.
func (e endpoint) key() string {
	return keyPrefix + e.Sandbox[strings.LastIndexByte(e.Sandbox, '/')+1:]
}

const keyPrefix = "docker/"

func openState(path string) (*state, error) {
	s := &state{path: path, file: stateFile{Networks: map[string]known{}, Endpoints: map[string]endpoint{}}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what Docker has told: %w", err)
	}
	if err := json.Unmarshal(data, &s.file); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): move it away and start the agent again; it is made anew from what Docker runs", path, err)
	}
	if s.file.Networks == nil || s.file.Endpoints == nil {
		return nil, fmt.Errorf("%s is damaged: move it away and start the agent again; it is made anew from what Docker runs", path)
	}
	return s, nil
}

// change writes to disk, and then to memory.
func (s *state) change(edit func(*stateFile)) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	next := stateFile{maps.Clone(s.file.Networks), maps.Clone(s.file.Endpoints)}
	s.mu.Unlock()
	edit(&next)
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding what Docker has told: %w", err)
	}
	if err := atomicfile.Write(s.path, data, 0o600); err != nil {
		return fmt.Errorf("keeping what Docker has told: %w", err)
	}
	s.mu.Lock()
	s.file = next
	s.mu.Unlock()
	return nil
}

func (s *state) network(id string) (known, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.file.Networks[id]
	return n, ok
}

func (s *state) networks() map[string]known {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Networks
}

func (s *state) putNetwork(id string, n known) error {
	if have, ok := s.network(id); ok && have == n {
		return nil
	}
	return s.change(func(f *stateFile) { f.Networks[id] = n })
}

func (s *state) dropNetwork(id string) error {
	if _, ok := s.network(id); !ok {
		return nil
	}
	return s.change(func(f *stateFile) { delete(f.Networks, id) })
}

func (s *state) endpoint(id string) (endpoint, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.file.Endpoints[id]
	return e, ok
}

// endpoints returns those that which says true of, sorted by age.
func (s *state) endpoints(which func(endpoint) bool) []endpoint {
	s.mu.Lock()
	all := s.file.Endpoints
	s.mu.Unlock()
	var out []endpoint
	for _, e := range all {
		if which(e) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// editEndpoint changes an endpoint that is still there, and returns it.
func (s *state) editEndpoint(id string, edit func(*endpoint)) (endpoint, error) {
	var out endpoint
	found := false
	err := s.change(func(f *stateFile) {
		if out, found = f.Endpoints[id]; found {
			edit(&out)
			f.Endpoints[id] = out
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("endpoint %.12s is not known: it was removed meanwhile", id)
	}
	return out, err
}

func (s *state) putEndpoint(e endpoint) error {
	return s.change(func(f *stateFile) { f.Endpoints[e.ID] = e })
}

func (s *state) dropEndpoint(id string) error {
	if _, ok := s.endpoint(id); !ok {
		return nil
	}
	return s.change(func(f *stateFile) { delete(f.Endpoints, id) })
}
