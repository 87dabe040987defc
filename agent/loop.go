package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/meshd/meshd/internal/journal"
)

// loop makes the kernel equal to the desired state. When poked it applies the parts whose desired state is new, at
// once; every interval it looks at all of them, so that what somebody else deletes comes back. A look
// gives way to news after each part. One goroutine does all the work; passes never overlap.
type loop struct {
	interval time.Duration
	compile  func() Desired
	appliers []applier
	log      *slog.Logger
	repairs  *repairs
	wakeup   chan struct{} // capacity 1
	urgent   chan struct{} // capacity 1: somebody waits for the pass

	// Of the goroutine alone.
	reached map[string]any // the last desired state that each part reached
	pace    Pace

	mu      sync.Mutex // guards all below
	done    uint64     // the last pass that has ended
	began   uint64     // the last pass that has begun
	failing map[string]error
	due     map[string]bool // parts that are to be looked at, changed or not
	asked   uint64          // the last look that was asked for
	looked  uint64          // the last look that has ended
	ended   chan struct{}   // closed and replaced whenever a pass or a look ends
	stopped chan struct{}   // closed when there will be no more passes
}

// errStopped is returned by Sync when there will be no more passes.
var errStopped = errors.New("the agent ends, or leaves the mesh: try again when it is back")

// applier is one part of the host that is made equal to its part of the desired state.
type applier struct {
	name    string
	apply   func(context.Context, Desired) error
	part    func(Desired) any // what of the desired state it applies; nil: it is not known, so every pass applies it
	changes *journal.Journal  // takes down what apply changes
	after   []string          // parts that make what this one works on: where one of them is applied anew, so is this one
}

func newLoop(compile func() Desired, appliers []applier, log *slog.Logger) *loop {
	return &loop{
		interval: 1500 * time.Millisecond,
		compile:  compile,
		appliers: appliers,
		log:      log,
		repairs:  newRepairs(log),
		wakeup:   make(chan struct{}, 1),
		urgent:   make(chan struct{}, 1),
		reached:  make(map[string]any),
		failing:  make(map[string]error),
		due:      make(map[string]bool),
		ended:    make(chan struct{}),
		stopped:  make(chan struct{}),
	}
}

// Poke says that there may be a new desired state. It never blocks.
func (l *loop) Poke() { wake(l.wakeup) }

// Sync asks for a pass that begins after this call, and waits until it has ended. It returns
// what is not as it should be after it; errStopped if Run has returned, and ctx's error if ctx ends first.
func (l *loop) Sync(ctx context.Context) error {
	l.mu.Lock()
	want := l.began + 1
	l.mu.Unlock()
	wake(l.urgent)
	return l.await(ctx, func() bool { return l.done >= want })
}

// Suspect has all parts looked at soon: somebody else may have changed something. It never blocks.
func (l *loop) Suspect() {
	l.lookAtAll()
	wake(l.urgent)
}

// Look is Sync for what somebody else may have changed: it waits until all parts were looked at.
func (l *loop) Look(ctx context.Context) error {
	want := l.lookAtAll()
	wake(l.urgent)
	return l.await(ctx, func() bool { return l.looked >= want })
}

// lookAtAll makes all parts due, and returns the number of the look in which they will have been looked at.
func (l *loop) lookAtAll() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.appliers {
		l.due[a.name] = true
	}
	l.asked++
	return l.asked
}

