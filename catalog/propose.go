package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Reasons why a network cannot be made or removed.
var (
	ErrExists   = errors.New("it exists")
	ErrNotFound = errors.New("it does not exist")
	ErrInUse    = errors.New("it is in use")
	ErrOverlap  = errors.New("subnets overlap")
	ErrInvalid  = errors.New("not allowed")
	ErrNoRoom   = errors.New("there is no room")
)

// refusal is an error that says all in its own words and can be told by its reason.
type refusal struct {
	reason error
	text   string
}

func (r refusal) Error() string { return r.text }
func (r refusal) Unwrap() error { return r.reason }

func refuse(reason error, format string, args ...any) error {
	return refusal{reason, fmt.Sprintf(format, args...)}
}

// NetworkRequest is what is asked of a new network.
type NetworkRequest struct {
	Name      string
	Subnets   []netip.Prefix // asked for: at most one of each family; what is not given is chosen
	Internal  bool
	Labels    map[string]string
	System    bool           // the name may be IngressNetwork, and only that
	Pools     []netip.Prefix // IPv4 ranges that subnets are cut from
	PrefixLen int            // of an IPv4 subnet that is chosen: 8 to 29
	Avoid     []netip.Prefix // what a chosen subnet must not overlap, such as this host's routes
	Now       Millis
}

// ProposeNetwork makes the record of a new network, to be signed and merged. VNI and
// subnets that were not asked for follow from the name, so that hosts that cannot see
// each other make the same choice. Errors wrap ErrExists, ErrOverlap, ErrInvalid or
// ErrNoRoom.
func (v *View) ProposeNetwork(req NetworkRequest) (NetworkRecord, error) {
	if err := v.checkNewName(req); err != nil {
		return NetworkRecord{}, err
	}
	if err := CheckLabels(req.Labels); err != nil {
		return NetworkRecord{}, err
	}
	subnet4, subnet6, err := v.askedSubnets(req)
	if err != nil {
		return NetworkRecord{}, fmt.Errorf("network %s: %w", req.Name, err)
	}
	old := v.records[req.Name] // a tombstone, or nothing
	n := NetworkRecord{
		Register: Register{Revision: old.Revision + 1, Stamp: req.Now},
		Mesh:     v.Mesh,
		Name:     req.Name,
		Created:  req.Now,
		VNI:      v.chooseVNI(req.Name),
		Explicit: len(req.Subnets) > 0,
		Internal: req.Internal,
		Labels:   req.Labels,
		Subnet4:  subnet4,
		Subnet6:  subnet6,
	}
	if !n.Subnet4.IsValid() {
		if n.Subnet4, err = v.chooseSubnet4(req); err != nil {
			return NetworkRecord{}, fmt.Errorf("network %s: %w", req.Name, err)
		}
	}
	if !n.Subnet6.IsValid() {
		if n.Subnet6, err = v.chooseSubnet6(n.VNI, req.Avoid); err != nil {
			return NetworkRecord{}, fmt.Errorf("network %s: %w", req.Name, err)
		}
	}
	return n, nil
}

func (v *View) checkNewName(req NetworkRequest) error {
	if err := checkName("network", req.Name); err != nil {
		return refuse(ErrInvalid, "%v", err)
	}
	if (req.Name == IngressNetwork) != req.System {
		return refuse(ErrInvalid, "the network name %s is reserved for published ports: choose another", req.Name)
	}
	if _, ok := v.Network(req.Name); ok {
		return refuse(ErrExists, "network %s exists already: use it, choose another name, or remove it first with: meshd network rm %s", req.Name, req.Name)
	}
	return nil
}

// RemoveNetwork makes the record by which a network is gone, to be signed and merged.
// Errors wrap ErrNotFound, ErrInUse or ErrInvalid.
func (v *View) RemoveNetwork(name string, now Millis) (NetworkRecord, error) {
	n, ok := v.Network(name)
	switch {
	case name == IngressNetwork:
		return NetworkRecord{}, refuse(ErrInvalid, "network %s carries published ports and cannot be removed", name)
	case !ok:
		return NetworkRecord{}, refuse(ErrNotFound, "network %s does not exist: see meshd network ls", name)
	case len(n.Endpoints) > 0:
		e := n.Endpoints[0]
		m, _ := v.Member(e.Node)
		return NetworkRecord{}, refuse(ErrInUse, "network %s is in use by %d endpoints, such as %s on host %s: detach them first (meshd endpoint ls)",
			name, len(n.Endpoints), e.ID, m.Name)
	}
	r := v.records[name]
	r.Revision++
	r.Stamp = now
	r.Deleted = true
	r.More = nil
	return r, nil
}

// askedSubnets checks the subnets asked for and tells them apart by family.
func (v *View) askedSubnets(req NetworkRequest) (subnet4, subnet6 netip.Prefix, err error) {
	for _, p := range req.Subnets {
		if p.Addr().Is4In6() {
			return subnet4, subnet6, refuse(ErrInvalid, "%s is an IPv4 subnet in IPv6 form: write it as IPv4", p)
		}
		into, check, family := &subnet4, checkSubnet4, "IPv4"
		if p.Addr().Is6() {
			into, check, family = &subnet6, checkSubnet6, "IPv6"
		}
		if into.IsValid() {
			return subnet4, subnet6, refuse(ErrInvalid, "%s and %s are both %s: give at most one subnet of each family", *into, p, family)
		}
		if err := check(p); err != nil {
			return subnet4, subnet6, refuse(ErrInvalid, "%v", err)
		}
		if err := v.checkRange(p); err != nil {
			return subnet4, subnet6, err
		}
		if err := v.checkOverlap(p); err != nil {
			return subnet4, subnet6, err
		}
		*into = p
	}
	return subnet4, subnet6, nil
}

