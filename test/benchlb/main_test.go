// Package benchlb measures what virtual IPs and published ports cost, side by side with going there
// directly and with other programs that do the same job. `make bench-lb` runs it; goals that are missed fail it.
package benchlb

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

var enabled = flag.Bool("lb", false, "measure; it takes minutes, and an idle machine")

// rounds is how often everything is measured, one after the other, so that what else the machine does
// harms all alike.
var rounds = flag.Int("lb.rounds", 31, "how often each thing is measured")

func requireBench(t *testing.T) {
	t.Helper()
	if !*enabled {
		t.Skip("a benchmark, not a test: make bench-lb")
	}
	if os.Geteuid() != 0 {
		t.Fatal("this benchmark makes network namespaces: run it as root")
	}
}

// A row is one thing that was measured, once in each round.
type row struct {
	name   string
	values []float64
}

func (r row) median() float64 { return median(r.values) }

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// ratio is the median of the rounds' ratios of two rows.
func ratio(of, to row) float64 {
	ratios := make([]float64, len(of.values))
	for i := range ratios {
		ratios[i] = of.values[i] / to.values[i]
	}
	return median(ratios)
}

// atMost and atLeast check a goal and print it.
func atMost(t *testing.T, what string, got, goal float64) {
	t.Helper()
	check(t, what, got, goal, "at most", got <= goal)
}

func atLeast(t *testing.T, what string, got, goal float64) {
	t.Helper()
	check(t, what, got, goal, "at least", got >= goal)
}

func check(t *testing.T, what string, got, goal float64, word string, met bool) {
	t.Helper()
	verdict := "met"
	if !met {
		verdict = "MISSED"
		t.Errorf("%s: %.3g, the goal is %s %.3g", what, got, word, goal)
	}
	fmt.Printf("| %s | %.3g | %s %.3g | %s |\n", what, got, word, goal, verdict)
}

func goalsHead() { fmt.Print("\n| goal | measured | wanted | |\n|---|---|---|---|\n") }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
