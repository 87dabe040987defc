package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
)

// TestEventsUntil: each change of what people see is told once, in words, and nothing that did not change.
func TestEventsUntil(t *testing.T) {
	port := func(conflict string, heldOn ...string) api.ServicePort {
		return api.ServicePort{Publish: api.Publish{Published: 8080, Target: 80, Protocol: "tcp"}, Conflict: conflict, HeldOn: heldOn}
	}
	member := func(status string) api.Member {
		return api.Member{ID: "b", Name: "h2", Status: status, Version: "1.0"}
	}
	web := func(health, reason string) api.Endpoint {
		return api.Endpoint{ID: "3f2a", Name: "web-1", Service: "web", Network: "appnet", Node: "h2", IP: "10.1.0.2", Health: health, Reason: reason}
	}
	service := func(ports ...api.ServicePort) api.Service {
		return api.Service{Name: "web", Network: "appnet", Ports: ports}
	}
	network := func(subnets ...string) api.Network { return api.Network{Name: "appnet", Subnets: subnets} }
	for _, c := range []struct {
		name          string
		before, after any
		want          []string
	}{
		{"a host joins", nil, member("alive"), []string{"host h2 joined, with meshd 1.0"}},
		{"nothing", member("alive"), member("alive"), nil},
		{"a host is silent", member("alive"), member("suspect"), []string{"host h2 does not answer just now"}},
		{"a host fails", member("suspect"), member("failed"), []string{"host h2 has failed: it does not answer"}},
		{"a host returns", member("failed"), member("alive"), []string{"host h2 is alive again"}},
		{"a host leaves", member("alive"), member("left"), []string{"host h2 has left"}},
		{"a host is evicted", member("alive"), member("evicted"), []string{"host h2 is evicted"}},
		{"a host is made new", member("alive"), api.Member{ID: "b", Name: "h2b", Status: "alive", Version: "1.1", Signer: true},
			[]string{"host h2b was called h2", "host h2b runs meshd 1.1 now; it was 1.0", "host h2b is a signer now"}},
		{"a network is made", nil, network("10.1.0.0/16"), []string{"network appnet is there, with 10.1.0.0/16"}},
		{"a network grows", network("10.1.0.0/16"), network("10.1.0.0/16", "10.2.0.0/16"), []string{"network appnet has 10.1.0.0/16, 10.2.0.0/16 now"}},
		{"a network is removed", network("10.1.0.0/16"), nil, []string{"network appnet is removed"}},
		{"an endpoint begins", nil, web("starting", ""), []string{"endpoint web-1 (service web) is on network appnet, on host h2, as 10.1.0.2: starting"}},
		{"an endpoint is ill", web("healthy", ""), web("unhealthy", "no answer"), []string{"endpoint web-1 (service web) on host h2 is unhealthy: no answer"}},
		{"an endpoint's host fails", web("healthy", ""), web("unreachable", ""), nil},
		{"an endpoint's host returns", web("unreachable", ""), web("healthy", ""), nil},
		{"an endpoint drains", web("healthy", ""), web("draining", ""), []string{"endpoint web-1 (service web) on host h2 is draining"}},
		{"an endpoint ends", web("healthy", ""), nil, []string{"endpoint web-1 (service web) has gone from network appnet, on host h2"}},
		{"a port is published", nil, service(port("")), []string{"port 8080/tcp of every host leads to service web.appnet"}},
		{"a port is another's", nil, service(port("old.appnet")), []string{"port 8080/tcp is not published for service web.appnet: service old.appnet has it"}},
		{"a port is free", service(port("old.appnet")), service(port("")), []string{"port 8080/tcp of every host leads to service web.appnet"}},
		{"a program takes a port", service(port("")), service(port("", "h1")), []string{"port 8080/tcp of service web.appnet does not answer on h1: a program there has it"}},
		{"a program leaves a port", service(port("", "h1")), service(port("")), []string{"port 8080/tcp of service web.appnet answers on every host again"}},
		{"a port is withdrawn", service(port("")), service(), []string{"port 8080/tcp of service web.appnet is not published any more"}},
	} {
		var got []string
		for _, e := range seen(c.before).until(seen(c.after)) {
			got = append(got, e.What)
			if e.Kind == "" || e.Subject == "" {
				t.Errorf("%s: %+v has no kind, or no subject", c.name, e)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// seen is a look at one thing; nil: at nothing.
func seen(thing any) *observed {
	o := &observed{map[string]api.Member{}, map[string]api.Network{}, map[string]api.Service{}, map[string]api.Endpoint{}}
	switch v := thing.(type) {
	case api.Member:
		o.members[v.ID] = v
	case api.Network:
		o.networks[v.Name] = v
	case api.Service:
		o.services[v.Name] = v
	case api.Endpoint:
		o.endpoints[v.ID] = v
	}
	return o
}

// TestEventsKept: the last thousand, each with a number of its own; who has seen some gets the others, or waits for them; and
// numbers of another run mean nothing.
func TestEventsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{history: newHistory("run")}
		for i := range eventsKept + 5 {
			s.history.add(time.Now(), api.Event{What: fmt.Sprint(i)})
		}
		ask := func(req api.EventsRequest) []uint64 {
			t.Helper()
			answer, err := s.Events(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			var numbers []uint64
			for _, e := range answer.Events {
				numbers = append(numbers, e.Sequence)
			}
			return numbers
		}
		all := ask(api.EventsRequest{})
		if len(all) != eventsKept || all[0] != 6 || all[eventsKept-1] != eventsKept+5 {
			t.Errorf("%d events from %d to %d", len(all), all[0], all[len(all)-1])
		}
		last := all[len(all)-1]
		if got := ask(api.EventsRequest{Run: "run", After: last}); len(got) > 0 {
			t.Errorf("nothing is new, but: %v", got)
		}
		if got := ask(api.EventsRequest{Run: "before", After: last + 10}); len(got) != eventsKept {
			t.Errorf("with another run's numbers: %d events", len(got))
		}
		answered := make(chan []uint64)
		go func() {
			answer, _ := s.Events(context.Background(), api.EventsRequest{Run: "run", After: last, Wait: time.Hour})
			var numbers []uint64
			for _, e := range answer.Events {
				numbers = append(numbers, e.Sequence)
			}
			answered <- numbers
		}()
		synctest.Wait()
		s.history.add(time.Now(), api.Event{What: "news"}, api.Event{What: "more"})
		if got := <-answered; !slices.Equal(got, []uint64{last + 1, last + 2}) {
			t.Errorf("who waited got %v", got)
		}
		before := time.Now()
		if got := ask(api.EventsRequest{After: last + 2, Wait: time.Hour}); len(got) > 0 || time.Since(before) != eventsWait {
			t.Errorf("nothing happened, and after %s the answer was %v", time.Since(before), got)
		}
	})
}
