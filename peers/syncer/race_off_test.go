//go:build !race

package syncer

import "time"

const raceEnabled = false

// stretch leaves a limit of virtual time as it is.
func stretch(limit time.Duration) time.Duration { return limit }
