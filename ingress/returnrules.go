package ingress

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// udpMemory is how long a UDP client may stay silent and still be answered through the host it
// came by: as long as conntrack remembers a flow with traffic both ways.
const udpMemory = 3 * time.Minute

// compileReturn makes the table that tells by which host each connection came, and marks its answers with that host.
//
// A client may use one of its ports for connections to several hosts at once, which are different
// to it and would be the same to a replica. So a TCP connection arrives at an alias that stands for its host (chain "arrive"): its
// answers, by whichever socket, have that source address from the start, and with it the route and the MSS of their real
// way. The alias never leaves the namespace: chain "leave" turns it into the replica's address and the host's mark. Nothing
// needs to be remembered for it, not even by conntrack, and the client keeps its port.
//
// Datagrams, and sockets that are bound to the replica's address, need a memory, which is there only for them: see addMemory.
func compileReturn(r found) table {
	t := table{
		id:   returnTable,
		sets: []set{{name: "aliases", key: []field{fieldEther}, value: []field{fieldIPv4}, elements: map[string]string{}}},
		chains: []chain{
			{"arrive", &hook{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, -300, ""}, arriveRules(r)},
			{"leave", &hook{nftables.ChainTypeFilter, unix.NF_INET_POST_ROUTING, 300, ""}, leaveRules(r)},
			{"output", &hook{nftables.ChainTypeRoute, unix.NF_INET_LOCAL_OUT, -300, ""}, outputRules(r)},
		},
	}
	for _, via := range r.Via {
		t.sets[0].elements[string(via.MAC)] = string(via.alias().AsSlice())
	}
	if r.remembers() {
		addMemory(&t, r)
	}
	return t
}

// arriveRules give what arrives for TCP, and the errors that somebody on its way reports (RFC 792, RFC 4443), the alias of the host
// that it comes through. What comes from elsewhere stays as it is.
func arriveRules(r found) []rule {
	in := matchInterface("iifname", r.Interface)
	return []rule{
		makeRule(in, matchFamily(false), matchTCP, setAlias(destination4), r.untrack(), accept),
		makeRule(in, matchFamily(true), matchTCP, setAlias(destination6), r.untrack(), accept),
		makeRule(in, matchFamily(false), matchTCPError4, setAlias(quotedSource4), setAlias(destination4), accept),
		makeRule(in, matchFamily(true), matchTCPError6, setAlias(quotedSource6), setAlias(destination6), accept),
	}
}

// leaveRules put the replica's own address into what answers from an alias, and leave a mark.
func leaveRules(r found) []rule {
	out := matchInterface("oifname", r.Interface)
	return []rule{
		makeRule(out, matchFamily(false), inAliases(source4), markByAlias(source4), setAddress(source4, r.Address4.Unmap())),
		makeRule(out, matchFamily(true), inAliases(source6), markByAlias(source6), setAddress(source6, r.Address6)),
	}
}

// outputRules keep conntrack out of answers, and lead errors that the namespace itself reports, such as a firewall in it, to the client:
// the kernel does not send those of IPv6 from an alias, which is no interface's.
func outputRules(r found) []rule {
	complain := func(about word, quoted, source place, own netip.Addr) rule {
		return makeRule(matchFamily(quoted.ipv6), about, inAliases(quoted), markByAlias(quoted), setAddress(quoted, own), setAddress(source, own))
	}
	rules := []rule{
		complain(matchTCPError4, quotedDestination4, source4, r.Address4.Unmap()),
		complain(matchTCPError6, quotedDestination6, source6, r.Address6),
	}
	if r.tracked {
		return rules
	}
	return append([]rule{
		makeRule(matchFamily(false), matchTCP, inAliases(source4), notrack, accept),
		makeRule(matchFamily(true), matchTCP, inAliases(source6), notrack, accept),
	}, rules...)
}

// untrack keeps conntrack out of what it need not know.
func (r found) untrack() word {
	if r.tracked {
		return word{}
	}
	return notrack
}

