package catalog

import "slices"

// NextClaim returns the block of a network that self should claim next: one that
// nobody has claimed, at best one that rendezvous hashing gives to self among the
// members. So hosts that cannot see each other rarely claim the same. It is false
// if the network does not exist or every block is claimed, or in quarantine.
func (v *View) NextClaim(network string, self NodeID, now Millis) (block uint32, ok bool) {
	n, found := v.Network(network)
	if !found {
		return 0, false
	}
	seeds := []uint64{hashOf("home", network, string(self))}
	for _, m := range v.Members {
		if m.ID != self && m.Known && !m.Evicted && !m.Left {
			seeds = append(seeds, hashOf("home", network, string(m.ID)))
		}
	}
	resting := v.Quarantined(network, now)
	var bestScore uint64
	var bestHome bool
	for b := range n.Space.Blocks() {
		first, end := n.Space.Range(b)
		if _, taken := n.Blocks[b]; taken || first == end || resting[b] != 0 {
			continue
		}
		score := blockScore(seeds[0], b)
		if ok && bestHome && score <= bestScore {
			continue // neither a home block nor a higher one could follow from this
		}
		home := !slices.ContainsFunc(seeds[1:], func(s uint64) bool { return blockScore(s, b) > score })
		if !ok || home && !bestHome || home == bestHome && score > bestScore {
			block, bestScore, bestHome, ok = b, score, home, true
		}
	}
	return block, ok
}

// Usage is the share of a network's addresses that lie in blocks which nodes have claimed,
// 0 to 1. At 1 a node without room in its own blocks gets no address.
func (n Network) Usage() float64 {
	taken, all := uint32(0), uint32(0)
	for b := range n.Space.Blocks() {
		first, end := n.Space.Range(b)
		all += end - first
		if _, ok := n.Blocks[b]; ok {
			taken += end - first
		}
	}
	if all == 0 {
		return 1
	}
	return float64(taken) / float64(all)
}

// blockScore mixes a node's seed with a block; of several nodes the highest is at
// home there. It is the finalizer of SplitMix64.
func blockScore(seed uint64, block uint32) uint64 {
	x := seed + (uint64(block)+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// FreeIndex returns the lowest address of a network that self may give out: in a
// block it owns, with no endpoint in this view, not used and not among recent, which were
// given back lately. A caller also says of blocks whose claim is not acknowledged yet
// that they are used. It is false if there is none: claim another block.
func (v *View) FreeIndex(network string, self NodeID, used func(index uint32) bool, recent ...uint32) (index uint32, ok bool) {
	v.eachFree(network, self, used, func(i uint32) bool {
		if slices.Contains(recent, i) {
			return true
		}
		index, ok = i, true
		return false
	})
	return index, ok
}

// CountFree returns how many addresses self could still give out, recent ones included; when it
// runs low it is time to claim a spare block.
func (v *View) CountFree(network string, self NodeID, used func(index uint32) bool) (count int) {
	v.eachFree(network, self, used, func(uint32) bool { count++; return true })
	return count
}

// eachFree calls yield with the addresses of self's blocks that have no endpoint and
// are not used, in order, until it returns false.
func (v *View) eachFree(network string, self NodeID, used func(uint32) bool, yield func(uint32) bool) {
	n, ok := v.Network(network)
	if !ok {
		return
	}
	var own []uint32
	for b, node := range n.Blocks {
		if node == self {
			own = append(own, b)
		}
	}
	slices.Sort(own)
	for _, b := range own {
		first, end := n.Space.Range(b)
		for i := first; i < end; i++ {
			if n.has(i) || used(i) {
				continue
			}
			if !yield(i) {
				return
			}
		}
	}
}

// has says whether an endpoint is at that offset.
func (n Network) has(index uint32) bool {
	_, found := slices.BinarySearchFunc(n.Endpoints, n.Space.Address(index), compareIP4)
	return found
}

// ChooseVIP returns the virtual IP that an endpoint of a service should say it has: the
// service's, with the stamp to pass on, if it has one; else a free one that follows from
// the name, and the caller stamps it with the time. The index is 0 if the network does not exist
// or has no virtual IP left.
func (v *View) ChooseVIP(network, service string) (index uint32, stamp Millis, existing bool) {
	n, ok := v.Network(network)
	if !ok {
		return 0, 0, false
	}
	taken := map[uint32]bool{}
	for _, s := range v.Services {
		if s.Network != network || s.VIPIndex == 0 {
			continue
		}
		if s.Name == service {
			return s.VIPIndex, s.VIPStamp, true
		}
		taken[s.VIPIndex] = true
	}
	if n.Space.vips() == 0 {
		return 0, 0, false
	}
	first := n.Space[0].Layout
	want := first.VIPFirst + uint32(hashOf("vip", network, service)%uint64(first.VIPEnd-first.VIPFirst))
	return freeVIP(n.Space, want, taken), 0, false
}
