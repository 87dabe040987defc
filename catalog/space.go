package catalog

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// Space is the IPv4 addresses of a network: its first subnet, and those that it has grown by. An
// address has an index, which counts from the first address of its subnet; each subnet has a slot,
// and with it 2^24 indexes and as many numbers of blocks to itself. So what was given out stays
// what it was when the network grows, also where two halves of a mesh let it grow differently. The
// same index counted from the first address of Subnet6 makes the IPv6 address.
type Space []Range

// Range is one subnet of a Space.
type Range struct {
	Slot   uint32 // 0 is the first subnet's
	Subnet netip.Prefix
	Layout Layout
}

const (
	slotBits   = 24 // of an index within a slot: a /8
	slots      = 1 << (32 - slotBits)
	maxGrowths = 32 // of one network
)

func spaceOf(first netip.Prefix, more ...Growth) Space {
	s := Space{{Subnet: first, Layout: LayoutOf(first)}}
	for _, g := range more {
		s = append(s, Range{g.Slot, g.Subnet4, LayoutOf(g.Subnet4)})
	}
	return s
}

// in returns the range of an index, or of a block's number, and the rest of it within that.
func (s Space) in(number uint32) (r Range, rest uint32) {
	for _, r := range s {
		if r.Slot == number>>slotBits {
			return r, number & (1<<slotBits - 1)
		}
	}
	return Range{}, 0
}

func (r Range) number(rest uint32) uint32 { return r.Slot<<slotBits | rest }

// Index returns the index of the address at an offset from the first of the range's subnet.
func (r Range) Index(offset uint32) uint32 { return r.number(offset) }

// BlockOf returns the block that index lies in; false if it is no endpoint's address.
func (s Space) BlockOf(index uint32) (uint32, bool) {
	r, rest := s.in(index)
	block, ok := r.Layout.BlockOf(rest)
	return r.number(block), ok
}

// Range returns the indexes of a block that may be given out: [first, end). It is empty for
// the first block of very small subnets and for blocks that do not exist.
func (s Space) Range(block uint32) (first, end uint32) {
	r, rest := s.in(block)
	first, end = r.Layout.Range(rest)
	return r.number(first), r.number(end)
}

// Blocks goes through the numbers of all blocks, those of the first subnet first.
func (s Space) Blocks() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for _, r := range s {
			for b := range r.Layout.Blocks {
				if !yield(r.number(b)) {
					return
				}
			}
		}
	}
}

// IsVIP says whether index is in a range of virtual IPs.
func (s Space) IsVIP(index uint32) bool {
	r, rest := s.in(index)
	return r.Layout.IsVIP(rest)
}

// nextVIP returns the virtual IP after one, going round all subnets.
func (s Space) nextVIP(index uint32) uint32 {
	r, rest := s.in(index)
	if rest++; rest < r.Layout.VIPEnd {
		return r.number(rest)
	}
	at := slices.IndexFunc(s, func(other Range) bool { return other.Slot == r.Slot })
	r = s[(at+1)%len(s)]
	return r.number(r.Layout.VIPFirst)
}

// vips is how many virtual IPs there are.
func (s Space) vips() (count uint32) {
	for _, r := range s {
		count += r.Layout.VIPEnd - r.Layout.VIPFirst
	}
	return count
}

// Address returns the IPv4 address of an index; the zero Addr if there is none.
func (s Space) Address(index uint32) netip.Addr {
	r, rest := s.in(index)
	return AddressAt(r.Subnet, rest)
}

// Subnets returns the subnets, the first one first.
func (s Space) Subnets() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range s {
		out = append(out, r.Subnet)
	}
	return out
}

// SubnetOf returns the subnet that holds an address; the zero Prefix if none does.
func (s Space) SubnetOf(a netip.Addr) netip.Prefix {
	for _, r := range s {
		if r.Subnet.Contains(a) {
			return r.Subnet
		}
	}
	return netip.Prefix{}
}

