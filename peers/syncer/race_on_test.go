//go:build race

package syncer

import "time"

const raceEnabled = true

// stretch makes a limit of virtual time one of real time: a loaded machine is many times slower.
func stretch(limit time.Duration) time.Duration { return max(10*limit, 30*time.Second) }