// addMemory adds what remembers which host a client came by, for UDP and for TCP sockets that listen at the replica's own address.
//
// The answers of a UDP socket without an address of its own have the address that the routes gave them, and go to whoever the client
// is: nothing in them tells of the host. So conntrack keeps each host's flows in a zone of their own; where two of
// them would have the same answers, it gives one of the clients another port (not address). The rules in "source" put the right
// source address in for the clients in the sets udp4 and udp6.
func addMemory(t *table, r found) {
	hosts := set{name: "hosts", key: []field{fieldEther}, value: []field{fieldMark}, elements: map[string]string{}}
	zones := set{name: "zones", key: []field{fieldEther}, value: []field{fieldZone}, elements: map[string]string{}}
	for _, via := range r.Via {
		zones.elements[string(via.MAC)] = string(binary.NativeEndian.AppendUint16(nil, via.zone()))
		hosts.elements[string(via.MAC)] = markBytes(via.mark())
	}
	bound4, bound6 := portSet("bound4", r.bound4), portSet("bound6", r.bound6)
	clients4 := set{name: "udp4", key: []field{fieldIPv4, fieldPort, fieldPort}, timeout: udpMemory}
	clients6 := set{name: "udp6", key: []field{fieldIPv6, fieldPort, fieldPort}, timeout: udpMemory}
	in := matchInterface("iifname", r.Interface)
	t.sets = append(t.sets, hosts, zones, bound4, bound6, clients4, clients6)
	toBound4 := makeWord(matchFamily(false), matchTCP, inSet(bound4.name, loadPort))
	toBound6 := makeWord(matchFamily(true), matchTCP, inSet(bound6.name, loadPort))
	remember := []word{matchDirection("original", 0), setMark(hosts.name), saveMark}
	arrive := t.chain("arrive")
	arrive.rules = slices.Concat([]rule{
		makeRule(in, toBound4, setZone(zones.name), accept),
		makeRule(in, toBound6, setZone(zones.name), accept),
		makeRule(in, matchFamily(false), matchTCPError4, inSet(bound4.name, loadQuotedPort4), setZone(zones.name), accept),
		makeRule(in, matchFamily(true), matchTCPError6, inSet(bound6.name, loadQuotedPort6), setZone(zones.name), accept),
	}, arrive.rules, []rule{makeRule(in, setZone(zones.name))})
	t.chains = append(t.chains,
		chain{"source", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_OUT, -300, ""}, []rule{
			makeRule(matchFamily(false), matchUDP, inSet(clients4.name, loadIPv4, loadPort, loadSourcePort), setAddress(source4, r.Address4.Unmap())),
			makeRule(matchFamily(true), matchUDP, inSet(clients6.name, loadIPv6, loadPort, loadSourcePort), setAddress(source6, r.Address6)),
		}},
		// Gives a client's port another number where two hosts brought flows from the same port.
		chain{"ports", &hook{nftables.ChainTypeNAT, unix.NF_INET_LOCAL_IN, 100, ""}, nil},
		chain{"mark", &hook{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, -150, ""}, []rule{
			makeRule(append([]word{in, matchUDP}, remember...)...),
			makeRule(append([]word{in, toBound4}, remember...)...),
			makeRule(append([]word{in, toBound6}, remember...)...),
		}},
		chain{"clients", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_IN, 150, ""}, []rule{
			makeRule(in, matchFamily(false), matchUDP, matchReturnMark("ct"), updateSet(clients4.name, loadSourceIPv4, loadSourcePort, loadPort)),
			makeRule(in, matchFamily(true), matchUDP, matchReturnMark("ct"), updateSet(clients6.name, loadSourceIPv6, loadSourcePort, loadPort)),
		}},
		chain{"answer", &hook{nftables.ChainTypeRoute, unix.NF_INET_LOCAL_OUT, -150, ""}, []rule{
			makeRule(matchDirection("reply", 1), matchReturnMark("ct"), restoreMark),
		}},
	)
}

func portSet(name string, ports []uint16) set {
	s := set{name: name, key: []field{fieldPort}, elements: map[string]string{}}
	for _, port := range ports {
		s.elements[string(binary.BigEndian.AppendUint16(nil, port))] = ""
	}
	return s
}