// checkGrowths says what is wrong with the subnets that a network has grown by.
func (n NetworkRecord) checkGrowths() error {
	if len(n.More) > maxGrowths {
		return fmt.Errorf("%d further subnets, more than %d", len(n.More), maxGrowths)
	}
	for i, g := range n.More {
		if err := checkSubnet4(g.Subnet4); err != nil {
			return err
		}
		if g.Slot == 0 || g.Slot >= slots {
			return fmt.Errorf("slot %d is not 1 to %d", g.Slot, slots-1)
		}
		for _, h := range n.More[:i] {
			if h.Slot == g.Slot || h.Subnet4.Overlaps(g.Subnet4) {
				return fmt.Errorf("further subnets %s and %s have one slot, or overlap", h.Subnet4, g.Subnet4)
			}
		}
	}
	return nil
}

// growthSubnets returns the subnets that the network has grown by.
func (n NetworkRecord) growthSubnets() []netip.Prefix {
	var out []netip.Prefix
	for _, g := range n.More {
		out = append(out, g.Subnet4)
	}
	return out
}

// GrowthRequest is what is asked of a network that is to grow.
type GrowthRequest struct {
	Name      string
	Subnet    netip.Prefix   // IPv4; the zero Prefix: one is chosen
	Pools     []netip.Prefix // IPv4 ranges that subnets are cut from
	PrefixLen int            // of a subnet that is chosen: 8 to 29
	Avoid     []netip.Prefix // what a chosen subnet must not overlap
	Now       Millis
}

// GrowNetwork makes the record by which a network has one more IPv4 subnet, to be signed and merged.
// What it had stays as it was. Errors wrap ErrNotFound, ErrOverlap, ErrInvalid or ErrNoRoom.
func (v *View) GrowNetwork(req GrowthRequest) (NetworkRecord, error) {
	n, ok := v.Network(req.Name)
	if !ok {
		return NetworkRecord{}, refuse(ErrNotFound, "network %s does not exist: see meshd network ls", req.Name)
	}
	if len(n.Space) > maxGrowths {
		return NetworkRecord{}, refuse(ErrNoRoom, "network %s has %d subnets, and cannot have more: make another network", req.Name, len(n.Space))
	}
	subnet, err := v.growthSubnet(req, n)
	if err != nil {
		return NetworkRecord{}, fmt.Errorf("network %s: %w", req.Name, err)
	}
	r := v.records[req.Name]
	slot := uint32(hashOf("slot", subnet.String()) % slots)
	for slot == 0 || slices.ContainsFunc(r.More, func(g Growth) bool { return g.Slot == slot }) {
		slot = (slot + 1) % slots
	}
	r.More = append(slices.Clone(r.More), Growth{Slot: slot, Subnet4: subnet})
	r.Revision++
	r.Stamp = req.Now
	return r, nil
}

func (v *View) growthSubnet(req GrowthRequest, n Network) (netip.Prefix, error) {
	if !req.Subnet.IsValid() {
		// Whatever number it is the network's: two networks that grow look in different places.
		return v.chooseSubnet4(NetworkRequest{
			Name: fmt.Sprintf("%s %d", req.Name, len(n.Space)), Pools: req.Pools, PrefixLen: req.PrefixLen, Avoid: req.Avoid,
		})
	}
	if !req.Subnet.Addr().Is4() {
		return netip.Prefix{}, refuse(ErrInvalid, "%s is not IPv4: its IPv6 subnet %s has room for all, only IPv4 subnets are added", req.Subnet, n.Subnet6)
	}
	if err := checkSubnet4(req.Subnet); err != nil {
		return netip.Prefix{}, refuse(ErrInvalid, "%v", err)
	}
	if err := v.checkRange(req.Subnet); err != nil {
		return netip.Prefix{}, err
	}
	if slices.ContainsFunc(n.Space.Subnets(), req.Subnet.Overlaps) {
		return netip.Prefix{}, refuse(ErrOverlap, "it has addresses of %s already: give a subnet that it does not have", req.Subnet)
	}
	return req.Subnet, v.checkOverlap(req.Subnet)
}
