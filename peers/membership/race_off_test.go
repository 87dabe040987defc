//go:build !race

package membership

const raceEnabled = false

// slack stretches time limits; virtual time needs none.
const slack = 1
