package wireguard

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// newPathPatience is how long a candidate that never answered is tried: WireGuard
	// repeats its handshake every 5 s, so this is two tries and a little.
	newPathPatience = 10 * time.Second
	// keepaliveSlack is how much later than its keepalive a peer on a working path may be heard.
	keepaliveSlack = 15 * time.Second
	// askedPatience is how long a peer on a working path may be silent that was sent something: WireGuard
	// answers within 10 s, and shakes hands anew after 15.
	askedPatience = 25 * time.Second
	// sessionLife is when WireGuard gives a session up (REJECT_AFTER_TIME, its paper, section 6.1).
	sessionLife = 180 * time.Second
)

// trial is what is known of the endpoint that a peer has now. The zero trial knows
// nothing: the device was just found, or the peer is new.
type trial struct {
	endpoint netip.AddrPort // the peer's when we last looked
	since    time.Time      // when the peer was last heard of, or its endpoint was set
	asked    time.Time      // when it was first seen that the peer was sent something after since; zero: it was not
	rx, tx   int64          // the peer's counters at since, bytes
	worked   bool           // it was heard of at this endpoint
	last     netip.AddrPort // the last endpoint that worked; it may be none of the candidates
}

// next returns the endpoint to try, or zero to leave the peer's alone, and what is
// known from now on.
//
// An endpoint that works is left alone, also when WireGuard itself found it by roaming. It is
// given up when nothing is heard of the peer for a while; then the candidates are tried in turn,
// for ever. That nothing was sent is no excuse where keepalives are due: without a route to
// the endpoint nothing is counted as sent.
func (t trial) next(w wantPeer, h havePeer, now time.Time) (netip.AddrPort, trial) {
	seen := trial{endpoint: h.endpoint, since: now, rx: h.rx, tx: h.tx, last: t.last}
	if !h.endpoint.IsValid() {
		if len(w.endpoints) == 0 {
			return netip.AddrPort{}, seen
		}
		seen.endpoint = w.endpoints[0]
		return w.endpoints[0], seen
	}
	if t.endpoint != h.endpoint || h.rx > t.rx {
		seen.worked = h.rx > t.rx || now.Sub(h.handshake) < sessionLife
		if seen.worked {
			seen.last = h.endpoint
		}
		return netip.AddrPort{}, seen
	}
	if t.worked && w.keepalive == 0 && h.tx <= t.tx {
		t.since = now // nothing was asked, so no answer says nothing
		return netip.AddrPort{}, t
	}
	if h.tx > t.tx && t.asked.IsZero() {
		t.asked = now
	}
	if !t.silent(w.keepalive, now) {
		return netip.AddrPort{}, t
	}
	seen.endpoint = following(h.endpoint, w.endpoints, t.last)
	return seen.endpoint, seen
}

// silent says whether the peer has been silent for too long. All hosts of a mesh use the
// same keepalive, so on a path that works the peer is heard at that pace; and sooner if it was
// sent something, which it answers, if with nothing else, with an empty packet.
func (t trial) silent(keepalive time.Duration, now time.Time) bool {
	silence := now.Sub(t.since)
	switch {
	case !t.worked:
		return silence >= newPathPatience
	case keepalive > askedPatience && !t.asked.IsZero() && now.Sub(t.asked) >= askedPatience+keepaliveSlack:
		return true
	case keepalive > 0:
		return silence >= keepalive+keepaliveSlack
	default:
		return silence >= sessionLife
	}
}

// following is the candidate after current. An endpoint that once worked is a
// candidate too, behind the others.
func following(current netip.AddrPort, candidates []netip.AddrPort, worked netip.AddrPort) netip.AddrPort {
	ring := slices.Clone(candidates)
	if worked.IsValid() && !slices.Contains(ring, worked) {
		ring = append(ring, worked)
	}
	if len(ring) == 0 {
		return netip.AddrPort{}
	}
	return ring[(slices.Index(ring, current)+1)%len(ring)]
}
