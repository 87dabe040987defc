package agent

import (
	"context"
	"math"
	"net/netip"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/plugin/docker"
)

// Reserve promises an address on a network to an endpoint to come: want, or any if want is
// the zero Addr. It is held until Release, or until an endpoint is attached with it.
func (s *session) Reserve(ctx context.Context, network string, want netip.Addr) (docker.Address, error) {
	view := s.store.View()
	n, ok := view.Network(network)
	if !ok || network == catalog.IngressNetwork {
		return docker.Address{}, noNetwork(view, network)
	}
	var index uint32
	hold := func(i uint32) error {
		index = i
		s.locals.Reserve(network, i)
		return nil
	}
	var err error
	if want.IsValid() {
		at, found := indexOf(n, want)
		if !found {
			return docker.Address{}, invalid("address %s is outside network %s, which has %s and %s", want, network, n.Subnet4, n.Subnet6)
		}
		err = s.addresses.AllocateAt(ctx, network, at, hold)
	} else {
		err = s.addresses.Allocate(ctx, network, hold)
	}
	if err != nil {
		return docker.Address{}, err
	}
	return addressAt(n, index), nil
}

// Release takes Reserve back. It is no error if nothing was reserved.
func (s *session) Release(network string, address netip.Addr) {
	if n, ok := s.store.View().Network(network); ok {
		if index, ok := indexOf(n, address); ok {
			s.locals.Unreserve(network, index)
		}
	}
}

func addressAt(n catalog.Network, index uint32) docker.Address {
	four := n.Space.Address(index)
	return docker.Address{
		IP4: netip.PrefixFrom(four, n.Space.SubnetOf(four).Bits()),
		IP6: netip.PrefixFrom(catalog.AddressAt(n.Subnet6, index), n.Subnet6.Bits()),
	}
}

// indexOf is the index of an address of either family on the network.
func indexOf(n catalog.Network, address netip.Addr) (uint32, bool) {
	if address.Is6() {
		index, ok := offset(n.Subnet6, address)
		return index, ok && n.Space.Address(index).IsValid()
	}
	for _, r := range n.Space {
		if rest, ok := offset(r.Subnet, address); ok {
			return r.Index(rest), true
		}
	}
	return 0, false
}

// offset counts an address from the first of its subnet.
func offset(subnet netip.Prefix, address netip.Addr) (uint32, bool) {
	if !subnet.Contains(address) {
		return 0, false
	}
	raw, base := address.AsSlice(), subnet.Masked().Addr().AsSlice()
	var n uint64
	for i := range raw {
		n = n<<8 | uint64(raw[i]^base[i]) // the host's bits, as the network's are the same
	}
	return uint32(n), n <= math.MaxUint32
}

// ask notes the address that a request asks for on a network.
func (l *Local) ask(n catalog.Network, ip string) error {
	if ip == "" {
		return nil
	}
	address, err := netip.ParseAddr(ip)
	if err != nil {
		return invalid("address %q is no IP address", ip)
	}
	index, ok := indexOf(n, address)
	if !ok {
		return invalid("address %s is outside network %s, which has %s and %s", ip, n.Name, n.Subnet4, n.Subnet6)
	}
	l.Asked = catalog.Attachment{Network: n.Name, Index: index}
	return nil
}

// place gives an endpoint its address on a network: the one that was reserved for it, the
// one that it asks for, or any.
func (s *session) place(ctx context.Context, l Local, network string, hold func(index uint32) error) error {
	if l.Asked.Network != network {
		return s.addresses.Allocate(ctx, network, hold)
	}
	index := l.Asked.Index
	if !s.locals.Reserved(network, index) {
		return s.addresses.AllocateAt(ctx, network, index, hold)
	}
	if err := hold(index); err != nil {
		return err
	}
	s.locals.Unreserve(network, index)
	return nil
}
