package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/peers/membership"
)

// What happened is told by differences between what this host saw before and what it sees now, so whatever changes
// a state tells of it, whoever changed it and however it became known.

const (
	// eventsKept is how many events are remembered; older ones are in the log.
	eventsKept = 1000
	// eventsPause is how long after a look the next one comes at the earliest: in a large mesh each takes time.
	eventsPause = 200 * time.Millisecond
	// eventsWait bounds how long a call waits for the next event.
	eventsWait = time.Minute
)

// history is the last events, since the session began.
type history struct {
	run string // tells this session from others

	mu     sync.Mutex // guards all below
	events []api.Event
	more   chan struct{} // closed at the next event
}

func newHistory(run string) *history { return &history{run: run, more: make(chan struct{})} }

// add remembers events, which happened now.
func (h *history) add(now time.Time, events ...api.Event) {
	if len(events) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	next := uint64(1)
	if n := len(h.events); n > 0 {
		next = h.events[n-1].Sequence + 1
	}
	for i, e := range events {
		e.Sequence, e.Time = next+uint64(i), now.UTC().Format(time.RFC3339Nano)
		h.events = append(h.events, e)
	}
	if extra := len(h.events) - eventsKept; extra > 0 {
		h.events = slices.Clone(h.events[extra:])
	}
	close(h.more)
	h.more = make(chan struct{})
}

// after returns the events after a number, and what is closed when there are more.
func (h *history) after(sequence uint64) (api.Events, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := api.Events{Run: h.run, Events: []api.Event{}}
	for _, e := range h.events {
		if e.Sequence > sequence {
			out.Events = append(out.Events, e)
		}
	}
	return out, h.more
}

// Events tells what happened since the session began.
func (s *session) Events(ctx context.Context, req api.EventsRequest) (api.Events, error) {
	if req.Run != "" && req.Run != s.history.run {
		req.After = 0 // another session's numbers
	}
	wait, cancel := context.WithTimeout(ctx, min(max(0, req.Wait), eventsWait))
	defer cancel()
	for {
		events, more := s.history.after(req.After)
		if len(events.Events) > 0 {
			return events, nil
		}
		select {
		case <-wait.Done():
			return events, ctx.Err()
		case <-more:
		}
	}
}

// followEvents looks what has become different whenever something may have.
func (s *session) followEvents(ctx context.Context) error {
	var before *observed
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.eventNews:
		}
		if !s.believes() {
			continue // woken again when it does
		}
		after := s.observe()
		if before == nil {
			s.history.add(time.Now(), begun(s.version, after))
		} else {
			s.history.add(time.Now(), before.until(after)...)
		}
		before = after
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(eventsPause):
		}
	}
}

func begun(version string, o *observed) api.Event {
	alive := 0
	for _, m := range o.members {
		if m.Status == "alive" {
			alive++
		}
	}
	return api.Event{Kind: "agent", Subject: "meshd", What: fmt.Sprintf("meshd %s runs on this host; it sees %d hosts alive, %d networks, %d services",
		version, alive, len(o.networks), len(o.services))}
}

// observed is what events tell the changes of, in the words of the API.
type observed struct {
	members   map[string]api.Member   // by ID
	networks  map[string]api.Network  // by name
	services  map[string]api.Service  // by NAME.NETWORK
	endpoints map[string]api.Endpoint // by ID and network
}

func (s *session) observe() *observed {
	view := s.store.View()
	o := &observed{make(map[string]api.Member), make(map[string]api.Network), make(map[string]api.Service), make(map[string]api.Endpoint)}
	status := make(map[catalog.NodeID]membership.Status)
	for _, m := range s.membership.Members() {
		status[m.ID] = m.Status
	}
	for _, m := range view.Members {
		if m.Known || m.Evicted {
			o.members[string(m.ID)] = api.Member{ID: string(m.ID), Name: nodeName(view, m.ID), Status: s.memberStatus(m, status[m.ID]), Version: m.Agent, Signer: m.Signer}
		}
	}
	for _, n := range describeNetworks(view) {
		o.networks[n.Name] = n
	}
	alive := s.aliveSet()
	for _, svc := range s.describeServices(view, alive) {
		o.services[svc.Name+"."+svc.Network] = svc
	}
	for _, e := range s.describeEndpoints(view, alive) {
		o.endpoints[e.ID+" "+e.Network] = e
	}
	return o
}

// until is what happened between two looks: hosts first, then networks, endpoints, and the ports of services.
func (o *observed) until(now *observed) []api.Event {
	events := compare(o.members, now.members, memberEvents)
	events = append(events, compare(o.networks, now.networks, networkEvents)...)
	events = append(events, compare(o.endpoints, now.endpoints, endpointEvents)...)
	return append(events, compare(o.services, now.services, serviceEvents)...)
}

