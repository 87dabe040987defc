package agent

import (
	"strings"
	"testing"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
)

// What is not allowed is refused with what to do instead, and nothing is written.
func TestServiceUpdatesThatAreRefused(t *testing.T) {
	s := answering(t)
	before := s.store.catalog.Digest()
	update := func(name string, req api.ServiceRequest) func() error {
		return func() error { _, err := s.UpdateService(t.Context(), name, req); return err }
	}
	for what, test := range map[string]struct {
		call func() error
		code api.Code
		says string
	}{
		"a service that is not there": {update("nope", api.ServiceRequest{Affinity: "none"}), api.CodeNotFound, "there are:"},
		"one of several":              {update("db", api.ServiceRequest{Affinity: "none"}), api.CodeInvalid, "on 2 networks"},
		"no affinity":                 {update("web", api.ServiceRequest{Affinity: "cookie"}), api.CodeInvalid, "none or client-ip"},
		"no preference":               {update("web", api.ServiceRequest{Prefer: "cheap"}), api.CodeInvalid, "none or local"},
		"no port":                     {update("web", api.ServiceRequest{Publish: []api.Publish{{Published: 1, Protocol: "tcp"}}}), api.CodeInvalid, "1 to 65535"},
		"no protocol":                 {update("web", api.ServiceRequest{Unpublish: []api.Port{{Port: 1, Protocol: "x"}}}), api.CodeInvalid, "tcp or udp"},
		"another's port": {update("db.appnet", api.ServiceRequest{Publish: []api.Publish{{Published: 8080, Target: 1, Protocol: "tcp"}}}),
			api.CodeConflict, "published by service web.appnet"},
		"nobody's port": {update("web", api.ServiceRequest{Unpublish: []api.Port{{Port: 7}}}), api.CodeNotFound, "does not publish port 7"},
	} {
		t.Run(what, func(t *testing.T) { wantCode(t, test.call(), test.code, test.says) })
	}
	if s.store.catalog.Digest() != before {
		t.Error("something was written")
	}
}

func TestServiceIsChanged(t *testing.T) {
	s := answering(t)
	changed, _, err := s.changeService("web", api.ServiceRequest{Affinity: "client-ip", Prefer: "local",
		Publish: []api.Publish{{Published: 8080, Target: 81, Protocol: "tcp"}}, Unpublish: []api.Port{{Port: 8080}}})
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	got, err := s.Service(t.Context(), "web")
	if err != nil || got.Affinity != "client-ip" || got.Prefer != "local" || len(got.Ports) == 0 || got.Ports[0].Target != 81 {
		t.Errorf("%+v, %v", got, err)
	}
	// What was in its way has the port now, and is still told who has it.
	other, err := s.Service(t.Context(), "db.backnet")
	if err != nil || len(other.Ports) != 1 || other.Ports[0].Conflict != "web.appnet" {
		t.Errorf("%+v, %v", other, err)
	}
	if changed, _, err = s.changeService("web", api.ServiceRequest{Affinity: "client-ip"}); changed || err != nil {
		t.Errorf("the same again: %v, %v", changed, err)
	}
	if changed, _, err = s.changeService("web", api.ServiceRequest{Affinity: "none", Prefer: "none", Unpublish: []api.Port{{Port: 8080}}}); !changed || err != nil {
		t.Errorf("%v, %v", changed, err)
	}
	if got, err = s.Service(t.Context(), "web"); err != nil || len(got.Withdrawn) != 1 || got.Affinity != "none" {
		t.Errorf("%+v, %v", got, err)
	}
	if other, _ = s.Service(t.Context(), "db.backnet"); len(other.Ports) != 1 || other.Ports[0].Conflict != "" {
		t.Errorf("the port is free, and db has not got it: %+v", other)
	}
}

// A network that goes takes with it what was set for its services.
func TestSettingsGoWithTheirNetwork(t *testing.T) {
	w := newWorld(t)
	s := answering(t, w.network("empty", 77), w.settings("empty", "db", func(r *catalog.ServiceRecord) { r.Prefer = catalog.PreferLocal }))
	if _, ok := s.store.View().Service("empty", "db"); !ok {
		t.Fatal("a service with settings is not there")
	}
	if err := s.RemoveNetwork(t.Context(), "empty"); err != nil {
		t.Fatal(err)
	}
	s.store.Merge(w.network("empty", 77, func(n *catalog.NetworkRecord) { n.Revision = 9 }))
	if svc, ok := s.store.View().Service("empty", "db"); ok {
		t.Errorf("a new network of that name has %+v", svc)
	}
}

func TestPublishNeedsTheIngressNetwork(t *testing.T) {
	s := answering(t)
	var local Local
	local.Service = "web"
	local.Attachments = []catalog.Attachment{{Network: "appnet"}}
	choose := func() []string {
		l := local.clone()
		if err := s.choosePublish(api.AttachRequest{}, &l); err != nil {
			t.Fatal(err)
		}
		var networks []string
		for _, a := range l.Attachments {
			networks = append(networks, a.Network)
		}
		return networks
	}
	if got := strings.Join(choose(), " "); got != "appnet" {
		t.Errorf("a replica that publishes nothing is on %s", got)
	}
	if _, _, err := s.changeService("web", api.ServiceRequest{Publish: []api.Publish{{Published: 9999, Target: 1, Protocol: "udp"}}}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(choose(), " "); got != "appnet ingress" {
		t.Errorf("a replica of a service that publishes for all is on %s", got)
	}
}
