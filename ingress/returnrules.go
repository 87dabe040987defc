package ingress

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// udpMemory is how long a UDP client may stay silent and still be answered through the host it
// came by: as long as conntrack remembers a flow with traffic both ways.
const udpMemory = 3 * time.Minute

// compileReturn makes the table that remembers which host each connection came through.
//
// A client may use one of its ports for connections to several hosts at once, which are different
// to it and the same to a replica. Each host's connections are tracked in a zone of their own; where two of
// them would have the same answers, conntrack gives one of the clients another port (not address).
//
// A TCP connection's answers have the mark by the socket (tcp_fwmark_accept). Those of a UDP socket without
// an address of its own go out with the address that the routes gave it, which may be another interface's: the
// rules in "source" put the right one in for the clients in the sets udp4 and udp6.
func compileReturn(r Replica) table {
	hosts := set{name: "hosts", key: []field{fieldEther}, value: []field{fieldMark}, elements: map[string]string{}}
	zones := set{name: "zones", key: []field{fieldEther}, value: []field{fieldZone}, elements: map[string]string{}}
	for _, via := range r.Via {
		zones.elements[string(via.MAC)] = string(binary.NativeEndian.AppendUint16(nil, via.zone()))
		hosts.elements[string(via.MAC)] = markBytes(via.mark())
	}
	clients4 := set{name: "udp4", key: []field{fieldIPv4, fieldPort, fieldPort}, timeout: udpMemory}
	clients6 := set{name: "udp6", key: []field{fieldIPv6, fieldPort, fieldPort}, timeout: udpMemory}
	in := matchInterface("iifname", r.Interface)
	return table{
		id:   returnTable,
		sets: []set{hosts, zones, clients4, clients6},
		chains: []chain{
			{"source", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_OUT, -300, ""}, []rule{
				makeRule(matchFamily(false), matchUDP, inSet(clients4.name, loadIPv4, loadPort, loadSourcePort), setSource(r.Address4.Unmap())),
				makeRule(matchFamily(true), matchUDP, inSet(clients6.name, loadIPv6, loadPort, loadSourcePort), setSource(r.Address6)),
			}},
			{"zone", &hook{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, -300, ""}, []rule{
				makeRule(in, setZone(zones.name)),
			}},
			// Gives a client's port another number where two hosts brought connections from the same port.
			{"ports", &hook{nftables.ChainTypeNAT, unix.NF_INET_LOCAL_IN, 100, ""}, nil},
			{"mark", &hook{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, -150, ""}, []rule{
				makeRule(in, matchDirection("original", 0), setMark(hosts.name), saveMark),
			}},
			{"clients", &hook{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_IN, 150, ""}, []rule{
				makeRule(in, matchFamily(false), matchUDP, matchReturnMark("ct"), updateSet(clients4.name, loadSourceIPv4, loadSourcePort, loadPort)),
				makeRule(in, matchFamily(true), matchUDP, matchReturnMark("ct"), updateSet(clients6.name, loadSourceIPv6, loadSourcePort, loadPort)),
			}},
			{"answer", &hook{nftables.ChainTypeRoute, unix.NF_INET_LOCAL_OUT, -150, ""}, []rule{
				makeRule(matchDirection("reply", 1), matchReturnMark("ct"), restoreMark),
			}},
		},
	}
}

// compileEgress makes the table that sends each frame to the host that its mark says. What has
// the address of no host goes nowhere.
func compileEgress(r Replica) table {
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

	matchUDP = word{"meta l4proto udp", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_UDP}},
	}}
	saveMark = word{"ct mark set meta mark", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister},
		&expr.Ct{Key: expr.CtKeyMARK, Register: firstRegister, SourceRegister: true},
	}}
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

// setSource gives a datagram its source address, and corrects the checksums of it.
func setSource(addr netip.Addr) word {
	text, offset, checksum, at := "ip saddr set ", 12, unix.NFT_PAYLOAD_CSUM_INET, 10
	if addr.Is6() { // which has no checksum of its own
		text, offset, checksum, at = "ip6 saddr set ", 8, unix.NFT_PAYLOAD_CSUM_NONE, 0
	}
	return word{text + addr.String(), []expr.Any{
		&expr.Immediate{Register: firstRegister, Data: addr.AsSlice()},
		rawExpr{name: "payload", attrs: []netlink.Attribute{
			number(unix.NFTA_PAYLOAD_SREG, firstRegister),
			number(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER),
			number(unix.NFTA_PAYLOAD_OFFSET, uint32(offset)),
			number(unix.NFTA_PAYLOAD_LEN, uint32(addr.BitLen()/8)),
			number(unix.NFTA_PAYLOAD_CSUM_TYPE, uint32(checksum)),
			number(unix.NFTA_PAYLOAD_CSUM_OFFSET, uint32(at)),
			number(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR),
		}},
	}}
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
