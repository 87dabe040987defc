//go:build race

package probe

// hundred hosts are more than the race detector takes in virtual time.
const hundred = 30
