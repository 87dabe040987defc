package ingress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/internal/sockets"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Replica is the namespace of an endpoint behind published ports. Connections reach it through the
// ingress network with their client's own address; its answers go back to the host that they came through,
// whatever other routes the namespace has.
type Replica struct {
	Endpoint  string // its id
	Namespace string // path
	Interface string // on the ingress network
	Address4  netip.Addr
	Address6  netip.Addr
	UDPPorts  []uint16      // target ports of published UDP ports, sorted
	Via       []IngressHost // sorted by Address4
}

// found is a replica with what Apply has found out.
type found struct {
	Replica
	tracked bool // conntrack is to know of TCP connections, for the sake of others
	// Ports at which TCP sockets listen at the replica's own address alone, which an alias would not reach.
	bound4, bound6 []uint16 // sorted
}

// remembers tells whether conntrack has to remember anything.
func (f found) remembers() bool { return len(f.UDPPorts)+len(f.bound4)+len(f.bound6) > 0 }

// IngressHost is the presence on the ingress network of a host through which connections come.
type IngressHost struct {
	Address4 netip.Addr
	MAC      net.HardwareAddr
}

// number is the last three bytes of the host's address, which no other host on the ingress network has.
func (h IngressHost) number() uint32 {
	a := h.Address4.Unmap().As4()
	return binary.BigEndian.Uint32(a[:]) &^ returnMask
}

// mark is what answers through the host carry.
func (h IngressHost) mark() uint32 { return returnMark | h.number() }

// alias is the address, of the replica's own, at which TCP connections through the host arrive. Of its IPv6
// form only the last four bytes differ from host to host: the same ones.
func (h IngressHost) alias() netip.Addr {
	b := aliases4.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|h.number())
	return netip.AddrFrom4(b)
}

// zone tells datagrams through the host from those through others: the last two bytes of its
// address, which are its own on an ingress network of usual size.
func (h IngressHost) zone() uint16 {
	a := h.Address4.Unmap().As4()
	return max(1, binary.BigEndian.Uint16(a[2:]))
}

const (
	returnMark = 0x4d000000
	returnMask = 0xff000000

	// lastResort is the priority of the rules for UDP answers from namespaces without another route:
	// after the kernel's own (32767). A socket must find a route before its packet can be marked.
	lastResort = 32770
)

// The aliases of all hosts, local addresses in each replica's namespace. Nobody else has any of them: they are of the IPv4 addresses
// "reserved for future use" (RFC 1112, section 4), and of the IPv6 prefix that leads nowhere (RFC 6666).
var (
	aliases4 = netip.MustParsePrefix("240.0.0.0/8")
	aliases6 = netip.MustParsePrefix("100::f000:0/104")
)

func aliasesOf(family int) netip.Prefix {
	if family == netlink.FAMILY_V6 {
		return aliases6
	}
	return aliases4
}

// The next hop of all answers is a neighbour that does not exist: which host it really is, the
// mark decides when the frame leaves.
var (
	nextHop4   = netip.MustParseAddr("169.254.213.77")
	nextHop6   = netip.MustParseAddr("fe80::4d:4d")
	nextHopMAC = net.HardwareAddr{0x02, 0, 0, 0, 0x4d, 0x4d}
)

// A returner is a replica's namespace as the last Apply left it.
type returner struct {
	marks  translated // the table that tells by whom each connection comes, and marks answers
	egress translated // the table that addresses frames
	others others
	index  int   // of the interface that the egress table is at
	last   found // as the last Apply left it

	changes *journal.Journal
}

func newReturner(changes *journal.Journal) *returner {
	return &returner{marks: translated{id: returnTable}, egress: translated{id: egressTable}, changes: changes}
}

