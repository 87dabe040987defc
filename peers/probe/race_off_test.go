//go:build !race

package probe

const hundred = 100
