package ingress

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The words that rules are made of. Each is a piece of nft(8)'s language with the kernel's
// expressions for it, so a rule and its text cannot drift apart.

// A word is a part of a rule.
type word struct {
	text  string
	exprs []expr.Any
}

func makeRule(words ...word) rule { return rule(makeWord(words...)) }

// makeWord makes one word of several; empty ones say nothing.
func makeWord(words ...word) word {
	var all word
	var texts []string
	for _, w := range words {
		if w.text == "" {
			continue
		}
		texts = append(texts, w.text)
		all.exprs = append(all.exprs, w.exprs...)
	}
	all.text = strings.Join(texts, " ")
	return all
}

// Registers of four bytes are numbered from 8 (NFT_REG32_00) on.
const firstRegister = unix.NFT_REG32_00

// A load puts one field of a packet into registers.
type load struct {
	text string
	size int // bytes, whole registers
	into func(register uint32) expr.Any
}

func loadPayload(text string, base expr.PayloadBase, offset, length uint32) load {
	return load{text, padded(length), func(register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
	}}
}

var (
	loadIPv4  = loadPayload("ip daddr", expr.PayloadBaseNetworkHeader, 16, 4)
	loadIPv6  = loadPayload("ip6 daddr", expr.PayloadBaseNetworkHeader, 24, 16)
	loadPort  = loadPayload("th dport", expr.PayloadBaseTransportHeader, 2, 2)
	loadProto = load{"meta l4proto", 4, func(register uint32) expr.Any {
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}
	}}
)

// loadAll puts the fields one behind the other and returns the next free register.
func loadAll(loads []load) (word, uint32) {
	var w word
	var texts []string
	register := uint32(firstRegister)
	for _, l := range loads {
		texts = append(texts, l.text)
		w.exprs = append(w.exprs, l.into(register))
		register += uint32(l.size / 4)
	}
	w.text = strings.Join(texts, " . ")
	return w, register
}

func (b *balancer) family() uint32 {
	if b.ipv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (b *balancer) familyName() string {
	if b.ipv6 {
		return "ip6"
	}
	return "ip"
}

// dispatch is the rule that looks the packet's key up and goes on to the chain that draws.
func (b *balancer) dispatch(before ...word) rule {
	key, _ := loadAll(b.load)
	return makeRule(append(before, matchFamily(b.ipv6), key, word{"vmap @" + b.verdicts, []expr.Any{
		&expr.Lookup{SourceRegister: firstRegister, SetName: b.verdicts, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
	}})...)
}

// draw is the rule that picks a target.
func (b *balancer) draw(d draw) rule {
	key, slot := loadAll(b.load)
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: b.family(), RegAddrMin: firstRegister}
	if len(b.target) > 1 {
		nat.RegProtoMin = firstRegister + uint32(padded(b.target[0].kind.Bytes)/4)
	}
	mark := word{}
	if b.mark != 0 {
		mark = setPacketMark(b.mark)
		mark.text += " "
	}
	return makeRule(
		word{mark.text + "dnat " + b.familyName() + " to", mark.exprs},
		key,
		b.drawSlot(d, slot),
		word{"map @" + b.targets, []expr.Any{
			&expr.Lookup{SourceRegister: firstRegister, SetName: b.targets, IsDestRegSet: true, DestRegister: firstRegister},
			nat,
		}},
	)
}

// drawSlot puts a slot's number into a register. Those behind it are free.
func (b *balancer) drawSlot(d draw, register uint32) word {
	if !d.byClient {
		return word{fmt.Sprintf(". numgen random mod %d", d.slots), []expr.Any{
			&expr.Numgen{Register: register, Modulus: uint32(d.slots), Type: unix.NFT_NG_RANDOM},
		}}
	}
	client := loadSourceIPv4
	if b.ipv6 {
		client = loadSourceIPv6
	}
	return word{fmt.Sprintf(". jhash %s mod %d seed %#x", client.text, d.slots, clientSeed), []expr.Any{
		client.into(register + 1),
		&expr.Hash{
			SourceRegister: register + 1, DestRegister: register, Length: uint32(client.size),
			Modulus: uint32(d.slots), Seed: clientSeed, Type: expr.HashTypeJenkins,
		},
	}}
}

// refuse are the rules that answer at once for keys that have no targets.
func (b *balancer) refuse(before ...word) []rule {
	key, _ := loadAll(b.load)
	empty := word{"@" + b.empty, []expr.Any{&expr.Lookup{SourceRegister: firstRegister, SetName: b.empty}}}
	match := slices.Clip(append([]word{matchFamily(b.ipv6), key, empty}, before...))
	return []rule{
		makeRule(append(match, matchTCP, resetTCP)...),
		makeRule(append(match, word{"reject with icmpx port-unreachable", []expr.Any{
			&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH},
		}})...),
	}
}