func (r *returner) apply(replica Replica) ([]op, error) {
	want := found{Replica: replica}
	if err := want.check(); err != nil {
		return nil, err
	}
	if err := errors.Join(r.marks.open(want.Namespace), r.egress.open(want.Namespace)); err != nil {
		return nil, err
	}
	ns, err := link.Open(want.Namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	ns.Keep(r.changes)
	l, err := ns.Link(want.Interface)
	if err != nil {
		return nil, err
	}
	// Routes first: a marked packet without them would be refused.
	if err := r.ensureRoutes(ns, l, want.UDPPorts); err != nil {
		return nil, err
	}
	k, err := r.marks.dial()
	if err != nil {
		return nil, err
	}
	if want.tracked, err = r.others.look(r.marks.handle, k); err != nil {
		r.marks.hangUp()
		return nil, err
	}
	if err := want.findBound(r.marks.handle); err != nil {
		return nil, err
	}
	if l.Attrs().Index != r.index {
		r.egress.known = false // the kernel takes the chain away with its interface, without a word
	}
	ops, _, err := r.egress.apply(r.tables(want, compileEgress))
	if err != nil {
		return ops, err
	}
	r.index = l.Attrs().Index
	marks, _, err := r.marks.apply(r.tables(want, compileReturn))
	if err == nil {
		r.last = want
	}
	return append(ops, marks...), err
}

func (r *returner) tables(want found, compile func(found) table) tables {
	return tables{
		full: func() table { return compile(want) },
		step: func() (table, table) {
			if want.equal(r.last) {
				return table{}, table{}
			}
			return compile(want), compile(r.last)
		},
	}
}

func (w found) equal(other found) bool {
	sameHost := func(a, b IngressHost) bool { return a.Address4 == b.Address4 && slices.Equal(a.MAC, b.MAC) }
	return w.Endpoint == other.Endpoint && w.Namespace == other.Namespace && w.Interface == other.Interface &&
		w.Address4 == other.Address4 && w.Address6 == other.Address6 && w.tracked == other.tracked &&
		slices.Equal(w.bound4, other.bound4) && slices.Equal(w.bound6, other.bound6) &&
		slices.Equal(w.UDPPorts, other.UDPPorts) && slices.EqualFunc(w.Via, other.Via, sameHost)
}

// findBound finds the sockets that listen at the replica's own address.
func (f *found) findBound(ns *netns.Handle) error {
	listening, err := sockets.Listening(ns)
	if err != nil {
		return err
	}
	for _, l := range listening {
		switch l.Addr() {
		case f.Address4.Unmap():
			f.bound4 = append(f.bound4, l.Port())
		case f.Address6:
			f.bound6 = append(f.bound6, l.Port())
		}
	}
	for _, ports := range []*[]uint16{&f.bound4, &f.bound6} {
		slices.Sort(*ports)
		*ports = slices.Compact(*ports)
	}
	return nil
}

// remove takes everything away that leads answers back.
func (r *returner) remove() error {
	if r.marks.handle == nil {
		return nil
	}
	ns, err := link.Open(r.marks.handle.Path())
	errs := []error{r.marks.remove(), r.egress.remove()}
	if err != nil {
		return errors.Join(errs...) // the namespace has gone from its path, and its routes with it
	}
	defer ns.Close()
	errs = append(errs, way{ns, r.changes}.remove())
	for _, ipv6 := range families() {
		errs = append(errs, removeAliases(ns, familyOf(ipv6)))
	}
	return errors.Join(errs...)
}

func (r *returner) forgetHandles() {
	r.marks.forgetHandle()
	r.egress.forgetHandle()
}

func (w Replica) check() error {
	if err := link.ValidName(w.Interface); err != nil {
		return fmt.Errorf("interface: %w", err)
	}
	if !w.Address4.Unmap().Is4() || !w.Address6.Is6() {
		return fmt.Errorf("addresses %s and %s: a replica has one of each family", w.Address4, w.Address6)
	}
	for _, via := range w.Via {
		if !via.Address4.Unmap().Is4() || len(via.MAC) != 6 {
			return fmt.Errorf("ingress host %s (%s): it must have an IPv4 and an Ethernet address", via.Address4, via.MAC)
		}
	}
	return nil
}

// ensureRoutes makes what sends marked packets out of the interface.
func (r *returner) ensureRoutes(ns *link.Namespace, l netlink.Link, udpPorts []uint16) error {
	name := l.Attrs().Name
	err := ns.EnsureSysctls(
		// The way back of what is remembered is looked up with the mark as well, so strict rp_filter accepts any client.
		link.Sysctl{Key: "ipv4/conf/" + name + "/src_valid_mark", Value: "1"},
		// A marked TCP connection's answers have the mark of its first packet, and so from the start
		// the route, the source address and the MSS of their real way. It governs IPv6 too.
		link.Sysctl{Key: "ipv4/tcp_fwmark_accept", Value: "1"},
	)
	if err != nil {
		return err
	}
	for _, ipv6 := range families() {
		family := familyOf(ipv6)
		w, hop := way{ns, r.changes}, nextHop(family)
		if err := errors.Join(r.ensureNextHop(ns, l, family), w.ensureRoute(l, family, &hop), w.ensureRules(family, wantedRules(family, udpPorts)),
			r.ensureAliases(ns, l, family)); err != nil {
			return err
		}
	}
	return nil
}

func nextHop(family int) netip.Addr {
	if family == netlink.FAMILY_V6 {
		return nextHop6
	}
	return nextHop4
}

func (r *returner) ensureNextHop(ns *link.Namespace, l netlink.Link, family int) error {
	hop := nextHop(family)
	have, err := link.Dump(func() ([]netlink.Neigh, error) { return ns.Netlink().NeighList(l.Attrs().Index, family) })
	if err != nil {
		return fmt.Errorf("listing neighbours on %s: %w", l.Attrs().Name, err)
	}
	for _, n := range have {
		addr, _ := netip.AddrFromSlice(n.IP)
		if addr.Unmap() == hop && n.State == netlink.NUD_PERMANENT && slices.Equal(n.HardwareAddr, nextHopMAC) {
			return nil
		}
	}
	err = ns.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT,
		IP: hop.AsSlice(), HardwareAddr: nextHopMAC,
	})
	if err != nil {
		return fmt.Errorf("adding neighbour %s on %s: %w", hop, l.Attrs().Name, err)
	}
	r.changes.Note("ip neigh replace %s dev %s", hop, l.Attrs().Name)
	return nil
}

