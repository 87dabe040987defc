//go:build race

package syncer

const raceEnabled = true

// slack stretches time limits: a loaded machine is many times slower.
const slack = 10
