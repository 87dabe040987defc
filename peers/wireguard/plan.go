package wireguard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// havePeer is a peer as the device has it.
type havePeer struct {
	key       [32]byte
	addresses []netip.Prefix
	endpoint  netip.AddrPort // zero: none
	keepalive time.Duration
	handshake time.Time // zero: never
	rx, tx    int64     // bytes
}

// op is one change to the device's peers. Only what is set changes.
type op struct {
	id        string
	key       [32]byte
	remove    bool
	add       bool
	addresses []netip.Prefix // replace the peer's allowed IPs; nil: leave them
	endpoint  netip.AddrPort // zero: leave it
	keepalive *time.Duration // nil: leave it
	call      time.Duration  // the peer's keepalive, to send one now; 0: do not
}

// String says the change in the words of wg(8).
func (o op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "peer %s", shortKey(o.key))
	if o.id != "" {
		fmt.Fprintf(&b, " (%s)", o.id)
	}
	if o.remove {
		b.WriteString(" remove")
	}
	if o.add {
		b.WriteString(" add")
	}
	if o.addresses != nil {
		fmt.Fprintf(&b, " allowed-ips %s", joinPrefixes(o.addresses))
	}
	if o.endpoint.IsValid() {
		fmt.Fprintf(&b, " endpoint %s", o.endpoint)
	}
	if o.keepalive != nil {
		fmt.Fprintf(&b, " persistent-keepalive %d", int(o.keepalive.Seconds()))
	}
	if o.call > 0 {
		b.WriteString(" and call it")
	}
	return b.String()
}

// lasting says whether the op changes more than where a silent peer is looked for.
func (o op) lasting() bool {
	return o.add || o.remove || o.addresses != nil || o.keepalive != nil
}

func joinPrefixes(in []netip.Prefix) string {
	out := make([]string, len(in))
	for i, p := range in {
		out[i] = p.String()
	}
	return strings.Join(out, ",")
}

// plan says how to get from have to want, and what is now known of the endpoints that are
// being tried. Removals come first: a peer that was shut out must be gone whatever becomes of
// the rest, and a peer with a new key takes over its old one's address.
func plan(want []wantPeer, have []havePeer, trials map[[32]byte]trial, now time.Time) ([]op, map[[32]byte]trial) {
	wanted := map[[32]byte]bool{}
	for _, w := range want {
		wanted[w.key] = true
	}
	var ops []op
	present := map[[32]byte]havePeer{}
	for _, h := range have {
		present[h.key] = h
		if !wanted[h.key] {
			ops = append(ops, op{key: h.key, remove: true})
		}
	}
	next := map[[32]byte]trial{}
	for _, w := range want {
		h, ok := present[w.key]
		o := op{id: w.id, key: w.key, add: !ok}
		if hosts := hostPrefixes(w.addresses); !samePrefixes(hosts, h.addresses) {
			o.addresses = hosts
		}
		if w.keepalive != h.keepalive {
			o.keepalive = &w.keepalive
		}
		o.endpoint, next[w.key] = trials[w.key].next(w, h, now)
		if ok && o.endpoint.IsValid() {
			o.call = w.keepalive
		}
		if o.lasting() || o.endpoint.IsValid() {
			ops = append(ops, o)
		}
	}
	return ops, next
}

func hostPrefixes(in []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, len(in))
	for i, a := range in {
		out[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return out
}

// samePrefixes compares without regard to order: the device keeps one of its own.
func samePrefixes(want, have []netip.Prefix) bool {
	if len(want) != len(have) {
		return false
	}
	for _, p := range want {
		if !slices.Contains(have, p) {
			return false
		}
	}
	return true
}