// ensureAliases makes the aliases local addresses, as a route of the interface, which goes with it.
func (r *returner) ensureAliases(ns *link.Namespace, l netlink.Link, family int) error {
	have, err := aliasRoutes(ns, family)
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	if slices.ContainsFunc(have, func(h netlink.Route) bool { return h.LinkIndex == index }) {
		return nil
	}
	err = ns.Netlink().RouteReplace(&netlink.Route{
		LinkIndex: index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
		Protocol: link.RouteProtocol, Dst: link.IPNet(aliasesOf(family)),
	})
	if err != nil {
		return fmt.Errorf("adding the local addresses %s: %w", aliasesOf(family), err)
	}
	r.changes.Note("ip route replace local %s dev %s", aliasesOf(family), l.Attrs().Name)
	return nil
}

func aliasRoutes(ns *link.Namespace, family int) ([]netlink.Route, error) {
	have, err := link.Dump(func() ([]netlink.Route, error) {
		filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: link.RouteProtocol, Dst: link.IPNet(aliasesOf(family))}
		return ns.Netlink().RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return nil, fmt.Errorf("listing local addresses: %w", err)
	}
	return have, nil
}

func removeAliases(ns *link.Namespace, family int) error {
	have, err := aliasRoutes(ns, family)
	if err != nil {
		return err
	}
	return deleteRoutes(ns, have, "the local addresses "+aliasesOf(family).String())
}

// wantedRules are the routing rules that lead to the table of answers: by their source, or by their mark.
func wantedRules(family int, udpPorts []uint16) []*netlink.Rule {
	aliased, marked := newRule(family, returnRoutes), newRule(family, returnRoutes)
	aliased.Src = link.IPNet(aliasesOf(family))
	mask := uint32(returnMask)
	marked.Mark, marked.Mask = returnMark, &mask
	rules := []*netlink.Rule{aliased, marked}
	for _, port := range udpPorts {
		udp := newRule(family, lastResort)
		udp.IPProto, udp.Sport = unix.IPPROTO_UDP, netlink.NewRulePortRange(port, port)
		rules = append(rules, udp)
	}
	return rules
}
