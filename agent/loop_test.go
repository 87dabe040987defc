package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// newTestLoop is a loop with one part.
func newTestLoop(log *slog.Logger, apply func(context.Context, Desired) error) *loop {
	return newLoop(func() Desired { return Desired{} }, []applier{{name: "part", apply: apply}}, log)
}

var silent = slog.New(slog.DiscardHandler)

func TestSyncWaitsForAPassThatBeganAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var passes atomic.Int32
		gate := make(chan struct{})
		l := newTestLoop(silent, func(context.Context, Desired) error {
			passes.Add(1)
			<-gate
			return nil
		})
		go l.Run(ctx)
		synctest.Wait() // the first pass is under way: what is asked now may have come too late for it
		done := make(chan error, 1)
		go func() { done <- l.Sync(ctx) }()
		synctest.Wait()
		gate <- struct{}{}
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("Sync returned after a pass that began before it")
		default:
		}
		gate <- struct{}{}
		if err := <-done; err != nil || passes.Load() != 2 {
			t.Fatalf("%v after %d passes", err, passes.Load())
		}
	})
}

func TestManyPokesMakeFewPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var passes atomic.Int32
		gate := make(chan struct{})
		l := newTestLoop(silent, func(context.Context, Desired) error {
			passes.Add(1)
			<-gate
			return nil
		})
		go l.Run(ctx)
		synctest.Wait()
		for range 1000 {
			l.Poke()
		}
		close(gate)
		synctest.Wait()
		if n := passes.Load(); n != 2 {
			t.Fatalf("%d passes for 1000 pokes during one", n)
		}
	})
}

func TestTheLoopLooksAgainByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		passes := make(chan time.Time, 100)
		l := newTestLoop(silent, func(context.Context, Desired) error { passes <- time.Now(); return nil })
		go l.Run(ctx)
		first, second := <-passes, <-passes
		if d := second.Sub(first); d > 2*time.Second {
			t.Fatalf("what somebody else deletes comes back only after %s", d)
		}
	})
}

func TestNoPassAfterCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var second bool
		l := newLoop(func() Desired { return Desired{} }, []applier{
			{name: "first", apply: func(context.Context, Desired) error { cancel(); return nil }},
			{name: "second", apply: func(context.Context, Desired) error { second = true; return nil }},
		}, silent)
		if err := l.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if second {
			t.Error("a part was applied after the end of the context")
		}
		if err := l.Sync(t.Context()); !errors.Is(err, errStopped) {
			t.Errorf("a pass that was cut off counts as done: Sync says %v", err)
		}
	})
}

func TestSyncEndsWhenTheLoopDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := newTestLoop(silent, func(ctx context.Context, _ Desired) error { <-ctx.Done(); return ctx.Err() })
		done := make(chan error, 1)
		go l.Run(ctx)
		go func() { done <- l.Sync(context.Background()) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, errStopped) {
			t.Fatalf("%v", err)
		}
	})
}

func TestSyncEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLoop(silent, nil) // nothing runs it
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
	})
}

