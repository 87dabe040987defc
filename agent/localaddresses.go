package agent

import (
	"cmp"
	"slices"
	"strings"

	"github.com/meshd/meshd/catalog"
)

// resting is an address that no endpoint has any more, and since when.
type resting struct {
	Network string         `json:"network"`
	Index   uint32         `json:"index"`
	Since   catalog.Millis `json:"since"`
}

type addressKey struct {
	network string
	index   uint32
}

// addressRest is how long an address is not given out again after its endpoint
// went: others may still have it in a cache, or in a connection, until then.
const addressRest = catalog.Millis(60_000)

func (l *locals) retireLocked(e Local, at catalog.Millis) {
	for _, a := range e.Attachments {
		if a.Index != 0 {
			l.retired[addressKey{a.Network, a.Index}] = at
		}
	}
}

// resting is the addresses at rest, in order. Holding forgets those that have rested.
func (l *locals) resting() []resting {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []resting
	for key, since := range l.retired {
		all = append(all, resting{key.network, key.index, since})
	}
	slices.SortFunc(all, func(a, b resting) int {
		return cmp.Or(strings.Compare(a.Network, b.Network), cmp.Compare(a.Index, b.Index))
	})
	return all
}

// Holding is what keeps this host's blocks in use: its endpoints, whether or not they are
// attached already, and one more that stands for the addresses at rest, and those that were promised.
func (l *locals) Holding(at catalog.Millis) []catalog.Endpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := make([]catalog.Endpoint, 0, len(l.byID)+1)
	for _, e := range l.byID {
		held = append(held, e.clone().Endpoint)
	}
	var rest catalog.Endpoint
	for key := range l.retired {
		if l.restsLocked(key, at) {
			rest.Attachments = append(rest.Attachments, catalog.Attachment{Network: key.network, Index: key.index})
		}
	}
	for key := range l.reserved {
		rest.Attachments = append(rest.Attachments, catalog.Attachment{Network: key.network, Index: key.index})
	}
	return append(held, rest)
}

// restsLocked says whether an address still rests, and forgets it if not.
func (l *locals) restsLocked(key addressKey, at catalog.Millis) bool {
	gone, ok := l.retired[key]
	if ok && gone > at { // the clock was put back
		gone = at
		l.retired[key] = at
	}
	if ok && at-gone >= addressRest {
		delete(l.retired, key)
		return false
	}
	return ok
}

// AddressBusy says whether an address is held by an endpoint of this host, or rests.
func (l *locals) AddressBusy(network string, index uint32, at catalog.Millis) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.restsLocked(addressKey{network, index}, at) {
		return true
	}
	return l.heldLocked(addressKey{network, index})
}

// AddressHeld says whether an endpoint of this host has an address, or was promised it.
func (l *locals) AddressHeld(network string, index uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heldLocked(addressKey{network, index})
}

func (l *locals) heldLocked(key addressKey) bool {
	for _, e := range l.byID {
		for _, a := range e.Attachments {
			if a.Network == key.network && a.Index == key.index {
				return true
			}
		}
	}
	return l.reserved[key]
}

// Reserve promises an address to an endpoint to come. It is forgotten with the agent: the
// address is not in use before there is the endpoint.
func (l *locals) Reserve(network string, index uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved[addressKey{network, index}] = true
}

// Reserved says whether an address was promised.
func (l *locals) Reserved(network string, index uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reserved[addressKey{network, index}]
}

// Unreserve takes Reserve back.
func (l *locals) Unreserve(network string, index uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.reserved, addressKey{network, index})
}

// FreeGatewayIndex is the lowest offset below limit in the gateway's subnets that no
// endpoint has. 0 is the network's own, 1 the bridge's.
func (l *locals) FreeGatewayIndex(limit uint32) (uint32, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := make(map[uint32]bool, len(l.byID))
	for _, e := range l.byID {
		used[e.GatewayIndex] = true
	}
	for i := uint32(2); i < limit; i++ {
		if !used[i] {
			return i, true
		}
	}
	return 0, false
}
