package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/internal/journal"
)

// What a part changes is a repair only if the state that it works for was reached before.
func TestOnlyWhatSomebodyElseUndidIsARepair(t *testing.T) {
	var log bytes.Buffer
	var changes journal.Journal
	var failure error
	want := Desired{}
	a := applier{
		name: "gateway", changes: &changes,
		apply: func(context.Context, Desired) error { return failure },
		part:  func(d Desired) any { return d.Gateway },
	}
	l := newLoop(func() Desired { return want }, []applier{a}, slog.New(slog.NewTextHandler(&log, nil)))
	pass := func(what string, n, repaired int) {
		t.Helper()
		for range n {
			changes.Note("ip link add meshd0 type bridge")
		}
		before, _ := l.repairs.Told()
		l.lookAtAll()
		if err := errors.Join(l.pass(t.Context()), l.look(t.Context())); err != nil {
			t.Fatal(err)
		}
		after, last := l.repairs.Told()
		if got := after["gateway"] - before["gateway"]; got != repaired {
			t.Errorf("%s: %d repairs, want %d", what, got, repaired)
		}
		if repaired > 0 && (last.part != "gateway" || !strings.Contains(last.what, "ip link add meshd0")) {
			t.Errorf("%s: the last repair was %+v", what, last)
		}
	}
	pass("the first pass", 5, 0)
	pass("nothing to do", 0, 0)
	pass("somebody deleted something", 2, 2)
	want.Gateway = gateway.Config{Bridge: "meshd0", MTU: 1500}
	pass("the desired state changed", 3, 0)
	want.Overlay.Networks = nil // another part's, and still the same
	pass("somebody deleted something again", 20, 20)
	failure = errors.New("broken")
	pass("somebody deletes something while it is mended, so that fails half-way", 3, 3)
	failure = nil
	pass("the rest of the mending", 4, 4)
	want.Gateway.MTU, failure = 1400, errors.New("broken")
	pass("work for another desired state fails half-way", 3, 0)
	failure = nil
	pass("the rest of that work", 3, 0)
	pass("somebody deleted something once more", 1, 1)
	if n := strings.Count(log.String(), "somebody else undid"); n != 5 {
		t.Errorf("the log tells of %d repairs, not of 5:\n%s", n, log.String())
	}
	counts, _ := l.repairs.Told()
	maps.DeleteFunc(counts, func(part string, _ int) bool { return part == "gateway" })
	if len(counts) > 0 {
		t.Errorf("repairs of other parts: %v", counts)
	}
}