func matchFamily(ipv6 bool) word {
	name, family := "ipv4", byte(unix.NFPROTO_IPV4)
	if ipv6 {
		name, family = "ipv6", unix.NFPROTO_IPV6
	}
	return word{"meta nfproto " + name, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{family}},
	}}
}

var matchTCP = word{"meta l4proto tcp", []expr.Any{
	&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
	&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_TCP}},
}}

// matchInterface matches the name of the interface a packet came in by (iifname) or leaves by (oifname).
func matchInterface(which, name string) word {
	key := expr.MetaKeyIIFNAME
	if which == "oifname" {
		key = expr.MetaKeyOIFNAME
	}
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return word{fmt.Sprintf("%s %s", which, name), []expr.Any{
		&expr.Meta{Key: key, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: data},
	}}
}

// Bits of conntrack's state and status (linux/netfilter/nf_conntrack_common.h).
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	stateUntracked   = 1 << 6
	statusDNAT       = 1 << 5
)

func matchConntrack(text string, key expr.CtKey, bits uint32) word {
	return word{text, []expr.Any{
		&expr.Ct{Key: key, Register: firstRegister},
		&expr.Bitwise{
			SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
	}}
}

var (
	matchEstablished = matchConntrack("ct state established,related", expr.CtKeySTATE, stateEstablished|stateRelated)
	// What our own rules keep from conntrack goes through a namespace's refusals as quickly as what it knows.
	matchSettled    = matchConntrack("ct state established,related,untracked", expr.CtKeySTATE, stateEstablished|stateRelated|stateUntracked)
	matchTranslated = matchConntrack("ct status dnat", expr.CtKeySTATUS, statusDNAT)

	masquerade = word{"masquerade", []expr.Any{&expr.Masq{}}}
	resetTCP   = word{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
	accept     = word{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	drop       = word{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}
)

// matchLocal matches what is sent to an address of this host.
var matchLocal = word{"fib daddr type local", []expr.Any{
	&expr.Fib{Register: firstRegister, FlagDADDR: true, ResultADDRTYPE: true},
	&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
}}

// matchNeighbours matches the questions and answers by which IPv6 finds its neighbours (RFC 4861).
var matchNeighbours = word{"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }", []expr.Any{
	&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
	&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_ICMPV6}},
	&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
	&expr.Range{Op: expr.CmpOpEq, Register: firstRegister, FromData: []byte{135}, ToData: []byte{136}},
}}

func setPacketMark(mark uint32) word {
	return word{fmt.Sprintf("meta mark set %#x", mark), []expr.Any{
		&expr.Immediate{Register: firstRegister, Data: binary.NativeEndian.AppendUint32(nil, mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister, SourceRegister: true},
	}}
}

// inPrefix compares the address in the first registers.
func inPrefix(prefix netip.Prefix) []expr.Any {
	prefix = prefix.Masked()
	n := prefix.Addr().BitLen() / 8
	mask := make([]byte, n)
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: uint32(n), Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: prefix.Addr().AsSlice()},
	}
}

func matchSource(prefix netip.Prefix) word {
	source, name := loadSourceIPv4, "ip"
	if prefix.Addr().Is6() {
		source, name = loadSourceIPv6, "ip6"
	}
	family := matchFamily(prefix.Addr().Is6())
	exprs := append(slices.Clone(family.exprs), source.into(firstRegister))
	return word{fmt.Sprintf("%s %s saddr %s", family.text, name, prefix), append(exprs, inPrefix(prefix)...)}
}

// matchAnswerer matches connections of a subnet's family whose answers come from it: their client need not know
// it, if they were translated.
func matchAnswerer(subnet netip.Prefix) word {
	name, key := "ip", uint32(unix.NFT_CT_SRC_IP)
	if subnet.Addr().Is6() {
		name, key = "ip6", unix.NFT_CT_SRC_IP6
	}
	return word{fmt.Sprintf("ct reply %s saddr %s", name, subnet.Masked()), append([]expr.Any{rawExpr{name: "ct", attrs: []netlink.Attribute{
		number(unix.NFTA_CT_KEY, key),
		number(unix.NFTA_CT_DREG, firstRegister),
		{Type: unix.NFTA_CT_DIRECTION, Data: []byte{1}},
	}}}, inPrefix(subnet)...)}
}
