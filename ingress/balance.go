package ingress

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// protocols that may be published, by the name they have in Config.
var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

// A balancer leads from a key, which a packet has, to one of several targets with equal
// chances, in three constant steps:
//
//	verdict map     key          → goto the chain for its number of targets
//	that chain      draw a slot: a random number below the number of targets, or
//	                with affinity a hash of the client's address
//	map             key . slot   → target
//
// So the random draw is exactly even for any number of targets, and the cost does not
// depend on how many keys there are.
type balancer struct {
	ipv6     bool
	verdicts string // name of the verdict map
	targets  string // name of the target map
	empty    string // name of the set of keys without targets
	key      []field
	target   []field
	load     []load // puts the key into registers
	mark     uint32 // what a packet gets that is translated; 0: nothing
	entries  []entry
}

// An entry is a key and its targets, in the kernel's bytes.
type entry struct {
	key      string
	targets  []string
	draining []string // get nothing new, and keep what they have
	byClient bool     // a client stays with its target
}

// A draw is how one of several slots is chosen.
type draw struct {
	slots    int
	byClient bool // by the client's address; else at random
}

// drawOf is how one of n targets is chosen; without any there is nothing to choose.
func drawOf(n int, byClient bool) draw {
	if byClient && n > 1 {
		return draw{clientSlots, true}
	}
	return draw{n, false}
}

// slots are the entry's targets by slot.
func (e entry) slots() []string {
	if drawOf(len(e.targets), e.byClient).byClient {
		return clientTable(e.targets)
	}
	return e.targets
}

// chain is the name of the chain that draws so.
func (b *balancer) chain(d draw) string {
	kind, family := "n", "ip"
	if d.byClient {
		kind = "client"
	}
	if b.ipv6 {
		family = "ip6"
	}
	return fmt.Sprintf("%s%d-%s", kind, d.slots, family)
}

// sets are the balancer's sets and what is in them.
func (b *balancer) sets() []set {
	verdicts := set{name: b.verdicts, key: b.key, verdict: true, elements: map[string]string{}}
	targets := set{name: b.targets, key: append(slices.Clone(b.key), fieldSlot), value: b.target, elements: map[string]string{}}
	empty := set{name: b.empty, key: b.key, elements: map[string]string{}}
	for _, e := range b.entries {
		if len(e.targets) == 0 {
			empty.elements[e.key] = ""
			continue
		}
		verdicts.elements[e.key] = b.chain(drawOf(len(e.targets), e.byClient))
		for slot, target := range e.slots() {
			targets.elements[e.key+slotBytes(slot)] = target
		}
	}
	return []set{verdicts, targets, empty}
}

// chains are the chains that draw, one for each way in draws.
func (b *balancer) chains(draws map[draw]bool) []chain {
	delete(draws, draw{}) // nothing to draw
	ordered := slices.SortedFunc(maps.Keys(draws), func(a, b draw) int {
		return cmp.Or(cmp.Compare(a.slots, b.slots), compareBool(a.byClient, b.byClient))
	})
	var chains []chain
	for _, d := range ordered {
		chains = append(chains, chain{name: b.chain(d), rules: []rule{b.draw(d)}})
	}
	return chains
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func slotBytes(slot int) string {
	return string(binary.NativeEndian.AppendUint32(nil, uint32(slot)))
}

func addrBytes(addr netip.Addr) string { return string(addr.AsSlice()) }

func portBytes(port uint16) string { return string([]byte{byte(port >> 8), byte(port), 0, 0}) }
