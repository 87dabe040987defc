package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/catalog"
)

func TestDistancesAreSteady(t *testing.T) {
	const ms = time.Millisecond
	var d distances
	for i, step := range []struct{ measured, want time.Duration }{
		{300 * time.Microsecond, 300 * time.Microsecond},
		{700 * time.Microsecond, 300 * time.Microsecond}, // a busy processor
		{100 * time.Microsecond, 300 * time.Microsecond},
		{20 * ms, 20 * ms},
		{24 * ms, 20 * ms}, // noise
		{17 * ms, 20 * ms},
		{26 * ms, 26 * ms}, // another way
		{20 * ms, 20 * ms},
		{21 * ms, 20 * ms},
	} {
		if got := d.steady(map[catalog.NodeID]time.Duration{"b": step.measured})["b"]; got != step.want {
			t.Errorf("step %d: %s measured, going by %s, want %s", i, step.measured, got, step.want)
		}
	}
	if got := d.steady(nil); len(got) != 0 {
		t.Errorf("not measured any more, and still %v", got)
	}
	if got := d.steady(map[catalog.NodeID]time.Duration{"b": 21 * ms})["b"]; got != 21*ms {
		t.Errorf("measured anew: %s", got)
	}
}

// This host's replicas come first, then those of the nearest hosts; all others keep what they have.
func TestPreferLocal(t *testing.T) {
	w := newWorld(t)
	const ms = time.Millisecond
	// web has replicas on a, b and c; that on c drains in threeHosts, here it does not.
	records := append(w.threeHosts(),
		w.document("c", func(d *catalog.Document) { d.Sequence = 2 },
			endpoint("7", "ingress", "", []at{{"ingress", 25}}),
			endpoint("8", "web3", "web", []at{{"appnet", 26}, {"ingress", 26}}, tcp(8080, 80, testTime+3))),
		w.settings("appnet", "web", func(r *catalog.ServiceRecord) { r.Revision, r.Prefer = 2, catalog.PreferLocal }))
	b, c := nodeOf("b"), nodeOf("c")
	for what, test := range map[string]struct {
		rtt        map[catalog.NodeID]time.Duration
		sick       bool // this host's replica
		alive      []catalog.NodeID
		take, keep string // last bytes of their addresses on appnet
	}{
		"this host's":                     {map[catalog.NodeID]time.Duration{b: 1, c: 1}, false, []catalog.NodeID{b, c}, "8", "16 26"},
		"this host's, nothing measured":   {nil, false, []catalog.NodeID{b, c}, "8", "16 26"},
		"the nearest":                     {map[catalog.NodeID]time.Duration{b: 20 * ms, c: 5 * ms}, true, []catalog.NodeID{b, c}, "26", "16"},
		"equally near":                    {map[catalog.NodeID]time.Duration{b: 300 * time.Microsecond, c: 700 * time.Microsecond}, true, []catalog.NodeID{b, c}, "16 26", ""},
		"the nearest is dead":             {map[catalog.NodeID]time.Duration{b: 20 * ms, c: 5 * ms}, true, []catalog.NodeID{b}, "16", ""},
		"one is not measured yet":         {map[catalog.NodeID]time.Duration{b: 20 * ms}, true, []catalog.NodeID{b, c}, "16", "26"},
		"nothing is measured yet":         {nil, true, []catalog.NodeID{b, c}, "16 26", ""},
		"nobody but this host, and alone": {nil, false, nil, "8", ""},
	} {
		t.Run(what, func(t *testing.T) {
			all := records
			if test.sick {
				all = append(slices.Clone(records), w.document("a", func(d *catalog.Document) { d.Sequence = 2 },
					endpoint("1", "web1", "web", []at{{"appnet", 8}, {"ingress", 8}}, tcp(8080, 80, testTime)),
					endpoint("3", "ingress", "", []at{{"ingress", 9}}),
					func(d *catalog.Document) { d.Endpoints[0].Health = catalog.Unhealthy }))
			}
			in := w.inputs(all...)
			in.RTT, in.Alive = test.rtt, make(map[catalog.NodeID]bool)
			for _, id := range test.alive {
				in.Alive[id] = true
			}
			web, _ := in.View.Service("appnet", "web")
			take, keep := in.choose(web, web.Replicas)
			if got := lastBytes(take) + "|" + lastBytes(keep); got != test.take+"|"+test.keep {
				t.Errorf("take|keep %s, want %s|%s", got, test.take, test.keep)
			}
			for _, port := range Compile(in).Ingress.Publish.Ports {
				if port.Published == 8080 && len(port.Backends) != 2*len(take) {
					t.Errorf("the published port leads to %v, the virtual IP to %v", port.Backends, take)
				}
			}
		})
	}
}

func lastBytes(endpoints []catalog.NetworkEndpoint) string {
	var out []string
	for _, e := range endpoints {
		out = append(out, strings.TrimPrefix(e.IP4.String(), "10.1.0."))
	}
	return strings.Join(out, " ")
}
