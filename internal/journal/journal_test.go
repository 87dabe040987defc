package journal

import (
	"slices"
	"testing"
)

func TestJournalCountsAllAndKeepsTheFirst(t *testing.T) {
	var j Journal
	for i := range 100 {
		j.Note("change %d", i)
	}
	got := j.Take()
	if got.Count != 100 || len(got.First) != keep || got.First[0] != "change 0" {
		t.Errorf("%d changes, %q", got.Count, got.First)
	}
	if again := j.Take(); again.Count != 0 || len(again.First) != 0 {
		t.Errorf("taken twice: %d, %q", again.Count, again.First)
	}
	j.Note("later")
	if got := j.Take(); got.Count != 1 || !slices.Equal(got.First, []string{"later"}) {
		t.Errorf("%d changes, %q", got.Count, got.First)
	}
}

func TestNilJournalTakesNothing(t *testing.T) {
	var j *Journal
	j.Note("nobody reads it")
	if got := j.Take(); got.Count != 0 {
		t.Errorf("%d changes", got.Count)
	}
}
