package sim

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var (
	first = flag.Uint64("sim.seed", 1, "the first seed")
	count = flag.Uint64("sim.seeds", 200, "how many seeds to run")
	keep  = flag.String("sim.keep", "", "directory to write shrunk failing schedules to")
)

// TestSchedules runs schedules made up from seeds, and shrinks what fails.
func TestSchedules(t *testing.T) {
	var claimed, readdressed, attached, stranded int
	began := time.Now()
	for seed := *first; seed < *first+*count; seed++ {
		s := NewSchedule(seed)
		w, err := Run(s, none)
		claimed, readdressed, attached = claimed+w.confirmedClaims, readdressed+w.readdressed, attached+w.attached
		stranded += w.stranded
		if err != nil {
			report(t, s, err)
		}
	}
	t.Logf("%d schedules in %v: %d endpoints, %d blocks claimed, %d endpoints readdressed, %d hosts stranded",
		*count, time.Since(began).Round(time.Millisecond), attached, claimed, readdressed, stranded)
	if *count >= 50 && (claimed == 0 || readdressed == 0) {
		t.Errorf("the schedules are too tame: %d blocks claimed, %d endpoints readdressed", claimed, readdressed)
	}
}

func report(t *testing.T, s Schedule, err error) {
	t.Helper()
	t.Errorf("seed %d: %v", s.Seed, err)
	shrunk := Shrink(s, none, broken(err))
	_, err = Run(shrunk, none)
	t.Logf("shrunk to %d of %d events: %v", len(shrunk.Ops), len(s.Ops), err)
	for _, op := range shrunk.Ops {
		t.Logf("  %s", op)
	}
	if *keep != "" {
		shrunk.Note = err.Error()
		name := filepath.Join(*keep, broken(err)+"-"+time.Now().Format("150405.000")+".json")
		if err := os.WriteFile(name, []byte(shrunk.String()+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// TestReplay: a schedule runs the same way each time.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		a, err1 := Run(NewSchedule(seed), none)
		b, err2 := Run(NewSchedule(seed), none)
		if a.last != b.last || a.next != b.next || a.now != b.now || (err1 == nil) != (err2 == nil) {
			t.Errorf("seed %d: %d events and %d numbers, then %d and %d", seed, a.next, a.last, b.next, b.last)
		}
		if x, y := a.hosts[0].cat.Digest(), b.hosts[0].cat.Digest(); x != y {
			t.Errorf("seed %d: it ended in other catalogs", seed)
		}
	}
}

// TestRegressions runs every schedule that ever failed.
func TestRegressions(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d schedules, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s Schedule
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if _, err := Run(s, none); err != nil {
			t.Errorf("%s (%s): %v", file, s.Note, err)
		}
	}
}
