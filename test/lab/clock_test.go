package lab

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestUnhurried(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct{ passed, queued, want time.Duration }{
		{10 * s, 0, 10 * s}, {10 * s, 5 * s, 10 * s}, {10 * s, 10 * s, 2 * s}, {10 * s, 7500 * time.Millisecond, 6 * s},
		{10 * s, 11 * s, 2 * s}, // what the kernel adds late
		{0, 0, 0},
	} {
		if got := unhurried(tc.passed, tc.queued); got != tc.want {
			t.Errorf("%s, of which %s queued: %s, want %s", tc.passed, tc.queued, got, tc.want)
		}
	}
}

func TestWithin(t *testing.T) {
	failure, tries := errors.New("not yet"), 0
	if err := Within(context.Background(), 50*time.Millisecond, func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("what never succeeds: %v", err)
	}
	err := Within(context.Background(), time.Minute, func() error {
		if tries++; tries < 3 {
			return failure
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("what succeeds: %v after %d tries", err, tries)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Within(ended, time.Minute, func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("a context that has ended: %v", err)
	}
}
