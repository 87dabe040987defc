//go:build !race

package syncer

const raceEnabled = false

// slack stretches time limits; virtual time needs none.
const slack = 1