// compare asks what happened to each thing that is, or was: nil stands for one that is not there.
func compare[T any](before, after map[string]T, tell func(before, after *T) []api.Event) []api.Event {
	all := maps.Clone(before)
	maps.Copy(all, after)
	var events []api.Event
	for _, key := range slices.Sorted(maps.Keys(all)) {
		events = append(events, tell(lookUp(before, key), lookUp(after, key))...)
	}
	return events
}

func lookUp[T any](m map[string]T, key string) *T {
	if v, ok := m[key]; ok {
		return &v
	}
	return nil
}

func memberEvents(before, after *api.Member) []api.Event {
	if after == nil {
		return nil // members are never forgotten while it matters to anybody
	}
	tell := func(format string, args ...any) api.Event {
		return api.Event{Kind: "member", Subject: after.Name, What: "host " + after.Name + " " + fmt.Sprintf(format, args...)}
	}
	if before == nil {
		return []api.Event{tell("joined, with meshd %s", after.Version)}
	}
	var events []api.Event
	if before.Name != after.Name {
		events = append(events, tell("was called %s", before.Name))
	}
	if before.Status != after.Status {
		events = append(events, tell("%s", map[string]string{
			"alive": "is alive again", "suspect": "does not answer just now", "failed": "has failed: it does not answer", "left": "has left", "evicted": "is evicted",
		}[after.Status]))
	}
	if before.Version != after.Version {
		events = append(events, tell("runs meshd %s now; it was %s", after.Version, before.Version))
	}
	if before.Signer != after.Signer {
		events = append(events, tell("is a signer now"))
	}
	return events
}

func networkEvents(before, after *api.Network) []api.Event {
	tell := func(name, format string, args ...any) []api.Event {
		return []api.Event{{Kind: "network", Subject: name, What: "network " + name + " " + fmt.Sprintf(format, args...)}}
	}
	switch {
	case before == nil:
		return tell(after.Name, "is there, with %s", strings.Join(after.Subnets, ", "))
	case after == nil:
		return tell(before.Name, "is removed")
	case !slices.Equal(before.Subnets, after.Subnets):
		return tell(after.Name, "has %s now", strings.Join(after.Subnets, ", "))
	}
	return nil
}

func endpointEvents(before, after *api.Endpoint) []api.Event {
	e := cmp.Or(after, before)
	what := "endpoint " + e.Name
	if e.Service != "" {
		what += " (service " + e.Service + ")"
	}
	tell := func(format string, args ...any) []api.Event {
		return []api.Event{{Kind: "endpoint", Subject: e.ID, What: what + " " + fmt.Sprintf(format, args...)}}
	}
	switch {
	case before == nil:
		return tell("is on network %s, on host %s, as %s: %s", e.Network, e.Node, e.IP, healthInWords(*after))
	case after == nil:
		return tell("has gone from network %s, on host %s", e.Network, e.Node)
	// That its host does not answer is told of the host.
	case before.Health != after.Health && before.Health != "unreachable" && after.Health != "unreachable":
		return tell("on host %s is %s", e.Node, healthInWords(*after))
	}
	return nil
}

func healthInWords(e api.Endpoint) string {
	if e.Reason == "" {
		return e.Health
	}
	return e.Health + ": " + e.Reason
}

func serviceEvents(before, after *api.Service) []api.Event {
	ports := func(s *api.Service) map[string]api.ServicePort {
		out := make(map[string]api.ServicePort)
		if s != nil {
			for _, p := range s.Ports {
				out[fmt.Sprintf("%d/%s", p.Published, p.Protocol)] = p
			}
		}
		return out
	}
	service := cmp.Or(after, before)
	name := service.Name + "." + service.Network
	return compare(ports(before), ports(after), func(before, after *api.ServicePort) []api.Event {
		return portEvents(name, before, after)
	})
}

func portEvents(service string, before, after *api.ServicePort) []api.Event {
	port := cmp.Or(after, before)
	tell := func(format string, args ...any) []api.Event {
		return []api.Event{{Kind: "service", Subject: service,
			What: fmt.Sprintf("port %d/%s %s", port.Published, port.Protocol, fmt.Sprintf(format, args...))}}
	}
	switch {
	case after == nil:
		return tell("of service %s is not published any more", service)
	case after.Conflict != "" && (before == nil || before.Conflict != after.Conflict):
		return tell("is not published for service %s: service %s has it", service, after.Conflict)
	case after.Conflict == "" && (before == nil || before.Conflict != ""):
		return tell("of every host leads to service %s", service)
	case !slices.Equal(before.HeldOn, after.HeldOn) && len(after.HeldOn) > 0:
		return tell("of service %s does not answer on %s: a program there has it", service, strings.Join(after.HeldOn, ", "))
	case !slices.Equal(before.HeldOn, after.HeldOn):
		return tell("of service %s answers on every host again", service)
	}
	return nil
}

// repaired is the event of what somebody else had undone on this host.
func repaired(part string, changes journal.Changes, what string) api.Event {
	return api.Event{Kind: "repair", Subject: part, What: fmt.Sprintf("somebody else undid %d changes of meshd here (%s): made again: %s", changes.Count, part, what)}
}