// await waits until a condition on what mu guards holds.
func (l *loop) await(ctx context.Context, holds func() bool) error {
	for {
		l.mu.Lock()
		done, ended, err := holds(), l.ended, l.failedLocked()
		l.mu.Unlock()
		if done {
			return err
		}
		select {
		case <-ended:
		case <-l.stopped:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Failing is what could not be done the last time that it was tried, by part.
func (l *loop) Failing() map[string]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.failing)
}

func (l *loop) failedLocked() error {
	var errs []error
	for _, a := range l.appliers {
		if err := l.failing[a.name]; err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run runs passes until ctx ends. It leaves the kernel as it is: traffic goes on
// without the agent. It is called once.
func (l *loop) Run(ctx context.Context) error {
	defer close(l.stopped)
	ticker := time.NewTicker(l.interval)
	defer ticker.Stop()
	l.lookAtAll()
	for {
		began := time.Now()
		if err := l.pass(ctx); err != nil {
			return nil
		}
		if err := l.look(ctx); err != nil {
			return nil
		}
		l.pace.Worked(time.Now(), time.Since(began))
		rest := time.NewTimer(l.pace.Pause(time.Now()))
		select {
		case <-ctx.Done():
		case <-l.urgent:
		case <-rest.C:
			select {
			case <-ctx.Done():
			case <-l.urgent:
			case <-l.wakeup:
			case <-ticker.C:
				l.lookAtAll()
			}
		}
		rest.Stop()
	}
}

// pass compiles the desired state, and applies the parts of it that are new or that failed. It returns ctx's error
// if ctx ended before all was done; such a pass does not count.
func (l *loop) pass(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	l.began++
	l.mu.Unlock()
	want := l.compile()
	applied := make(map[string]bool)
	for _, a := range l.appliers {
		reached := l.wasReached(a, want)
		if reached && !l.failed(a) && !slices.ContainsFunc(a.after, func(name string) bool { return applied[name] }) {
			continue
		}
		if err := l.apply(ctx, a, want, reached); err != nil {
			return err
		}
		applied[a.name] = true
	}
	l.mu.Lock()
	l.done = l.began
	l.tellLocked()
	l.mu.Unlock()
	return nil
}

// look applies the parts that are due to be looked at, at least one of them, until there is something new. It returns ctx's
// error if ctx ended meanwhile.
func (l *loop) look(ctx context.Context) error {
	var want Desired
	looked := false // so that it comes to its end also where there is always something new
	for _, a := range l.appliers {
		l.mu.Lock()
		due := l.due[a.name]
		l.mu.Unlock()
		if !due {
			continue
		}
		if looked && l.hasNews() {
			return nil
		}
		if !looked {
			want = l.compile()
		}
		looked = true
		if err := l.apply(ctx, a, want, l.wasReached(a, want)); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.due) == 0 && l.looked != l.asked {
		l.looked = l.asked
		l.tellLocked()
	}
	return nil
}

// hasNews says whether a pass is to be made now.
func (l *loop) hasNews() bool {
	return len(l.urgent) > 0 || len(l.wakeup) > 0 && l.pace.Pause(time.Now()) == 0
}

// tellLocked wakes those who wait for the end of a pass or a look.
func (l *loop) tellLocked() {
	close(l.ended)
	l.ended = make(chan struct{})
}

func (l *loop) failed(a applier) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failing[a.name] != nil
}

// wasReached says whether a part's desired state was reached already, and no other since.
func (l *loop) wasReached(a applier, want Desired) bool {
	if a.part == nil {
		return false
	}
	before, known := l.reached[a.name]
	return known && reflect.DeepEqual(before, a.part(want))
}

// apply applies one part; again says that it reached this state before. What it fails at is for the next pass: only
// ctx's error is returned.
func (l *loop) apply(ctx context.Context, a applier, want Desired, again bool) error {
	l.mu.Lock()
	delete(l.due, a.name)
	l.mu.Unlock()
	err := a.apply(ctx, want)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case a.part == nil:
	case err == nil:
		l.reached[a.name] = a.part(want)
	case !again:
		delete(l.reached, a.name) // what the next pass changes is the rest of this one's work
	}
	l.repairs.observe(a, again)
	l.mu.Lock()
	before := l.failing[a.name]
	if err != nil {
		l.failing[a.name] = err
	} else {
		delete(l.failing, a.name)
	}
	l.mu.Unlock()
	l.report(a.name, before, err)
	return nil
}

// report logs what begins to fail, fails differently, and works again: not every pass.
func (l *loop) report(part string, was, is error) {
	switch {
	case is != nil && (was == nil || was.Error() != is.Error()):
		l.log.Warn("cannot make the host as it should be", "part", part, "err", is)
	case is == nil && was != nil:
		l.log.Info("works again", "part", part)
	}
}
