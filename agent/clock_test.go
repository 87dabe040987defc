package agent

import (
	"testing"
	"time"
)

func TestRemainingDifferenceOfClocks(t *testing.T) {
	for what, tc := range map[string]struct{ ahead, wall, passed, want time.Duration }{
		"right all the time":        {0, time.Hour, time.Hour, 0},
		"right, and then put wrong": {0, time.Hour, 0, 0}, // the door saw nothing: not ours to say
		"as it was":                 {time.Hour, time.Minute, time.Minute, time.Hour},
		"behind":                    {-time.Hour, time.Minute, time.Minute, -time.Hour},
		"set right":                 {time.Hour, time.Minute - time.Hour, time.Minute, 0},
		"set nearly right":          {time.Hour, -50 * time.Minute, time.Minute, 9 * time.Minute},
		"set to seconds":            {-time.Hour, time.Hour + 30*time.Second, 0, 0},
	} {
		if got := remaining(tc.ahead, tc.wall, tc.passed); got != tc.want {
			t.Errorf("%s: %s, want %s", what, got, tc.want)
		}
	}
}