// special is what no network can use: this host, link-local, multicast, and the like.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/64"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

func (v *View) checkRange(p netip.Prefix) error {
	if slices.ContainsFunc(special, p.Overlaps) {
		return refuse(ErrInvalid, "%s has a special meaning and cannot carry a network: use one inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8", p)
	}
	if hosts := hostRange(v.Mesh); p.Overlaps(hosts) {
		return refuse(ErrInvalid, "%s covers the addresses of the mesh's own hosts, %s: use another", p, hosts)
	}
	return nil
}

// checkOverlap refuses a subnet that shares some, but not all, of its addresses with
// another network's: that is a slip of the pen. The same subnet is fine, as networks are isolated.
func (v *View) checkOverlap(p netip.Prefix) error {
	for _, n := range v.Networks {
		for _, q := range append(n.Space.Subnets(), n.Subnet6) {
			if p.Overlaps(q) && p != q {
				return refuse(ErrOverlap, "subnet %s overlaps %s of network %s: use one that does not, or exactly that one", p, q, n.Name)
			}
		}
	}
	return nil
}

// hostRange is where the addresses of a mesh's hosts lie; networks have the other half
// of the mesh's prefix.
func hostRange(mesh MeshID) netip.Prefix {
	p := MeshPrefix(mesh)
	if !p.IsValid() {
		return p
	}
	a := p.Addr().As16()
	a[6] |= hostBit
	return netip.PrefixFrom(netip.AddrFrom16(a), 49)
}

func hashOf(parts ...string) uint64 {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write([]byte(p + "\x00")) // never fails
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func (v *View) chooseVNI(name string) uint32 {
	taken := map[uint32]bool{}
	for _, n := range v.Networks {
		taken[n.VNI] = true
	}
	return freeVNI(uint32(hashOf("vni", name)%maxVNI)+1, taken)
}

// chooseSubnet4 takes the first free subnet of the pools, from one on that follows from the name.
func (v *View) chooseSubnet4(req NetworkRequest) (netip.Prefix, error) {
	if req.PrefixLen < minBits4 || req.PrefixLen > maxBits4 {
		return netip.Prefix{}, refuse(ErrInvalid, "network_prefix %d: use %d to %d", req.PrefixLen, minBits4, maxBits4)
	}
	taken := slices.Clone(req.Avoid)
	for _, n := range v.Networks {
		taken = append(taken, n.Space.Subnets()...)
	}
	taken = slices.DeleteFunc(taken, func(p netip.Prefix) bool { return p.Bits() <= 0 }) // a default route
	var total uint64
	for _, pool := range req.Pools {
		total += poolSize(pool, req.PrefixLen)
	}
	if total == 0 {
		return netip.Prefix{}, refuse(ErrNoRoom, "address_pools %v hold no IPv4 /%d: add a larger range, or give --subnet", req.Pools, req.PrefixLen)
	}
	start := hashOf("subnet", req.Name) % total
	for i := range total {
		p := poolSubnet(req.Pools, req.PrefixLen, (start+i)%total)
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, refuse(ErrNoRoom, "no /%d in address_pools %v is free: add a range, or give --subnet", req.PrefixLen, req.Pools)
}

// poolSize is the number of subnets of that length in a pool.
func poolSize(pool netip.Prefix, bits int) uint64 {
	if !pool.IsValid() || !pool.Addr().Is4() || pool.Bits() > bits {
		return 0
	}
	return 1 << (bits - pool.Bits())
}

// poolSubnet returns the i-th subnet of all pools together.
func poolSubnet(pools []netip.Prefix, bits int, i uint64) netip.Prefix {
	for _, pool := range pools {
		size := poolSize(pool, bits)
		if i < size {
			return netip.PrefixFrom(AddressAt(pool, uint32(i<<(32-bits))), bits)
		}
		i -= size
	}
	return netip.Prefix{}
}

// chooseSubnet6 takes a /64 of the networks' half of the mesh's prefix, by VNI.
func (v *View) chooseSubnet6(vni uint32, avoid []netip.Prefix) (netip.Prefix, error) {
	taken := slices.Clone(avoid)
	for _, n := range v.Networks {
		taken = append(taken, n.Subnet6)
	}
	// A host has a route for the mesh as a whole: that does not stand in the way.
	taken = slices.DeleteFunc(taken, func(p netip.Prefix) bool { return p.Bits() <= 48 })
	a := MeshPrefix(v.Mesh).Addr().As16()
	const count = hostBit << 8 // of subnets below the host bit
	for i := range uint32(count) {
		binary.BigEndian.PutUint16(a[6:], uint16((vni+i)%count))
		p := netip.PrefixFrom(netip.AddrFrom16(a), 64)
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, refuse(ErrNoRoom, "no IPv6 /64 of %s is free: give --subnet", MeshPrefix(v.Mesh))
}
