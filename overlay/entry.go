package overlay

import (
	"fmt"
	"net"
	"net/netip"
)

// kind tells apart the tables that an entry can be in.
type kind int

const (
	kindTunnel   kind = iota // VXLAN device: frames to mac go to the host at ip
	kindFlood                // VXLAN device: frames to many go to the host at ip, too
	kindPort                 // bridge: frames to mac go out of the port link
	kindNeighbor             // bridge: ip is at mac
)

type mac [6]byte

func macOf(a net.HardwareAddr) (m mac) {
	copy(m[:], a)
	return m
}

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// entry is one row of a kernel table.
type entry struct {
	kind  kind
	group int // interface number of the bridge, for kindPort; else that of link
	link  int // interface number
	mac   mac
	ip    netip.Addr
	wrong bool // found in a state that ours never have, such as learned
}

// key is what there is one entry for: adding another with the same key replaces it.
type key struct {
	kind  kind
	group int
	mac   mac
	ip    netip.Addr
}

func (e entry) key() key {
	k := key{kind: e.kind, group: e.group}
	switch e.kind {
	case kindTunnel, kindPort:
		k.mac = e.mac
	case kindFlood, kindNeighbor:
		k.ip = e.ip
	}
	return k
}

// op is one change of a kernel table.
type op struct {
	delete bool
	entry  entry
}

// String is the change in the words of bridge(8) and ip-neighbour(8).
func (o op) String() string {
	verb := "replace"
	if o.delete {
		verb = "del"
	}
	e := o.entry
	switch e.kind {
	case kindTunnel:
		return fmt.Sprintf("bridge fdb %s %s dev #%d self dst %s", verb, e.mac, e.link, e.ip)
	case kindFlood:
		if !o.delete {
			verb = "append"
		}
		return fmt.Sprintf("bridge fdb %s %s dev #%d self dst %s", verb, mac{}, e.link, e.ip)
	case kindPort:
		return fmt.Sprintf("bridge fdb %s %s dev #%d master static", verb, e.mac, e.link)
	}
	return fmt.Sprintf("ip neigh %s %s lladdr %s dev #%d nud permanent", verb, e.ip, e.mac, e.link)
}

// plan returns the changes that lead from have to want: additions first, which also
// move what is elsewhere, then deletions of what nothing replaced.
func plan(want, have []entry) []op {
	present := make(map[entry]bool, len(have))
	for _, e := range have {
		present[e] = true
	}
	wanted := make(map[key]entry, len(want))
	var ops []op
	for _, e := range want {
		if _, taken := wanted[e.key()]; taken {
			continue // two endpoints claim one address: the first has it, and it stays so
		}
		wanted[e.key()] = e
		if !present[e] {
			ops = append(ops, op{entry: e})
		}
	}
	for _, e := range have {
		w, ok := wanted[e.key()]
		if !ok || present[w] && e != w { // the latter: a second destination beside the right one
			ops = append(ops, op{delete: true, entry: e})
		}
	}
	return ops
}

// remoteEntries is the entries for what is on other hosts.
func remoteEntries(n Network, bridge, vxlan int) []entry {
	entries := make([]entry, 0, len(n.Remotes)+4*len(n.Neighbors))
	for _, remote := range n.Remotes {
		entries = append(entries, entry{kind: kindFlood, group: vxlan, link: vxlan, ip: remote})
	}
	for _, neighbor := range n.Neighbors {
		m := macOf(neighbor.MAC)
		entries = append(entries,
			entry{kind: kindTunnel, group: vxlan, link: vxlan, mac: m, ip: neighbor.VTEP},
			entry{kind: kindPort, group: bridge, link: vxlan, mac: m})
		for _, ip := range neighbor.IP {
			entries = append(entries, entry{kind: kindNeighbor, group: bridge, link: bridge, mac: m, ip: ip})
		}
	}
	return entries
}
