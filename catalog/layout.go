package catalog

import "net/netip"

// Prefix lengths that a network's subnets may have.
const (
	minBits4, maxBits4 = 8, 29
	minBits6, maxBits6 = 64, 96
)

// LayoutOf cuts a network's IPv4 subnet, /8 to /29, into blocks for endpoints and a
// range for virtual IPs, its upper quarter. Blocks grow with the subnet, 3/8 of the
// host bits: a /16 has 768 of 64 addresses, a /24 24 of 8, a /29 3 of 2. It is the
// zero Layout for any other prefix.
func LayoutOf(subnet4 netip.Prefix) Layout {
	if checkSubnet4(subnet4) != nil {
		return Layout{}
	}
	bits := 32 - subnet4.Bits()
	size := uint32(1) << bits
	block := uint32(1) << (bits * 3 / 8)
	vips := size / 4 * 3
	return Layout{Size: size, BlockSize: block, Blocks: vips / block, VIPFirst: vips, VIPEnd: size - 1}
}

// firstIndex is the lowest offset given out: 0 is the subnet's own address, 1 the
// gateway that Docker wants to hear of.
const firstIndex = 2

// BlockOf returns the block that index lies in; false if it is no endpoint's address.
func (l Layout) BlockOf(index uint32) (uint32, bool) {
	if l.BlockSize == 0 || index < firstIndex || index >= l.Blocks*l.BlockSize {
		return 0, false
	}
	return index / l.BlockSize, true
}

// Range returns the addresses of a block that may be given out: [first, end). It is
// empty for the first block of very small networks and for blocks that do not exist.
func (l Layout) Range(block uint32) (first, end uint32) {
	if block >= l.Blocks {
		return 0, 0
	}
	first, end = block*l.BlockSize, (block+1)*l.BlockSize
	return min(max(first, firstIndex), end), end
}

// IsVIP says whether index is in the range of virtual IPs.
func (l Layout) IsVIP(index uint32) bool { return index >= l.VIPFirst && index < l.VIPEnd }

// AddressAt returns the address at an offset from the first of subnet, which is of
// either family; the zero Addr if it lies outside.
func AddressAt(subnet netip.Prefix, index uint32) netip.Addr {
	if !subnet.IsValid() {
		return netip.Addr{}
	}
	b := subnet.Masked().Addr().AsSlice()
	carry := uint64(index)
	for i := len(b) - 1; i >= 0 && carry > 0; i-- {
		carry += uint64(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	if carry > 0 || !subnet.Contains(a) {
		return netip.Addr{}
	}
	return a
}