// compileEgress makes the table that sends each frame to the host that its mark says. What has
// the address of no host goes nowhere.
func compileEgress(r found) table {
	macs := set{name: "macs", key: []field{fieldMark}, value: []field{fieldEther}, elements: map[string]string{}}
	for _, via := range r.Via {
		macs.elements[markBytes(via.mark())] = string(via.MAC)
	}
	return table{
		id:   egressTable,
		sets: []set{macs},
		chains: []chain{{"egress", &hook{nftables.ChainTypeFilter, unix.NF_NETDEV_EGRESS, 0, r.Interface}, []rule{
			makeRule(matchReturnMark("meta"), setDestinationMAC(macs.name), accept),
			makeRule(matchDestinationMAC(nextHopMAC), drop),
		}}},
	}
}

func markBytes(mark uint32) string { return string(binary.NativeEndian.AppendUint32(nil, mark)) }

var (
	loadSourceIPv4 = loadPayload("ip saddr", expr.PayloadBaseNetworkHeader, 12, 4)
	loadSourceIPv6 = loadPayload("ip6 saddr", expr.PayloadBaseNetworkHeader, 8, 16)
	loadSourcePort = loadPayload("th sport", expr.PayloadBaseTransportHeader, 0, 2)
	// Behind eight bytes of ICMP and a header without options.
	loadQuotedPort4 = loadPayload("icmp quoted sport", expr.PayloadBaseTransportHeader, 8+20, 2)
	loadQuotedPort6 = loadPayload("icmpv6 quoted sport", expr.PayloadBaseTransportHeader, 8+40, 2)

	matchUDP = word{"meta l4proto udp", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_UDP}},
	}}
	saveMark = word{"ct mark set meta mark", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister},
		&expr.Ct{Key: expr.CtKeyMARK, Register: firstRegister, SourceRegister: true},
	}}
	notrack     = word{"notrack", []expr.Any{&expr.Notrack{}}}
	restoreMark = word{"meta mark set ct mark", []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: firstRegister},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister, SourceRegister: true},
	}}
)

// matchReturnMark matches the mark of a packet ("meta") or of its connection ("ct").
func matchReturnMark(of string) word {
	var get expr.Any = &expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister}
	if of == "ct" {
		get = &expr.Ct{Key: expr.CtKeyMARK, Register: firstRegister}
	}
	return word{fmt.Sprintf("%s mark and %#x == %#x", of, returnMask, returnMark), []expr.Any{
		get,
		&expr.Bitwise{
			SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, returnMask), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binary.NativeEndian.AppendUint32(nil, returnMark)},
	}}
}

func matchDirection(name string, number byte) word {
	return word{"ct direction " + name, []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{number}},
	}}
}

func inSet(name string, loads ...load) word {
	key, _ := loadAll(loads)
	return word{key.text + " @" + name, append(key.exprs, &expr.Lookup{SourceRegister: firstRegister, SetName: name})}
}

func updateSet(name string, loads ...load) word {
	key, _ := loadAll(loads)
	return word{fmt.Sprintf("update @%s { %s timeout %s }", name, key.text, udpMemory), append(key.exprs,
		&expr.Dynset{SrcRegKey: firstRegister, SetName: name, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: udpMemory})}
}

// setMark takes the packet's mark from the frame's sender.
func setMark(hosts string) word {
	return word{"meta mark set ether saddr map @" + hosts, []expr.Any{
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: firstRegister, SetName: hosts, IsDestRegSet: true, DestRegister: firstRegister},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister, SourceRegister: true},
	}}
}

// setZone keeps apart what comes through different hosts. Answers need no zone.
func setZone(zones string) word {
	return word{"ct original zone set ether saddr map @" + zones, []expr.Any{
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: firstRegister, SetName: zones, IsDestRegSet: true, DestRegister: firstRegister},
		rawExpr{name: "ct", attrs: []netlink.Attribute{
			number(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE),
			number(unix.NFTA_CT_SREG, firstRegister),
			{Type: unix.NFTA_CT_DIRECTION, Data: []byte{0}},
		}},
	}}
}

func setDestinationMAC(macs string) word {
	return word{"ether daddr set meta mark map @" + macs, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister},
		&expr.Lookup{SourceRegister: firstRegister, SetName: macs, IsDestRegSet: true, DestRegister: firstRegister},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: firstRegister, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6},
	}}
}

func matchDestinationMAC(mac net.HardwareAddr) word {
	return word{"ether daddr " + mac.String(), []expr.Any{
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: mac},
	}}
}