func TestOnePartsFailureIsReportedAndStopsNoOther(t *testing.T) {
	failure := errors.New("no room")
	var second int
	var log bytes.Buffer
	l := newLoop(func() Desired { return Desired{} }, []applier{
		{name: "first", apply: func(context.Context, Desired) error { return failure }},
		{name: "second", apply: func(context.Context, Desired) error { second++; return nil }},
	}, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		if err := l.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if second != 3 {
		t.Errorf("the second part was applied %d times of 3", second)
	}
	if err := l.Failing()["first"]; !errors.Is(err, failure) {
		t.Errorf("failing: %v", err)
	}
	if n := strings.Count(log.String(), "no room"); n != 1 {
		t.Errorf("told %d times instead of once:\n%s", n, log.String())
	}
	failure = errors.New("no rights")
	_ = l.pass(t.Context())
	failure = nil
	_ = l.pass(t.Context())
	if !strings.Contains(log.String(), "no rights") || !strings.Contains(log.String(), "works again") {
		t.Errorf("a change was not told:\n%s", log.String())
	}
	if len(l.Failing()) != 0 {
		t.Errorf("still failing: %v", l.Failing())
	}
}

// wanting is a loop whose parts take down that they were applied.
type wanting struct {
	*loop
	want    Desired
	failing map[string]error // what parts answer
	during  map[string]func()
	applied []string
}

func newWanting() *wanting {
	w := &wanting{failing: map[string]error{}, during: map[string]func(){}}
	one := func(name string, of func(Desired) any, after ...string) applier {
		return applier{name: name, part: of, after: after, apply: func(context.Context, Desired) error {
			w.applied = append(w.applied, name)
			if do := w.during[name]; do != nil {
				do()
			}
			return w.failing[name]
		}}
	}
	w.loop = newLoop(func() Desired { return w.want }, []applier{
		one("wireguard", func(d Desired) any { return d.WireGuard }),
		one("overlay", func(d Desired) any { return d.Overlay }),
		one("gateway", func(d Desired) any { return d.Gateway }),
		one("ingress", func(d Desired) any { return d.Ingress }, "overlay"),
	}, silent)
	return w
}

// took returns which parts were applied since it was called last.
func (w *wanting) took() string {
	out := strings.Join(w.applied, " ")
	w.applied = nil
	return out
}

// News is acted on by the parts that it concerns. The others, which may take long to look whether all is as it was, do not
// delay it.
func TestAPassAppliesWhatIsNew(t *testing.T) {
	w := newWanting()
	pass := func(what, want string) {
		t.Helper()
		if err := w.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.took(); got != want {
			t.Errorf("%s: applied %q, want %q", what, got, want)
		}
	}
	pass("the first pass", "wireguard overlay gateway ingress")
	pass("nothing is new", "")
	w.want.Gateway.MTU = 1400
	pass("one part is", "gateway")
	w.want.Overlay.Local = netip.MustParseAddr("fd00::1")
	pass("one on which another builds", "overlay ingress")
	w.failing["gateway"] = errors.New("no iptables")
	w.want.Gateway.MTU = 1300
	pass("one fails", "gateway")
	if w.Failing()["gateway"] == nil {
		t.Error("a failure is not known")
	}
	pass("it is tried again", "gateway")
	delete(w.failing, "gateway")
	pass("and works", "gateway")
	pass("so that nothing is left to do", "")
	if len(w.Failing()) > 0 {
		t.Errorf("failing: %v", w.Failing())
	}
}

// Somebody who waits for a pass does not wait for the rest of a look as well, and the look goes on where it was.
func TestALookGivesWayToNews(t *testing.T) {
	w := newWanting()
	if err := w.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.took()
	asked := w.lookAtAll()
	w.during["overlay"] = func() { w.urgent <- struct{}{} }
	if err := w.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.took(); got != "wireguard overlay" || w.looked >= asked {
		t.Fatalf("looked at %q before there was news, and was done: %t", got, w.looked >= asked)
	}
	<-w.urgent
	delete(w.during, "overlay")
	w.want.WireGuard.MTU = 1400
	if err := errors.Join(w.pass(t.Context()), w.look(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := w.took(); got != "wireguard gateway ingress" || w.looked < asked {
		t.Errorf("then applied %q, and was done: %t", got, w.looked >= asked)
	}
}

func TestALookEndsAlthoughThereIsAlwaysNews(t *testing.T) {
	w := newWanting()
	if err := w.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked := w.lookAtAll()
	w.urgent <- struct{}{}
	for range w.appliers {
		if err := w.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if w.looked < asked {
		t.Errorf("news after each part kept it from its end: looked at %q", w.took())
	}
}

func TestLookWaitsForAllParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := newWanting()
		w.failing["ingress"] = errors.New("port taken")
		go w.Run(ctx)
		synctest.Wait()
		w.took()
		if err := w.Look(ctx); err == nil || !strings.Contains(err.Error(), "port taken") {
			t.Errorf("Look says %v", err)
		}
		for _, part := range []string{"wireguard", "overlay", "gateway", "ingress"} {
			if !slices.Contains(w.applied, part) {
				t.Errorf("%s was not looked at: %v", part, w.applied)
			}
		}
		cancel()
		if err := w.Look(t.Context()); !errors.Is(err, errStopped) {
			t.Errorf("Look after the end: %v", err)
		}
	})
}

// Passes for which nobody waits take a third of a processor, but a few come at once.
func TestPace(t *testing.T) {
	const took = 50 * time.Millisecond
	var p Pace
	at := time.Unix(0, 0)
	end := at.Add(time.Minute)
	var passes, before int
	var rested time.Duration
	for ; at.Before(end); passes++ {
		at = at.Add(took)
		p.Worked(at, took)
		pause := p.Pause(at)
		if rested += pause; rested == 0 {
			before++
		}
		at = at.Add(pause)
	}
	if before < 5 {
		t.Errorf("only %d passes before the first rest", before)
	}
	if share := float64(passes) * took.Seconds() / 60; share < 0.3 || share > 0.36 {
		t.Errorf("%d passes of %s in a minute: %.2f of the time", passes, took, share)
	}
	at = at.Add(time.Minute)
	if p.Pause(at) != 0 {
		t.Error("after a minute of rest there is still some owed")
	}
	p.Worked(at, time.Hour)
	if pause := p.Pause(at); pause > time.Second {
		t.Errorf("a long pass is followed by a rest of %s", pause)
	}
}
