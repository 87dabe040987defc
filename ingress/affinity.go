package ingress

import (
	"hash/fnv"
)

// With affinity a client's address is hashed to one of clientSlots slots, and each slot belongs to one of the
// targets. The table follows from the targets alone, so it is the same on every host, and a client
// stays with its replica whichever host it asks.
const (
	// clientSlots is a compromise. More of them share clients out more evenly (the shares of three targets differ
	// by some 5 % from a third, those of ten by 10 % from a tenth); each is an element in the kernel, of some 100
	// bytes, for each service with affinity, address family and namespace.
	clientSlots = 512
	// clientSeed is the hash's: any number, the same on every host.
	clientSeed = 0x6d657368
)

// clientTable is the target of each slot. Every target ranks all slots in an order of its own, and a slot
// is of the target that ranks it first. So a target that goes leaves the slots of the others alone, and one
// that comes takes only what becomes its own. The ranks of one target are a permutation, not drawn one by
// one, which halves the differences between the shares.
func clientTable(targets []string) []string {
	table := make([]string, clientSlots)
	best := make([]uint64, clientSlots)
	for i, target := range targets {
		h := fnv.New64a()
		_, _ = h.Write([]byte(target)) // never fails
		seed := mix(h.Sum64())
		for slot, rank := range permutation(seed) {
			score := uint64(rank)<<48 | mix(seed^uint64(slot))>>16 // ranks may be equal
			if i == 0 || score < best[slot] {
				table[slot], best[slot] = target, score
			}
		}
	}
	return table
}

// permutation is the numbers from 0 to clientSlots-1 in an order that follows from the seed, for ever: hosts
// with other versions of this program must agree. So it is not the standard library's.
func permutation(seed uint64) [clientSlots]uint16 {
	var p [clientSlots]uint16
	for i := range p {
		p[i] = uint16(i)
	}
	for i := clientSlots - 1; i > 0; i-- {
		seed += 0x9e3779b97f4a7c15
		j := mix(seed) >> 32 * uint64(i+1) >> 32
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// mix spreads the bits of a number, as splitmix64 does.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
