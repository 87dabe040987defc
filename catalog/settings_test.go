package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestSettingsRefuseMalformedBodies(t *testing.T) {
	mesh := MeshIDOf(pub(keyOf("mesh")))
	good := ServiceRecord{Register: Register{Revision: 1}, Mesh: mesh, Network: "n", Service: "db", Affinity: AffinityClientIP, Prefer: PreferLocal,
		Publish: []Publish{{8080, 80, "tcp", 1}, {8081, 80, "tcp", 1}, {53, 53, "udp", 1}}, Withdraw: []Port{{"tcp", 53}, {"udp", 54}}}
	r, err := Sign(keyOf("a"), KindService, good)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode[ServiceRecord](r)
	if err != nil || !back.sameSettings(good) || back.Register != good.Register || back.Service != "db" {
		t.Errorf("%+v, %v", back, err)
	}
	for want, edit := range map[string]func(*ServiceRecord){
		"mesh id":                    func(s *ServiceRecord) { s.Mesh = "" },
		"a network needs a name":     func(s *ServiceRecord) { s.Network = "" },
		"service name":               func(s *ServiceRecord) { s.Service = "a/b" },
		"count from 1":               func(s *ServiceRecord) { s.Revision = 0 },
		"before 1970":                func(s *ServiceRecord) { s.Stamp = -1 },
		"affinity is":                func(s *ServiceRecord) { s.Affinity = "none" },
		"prefer is":                  func(s *ServiceRecord) { s.Prefer = "remote" },
		"8080:0/tcp is malformed":    func(s *ServiceRecord) { s.Publish[0].Target = 0 },
		"8080:80/sctp is malformed":  func(s *ServiceRecord) { s.Publish[0].Protocol = "sctp" },
		"published port 1 is not in": func(s *ServiceRecord) { s.Publish[1] = s.Publish[0] },
		"53/icmp is malformed":       func(s *ServiceRecord) { s.Withdraw[0].Protocol = "icmp" },
		"withdrawn port 1 is not in": func(s *ServiceRecord) { slices.Reverse(s.Withdraw) },
		"published and withdrawn":    func(s *ServiceRecord) { s.Withdraw[0].Number = 8080 },
		"more than 128":              func(s *ServiceRecord) { s.Withdraw = make([]Port, MaxPorts+1) },
		"a tombstone says nothing":   func(s *ServiceRecord) { s.Deleted = true },
		"what says nothing": func(s *ServiceRecord) {
			*s = ServiceRecord{Register: s.Register, Mesh: mesh, Network: "n", Service: "db"}
		},
	} {
		s := good
		s.Publish, s.Withdraw = slices.Clone(good.Publish), slices.Clone(good.Withdraw)
		edit(&s)
		if _, err := Sign(keyOf("a"), KindService, s); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// The largest settings that are allowed fit a record.
func TestSettingsFitARecord(t *testing.T) {
	long := strings.Repeat("n", 63)
	s := ServiceRecord{Register: Register{Revision: 1 << 62, Stamp: 1 << 50}, Mesh: MeshIDOf(pub(keyOf("mesh"))), Network: long, Service: long,
		Affinity: AffinityClientIP, Prefer: PreferLocal}
	for i := range MaxPorts {
		s.Publish = append(s.Publish, Publish{uint16(60000 + i), uint16(60000 + i), "tcp", 1 << 50})
		s.Withdraw = append(s.Withdraw, Port{"udp", uint16(60000 + i)})
	}
	if _, err := Sign(keyOf("a"), KindService, s); err != nil {
		t.Error(err)
	}
	body, err := json.Marshal(s)
	if err != nil || len(body) > MaxService {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

// Settings are a register: the highest (revision, stamp, author, hash) stands, a tombstone too.
func TestSettingsAreRegisters(t *testing.T) {
	w := newWorld(t)
	lower, higher := "a", "b"
	if nodeID("b") < nodeID("a") {
		lower, higher = higher, lower
	}
	write := func(by string, revision uint64, stamp Millis, target uint16) Record {
		return w.service(by, "n", "db", func(s *ServiceRecord) {
			s.Revision, s.Stamp, s.Publish = revision, stamp, []Publish{{8080, target, "tcp", 1}}
		})
	}
	tombstone := w.service("a", "n", "db", func(s *ServiceRecord) { s.Revision, s.Deleted = 3, true })
	for name, tc := range map[string]struct {
		wins, loses Record
		want        int // ports
	}{
		"revision":        {write("a", 2, 1, 81), write("b", 1, 9, 82), 1},
		"stamp":           {write(lower, 1, 2, 81), write(higher, 1, 1, 82), 1},
		"author":          {write(higher, 1, 1, 81), write(lower, 1, 1, 82), 1},
		"a tombstone":     {tombstone, write("b", 2, 9, 82), 0},
		"after tombstone": {write("b", 4, 0, 81), tombstone, 1},
	} {
		for _, recs := range [][]Record{{tc.wins, tc.loses}, {tc.loses, tc.wins}} {
			c := w.filled(w.founding(), w.join("a", "b"), []Record{w.network("a", "n")}, recs[:1], recs[1:])
			s, _ := c.View().Service("n", "db")
			if len(s.Ports) != tc.want || tc.want == 1 && s.Ports[0].Target != 81 {
				t.Errorf("%s: %+v", name, s)
			}
			if len(c.Missing(w.filled(w.founding()).Vector())) == 0 || c.Vector()["service/n/db"] == (Version{}) {
				t.Errorf("%s: it is in no vector", name)
			}
		}
	}
}

// portsText prints the ports of all services, backends by the last byte of their address.
func portsText(v *View) string {
	var out []string
	for _, s := range v.Services {
		for _, p := range s.Ports {
			text := fmt.Sprintf("%s %d:%d/%s", s.Name, p.Published, p.Target, p.Protocol)
			for _, b := range p.Backends {
				text += fmt.Sprint(" ", b.IP4.As4()[3])
			}
			if p.Conflict != "" {
				text += " conflict " + p.Conflict
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, "; ")
}

// publishing adds an endpoint that publishes 8080:80, if stamp is not 0, and is on the ingress network.
func publishing(index uint32, service string, stamp Millis) placing {
	return func(d *Document) {
		onNetwork("n", index, 1, service)(d)
		e := &d.Endpoints[len(d.Endpoints)-1]
		if stamp != 0 {
			e.Publish = []Publish{{8080, 80, "tcp", stamp}}
		}
		e.Attachments = append(e.Attachments, Attachment{Network: IngressNetwork, Index: index, MAC: "02:00:00:00:00:02"})
		d.Claims = append(d.Claims, Claim{IngressNetwork, index / 64, 1})
	}
}

// portsBase is a mesh with two hosts, a network n and the ingress network.
func (w *world) portsBase() []Record {
	ingress := w.network("a", IngressNetwork, func(n *NetworkRecord) { n.VNI, n.Subnet4 = 8, prefix("10.9.0.0/16") })
	return append(append(w.founding(), w.join("a", "b")...), w.network("a", "n"), ingress)
}

func TestSettingsChangePorts(t *testing.T) {
	w := newWorld(t)
	set := func(name string, edit func(*ServiceRecord)) Record { return w.service("a", "n", name, edit) }
	publish := func(ports ...Publish) func(*ServiceRecord) { return func(s *ServiceRecord) { s.Publish = ports } }
	for name, tc := range map[string]struct {
		a, b     placing
		settings []Record
		want     string
	}{
		"of all replicas": {publishing(64, "web", 0), publishing(128, "web", 0), []Record{set("web", publish(Publish{9090, 90, "udp", 5}))}, "web 9090:90/udp 64 128"},
		"instead of what replicas bring": {publishing(64, "web", 4), publishing(128, "web", 0),
			[]Record{set("web", publish(Publish{8080, 81, "tcp", 5}))}, "web 8080:81/tcp 64 128"},
		"beside what they bring": {publishing(64, "web", 4), publishing(128, "web", 0),
			[]Record{set("web", publish(Publish{9090, 90, "tcp", 5}))}, "web 8080:80/tcp 64; web 9090:90/tcp 64 128"},
		"withdrawn": {publishing(64, "web", 4), publishing(128, "web", 4),
			[]Record{set("web", func(s *ServiceRecord) { s.Withdraw = []Port{{"tcp", 8080}} })}, ""},
		"one protocol withdrawn": {publishing(64, "web", 4), publishing(128, "web", 4),
			[]Record{set("web", func(s *ServiceRecord) { s.Withdraw = []Port{{"udp", 8080}} })}, "web 8080:80/tcp 64 128"},
		"the older setting": {publishing(64, "web", 4), publishing(128, "api", 0),
			[]Record{set("api", publish(Publish{8080, 80, "tcp", 3}))}, "api 8080:80/tcp 128; web 8080:80/tcp 64 conflict api.n"},
		"the older replica": {publishing(64, "web", 4), publishing(128, "api", 0),
			[]Record{set("api", publish(Publish{8080, 80, "tcp", 5}))}, "api 8080:80/tcp 128 conflict web.n; web 8080:80/tcp 64"},
		"the older goes": {publishing(64, "web", 0), publishing(128, "api", 0),
			[]Record{set("api", publish(Publish{8080, 80, "tcp", 5}))}, "api 8080:80/tcp 128"},
		"the older is withdrawn": {publishing(64, "web", 4), publishing(128, "api", 0),
			[]Record{set("web", func(s *ServiceRecord) { s.Withdraw = []Port{{"tcp", 8080}} }), set("api", publish(Publish{8080, 80, "tcp", 5}))}, "api 8080:80/tcp 128"},
		"without replicas": {publishing(64, "web", 0), publishing(128, "web", 0),
			[]Record{set("api", publish(Publish{8080, 80, "tcp", 5}))}, "api 8080:80/tcp"},
		"of another network": {publishing(64, "web", 0), publishing(128, "web", 0),
			[]Record{w.service("a", "m", "web", publish(Publish{8080, 80, "tcp", 5}))}, ""},
	} {
		records := append(w.portsBase(), w.host("a", tc.a), w.again(w.host("b", tc.b), 2))
		if got := portsText(w.mergeAll(records, tc.settings).View()); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestProposeService(t *testing.T) {
	w := newWorld(t)
	c := w.mergeAll(w.portsBase(), []Record{w.host("a", publishing(64, "web", 4)), w.again(w.host("b", publishing(128, "api", 0)), 2)})
	clientIP, none, local := AffinityClientIP, AffinityNone, PreferLocal
	propose := func(change ServiceChange) (ServiceRecord, bool, error) {
		change.Network, change.Now = "n", testNow
		return c.View().ProposeService(change)
	}
	apply := func(change ServiceChange) ServiceRecord {
		t.Helper()
		r, changed, err := propose(change)
		if err != nil || !changed {
			t.Fatalf("%+v: %v", change, err)
		}
		if _, rejected := c.Merge(testNow, mustSign(t, keyOf("b"), KindService, r)); len(rejected) > 0 {
			t.Fatal(rejected)
		}
		return r
	}
	apply(ServiceChange{Service: "web", Affinity: &clientIP, Prefer: &local, Publish: []Publish{{9090, 90, "udp", 0}, {9000, 90, "tcp", 0}}})
	if s, _ := c.View().Service("n", "web"); s.Affinity != AffinityClientIP || s.Prefer != PreferLocal || len(s.Replicas) != 1 ||
		portsText(c.View()) != "web 8080:80/tcp 64; web 9000:90/tcp 64; web 9090:90/udp 64" {
		t.Errorf("%+v", s)
	}
	if _, changed, err := propose(ServiceChange{Service: "web", Affinity: &clientIP, Publish: []Publish{{9090, 90, "udp", 0}}}); changed || err != nil {
		t.Errorf("the same again: %v, %v", changed, err)
	}
	// Another target keeps the port as long as the service has it.
	if r := apply(ServiceChange{Service: "web", Publish: []Publish{{8080, 81, "tcp", 0}}}); r.Publish[0].Stamp != 4 || r.Revision != 2 {
		t.Errorf("%+v", r)
	}
	if r := apply(ServiceChange{Service: "web", Unpublish: []Port{{"", 8080}, {"udp", 9090}}}); len(r.Publish) != 1 || !slices.Equal(r.Withdraw, []Port{{"tcp", 8080}}) {
		t.Errorf("%+v", r)
	}
	apply(ServiceChange{Service: "api", Publish: []Publish{{8080, 80, "tcp", 0}}}) // it is free now
	for want, tc := range map[string]struct {
		change ServiceChange
		reason error
	}{
		"no service x.n":              {ServiceChange{Service: "x", Affinity: &none}, ErrNotFound},
		"published by service api.n":  {ServiceChange{Service: "web", Publish: []Publish{{8080, 80, "tcp", 0}}}, ErrInUse},
		"does not publish port 7":     {ServiceChange{Service: "web", Unpublish: []Port{{"", 7}}}, ErrNotFound},
		"not publish port 9000/udp":   {ServiceChange{Service: "web", Unpublish: []Port{{"udp", 9000}}}, ErrNotFound},
		"published port 7:0/tcp is m": {ServiceChange{Service: "web", Publish: []Publish{{7, 0, "tcp", 0}}}, ErrInvalid},
	} {
		if _, _, err := propose(tc.change); !errors.Is(err, tc.reason) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	apply(ServiceChange{Service: "api", Unpublish: []Port{{"tcp", 8080}}})
	apply(ServiceChange{Service: "web", Publish: []Publish{{8080, 80, "tcp", 0}}, Unpublish: []Port{{"tcp", 9000}}})
	noPreference := PreferNone
	r := apply(ServiceChange{Service: "web", Affinity: &none, Prefer: &noPreference, Unpublish: []Port{{"tcp", 8080}}})
	if r.Deleted {
		t.Error("it forgot that a port is withdrawn")
	}
	for _, gone := range c.View().RemoveServices("n", testNow) {
		c.Merge(testNow, mustSign(t, keyOf("a"), KindService, gone))
	}
	if got := portsText(c.View()); got != "web 8080:80/tcp 64" {
		t.Errorf("without settings: %s", got)
	}
	if left := c.View().RemoveServices("n", testNow); len(left) > 0 {
		t.Errorf("removed again: %v", left)
	}
}

// A view that was made before does not keep a port from leading to a replica that comes later, or goes.
func TestGivenPortFollowsReplicas(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.portsBase(), []Record{w.host("a", publishing(64, "web", 0)),
		w.service("a", "n", "web", func(s *ServiceRecord) { s.Publish = []Publish{{8080, 80, "tcp", 5}} })})
	for sequence, step := range []struct {
		b    placing
		want string
	}{
		{publishing(128, "api", 0), "web 8080:80/tcp 64"},
		{publishing(128, "web", 0), "web 8080:80/tcp 64 128"},
		{func(*Document) {}, "web 8080:80/tcp 64"},
	} {
		if _, rejected := c.Merge(testNow, w.again(w.host("b", step.b), uint64(2+sequence))); len(rejected) > 0 {
			t.Fatal(rejected)
		}
		if got := portsText(c.View()); got != step.want {
			t.Errorf("step %d: %s", sequence, got)
		}
	}
}
