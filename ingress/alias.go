package ingress

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A place is where an address stands in a packet: in its header, or in the header that an ICMP error quotes. Where the
// checksum is that the address counts for, besides those of the transport layer, is part of it.
type place struct {
	text     string
	ipv6     bool
	base     expr.PayloadBase
	offset   uint32
	checksum uint32 // its offset; 0: there is none
}

// The quoted header begins after eight bytes of ICMP. Its own checksum, which nobody verifies, stays as it was.
var (
	source4            = place{"ip saddr", false, expr.PayloadBaseNetworkHeader, 12, 10}
	source6            = place{"ip6 saddr", true, expr.PayloadBaseNetworkHeader, 8, 0}
	destination4       = place{"ip daddr", false, expr.PayloadBaseNetworkHeader, 16, 10}
	destination6       = place{"ip6 daddr", true, expr.PayloadBaseNetworkHeader, 24, 0}
	quotedSource4      = place{"icmp quoted saddr", false, expr.PayloadBaseTransportHeader, 8 + 12, 2}
	quotedSource6      = place{"icmpv6 quoted saddr", true, expr.PayloadBaseTransportHeader, 8 + 8, 2}
	quotedDestination4 = place{"icmp quoted daddr", false, expr.PayloadBaseTransportHeader, 8 + 16, 2}
	quotedDestination6 = place{"icmpv6 quoted daddr", true, expr.PayloadBaseTransportHeader, 8 + 24, 2}
)

func (p place) size() uint32 {
	if p.ipv6 {
		return 16
	}
	return 4
}

// write puts an address from the first registers in, and corrects all checksums.
func (p place) write() expr.Any {
	kind, flags := uint32(unix.NFT_PAYLOAD_CSUM_NONE), uint32(0)
	if p.checksum > 0 {
		kind = unix.NFT_PAYLOAD_CSUM_INET
	}
	if p.base == expr.PayloadBaseNetworkHeader {
		flags = unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR
	}
	return rawExpr{name: "payload", attrs: []netlink.Attribute{
		number(unix.NFTA_PAYLOAD_SREG, firstRegister),
		number(unix.NFTA_PAYLOAD_BASE, uint32(p.base)),
		number(unix.NFTA_PAYLOAD_OFFSET, p.offset),
		number(unix.NFTA_PAYLOAD_LEN, p.size()),
		number(unix.NFTA_PAYLOAD_CSUM_TYPE, kind),
		number(unix.NFTA_PAYLOAD_CSUM_OFFSET, p.checksum),
		number(unix.NFTA_PAYLOAD_CSUM_FLAGS, flags),
	}}
}

// setAddress puts one address in.
func setAddress(p place, addr netip.Addr) word {
	return word{fmt.Sprintf("%s set %s", p.text, addr), []expr.Any{&expr.Immediate{Register: firstRegister, Data: addr.AsSlice()}, p.write()}}
}

// setAlias puts the alias of the frame's sender in.
func setAlias(p place) word {
	last := uint32(firstRegister) // where the last four bytes go
	var exprs []expr.Any
	if p.ipv6 {
		last += 3
	}
	exprs = append(exprs,
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: firstRegister, SetName: "aliases", IsDestRegSet: true, DestRegister: last})
	text := "ether saddr map @aliases"
	if p.ipv6 {
		text = "100:: . " + text
		exprs = append(exprs, &expr.Immediate{Register: firstRegister, Data: aliases6.Addr().AsSlice()[:12]})
	}
	return word{p.text + " set " + text, append(exprs, p.write())}
}

// inAliases matches any alias; the packet's family must be known.
func inAliases(p place) word {
	prefix := aliases4
	if p.ipv6 {
		prefix = aliases6
	}
	get := &expr.Payload{DestRegister: firstRegister, Base: p.base, Offset: p.offset, Len: p.size()}
	return word{fmt.Sprintf("%s %s", p.text, prefix), append([]expr.Any{get}, inPrefix(prefix)...)}
}

// markByAlias marks a packet with the host that an alias stands for.
func markByAlias(p place) word {
	return word{fmt.Sprintf("meta mark set %s and %#x xor %#x", p.text, ^uint32(returnMask), uint32(returnMark)), []expr.Any{
		&expr.Payload{DestRegister: firstRegister, Base: p.base, Offset: p.offset + p.size() - 4, Len: 4},
		&expr.Byteorder{SourceRegister: firstRegister, DestRegister: firstRegister, Op: expr.ByteorderNtoh, Len: 4, Size: 4},
		&expr.Bitwise{
			SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, ^uint32(returnMask)), Xor: binary.NativeEndian.AppendUint32(nil, returnMark),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister, SourceRegister: true},
	}}
}

// matchTCPError4 and matchTCPError6 match ICMP errors about TCP that a connection must know of: what cannot be reached, and what is too big
// for the way (RFC 792: type 3; RFC 4443: types 1 and 2). Extension headers in a quoted IPv6 packet are not looked into.
var (
	matchTCPError4 = matchTCPError("icmp type 3", unix.IPPROTO_ICMP, 3, 3, 8+9)
	matchTCPError6 = matchTCPError("icmpv6 type 1-2", unix.IPPROTO_ICMPV6, 1, 2, 8+6)
)

func matchTCPError(text string, protocol, first, last byte, quotedProtocol uint32) word {
	at := func(offset uint32) expr.Any {
		return &expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 1}
	}
	return word{text + " quoted protocol tcp", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{protocol}},
		at(0),
		&expr.Range{Op: expr.CmpOpEq, Register: firstRegister, FromData: []byte{first}, ToData: []byte{last}},
		at(quotedProtocol),
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_TCP}},
	}}
}
