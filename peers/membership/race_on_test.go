//go:build race

package membership

const raceEnabled = true

// slack stretches time limits: a loaded machine is many times slower.
const slack = 10
