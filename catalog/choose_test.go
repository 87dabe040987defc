package catalog

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestLayoutOfEverySize(t *testing.T) {
	for bits := minBits4; bits <= maxBits4; bits++ {
		p := netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), bits)
		l := LayoutOf(p)
		if l.Size != 1<<(32-bits) || l.Blocks*l.BlockSize > l.VIPFirst || l.VIPFirst >= l.VIPEnd || l.VIPEnd != l.Size-1 {
			t.Fatalf("%s: %+v", p, l)
		}
		var end uint32 = firstIndex
		for b := range l.Blocks {
			first, e := l.Range(b)
			if first == e && b == 0 && l.BlockSize <= firstIndex {
				continue
			}
			if first != end || e <= first || e > l.VIPFirst {
				t.Fatalf("%s block %d is [%d,%d) after %d", p, b, first, e, end)
			}
			for _, i := range []uint32{first, e - 1} {
				if got, ok := l.BlockOf(i); !ok || got != b || l.IsVIP(i) {
					t.Fatalf("%s: %d is in block %d, not %d", p, i, got, b)
				}
			}
			end = e
		}
		for _, i := range []uint32{0, 1, l.VIPFirst, l.Size - 1} {
			if b, ok := l.BlockOf(i); ok {
				t.Errorf("%s: %d is in block %d", p, i, b)
			}
		}
		if AddressAt(p, l.Size-1) == (netip.Addr{}) || AddressAt(p, l.Size).IsValid() {
			t.Errorf("%s ends elsewhere", p)
		}
	}
	if l := LayoutOf(prefix("10.0.0.0/16")); l.Blocks < 768 || l.BlockSize != 64 {
		t.Errorf("/16: %+v", l)
	}
	if l := LayoutOf(prefix("10.0.0.0/24")); l.Blocks < 8 {
		t.Errorf("/24: %+v", l)
	}
	if LayoutOf(prefix("10.0.0.0/30")) != (Layout{}) || LayoutOf(prefix("fd00::/64")) != (Layout{}) {
		t.Error("a layout of what cannot be a network")
	}
	if a := AddressAt(prefix("fd00::/64"), 0x10203); a != netip.MustParseAddr("fd00::1:203") {
		t.Error(a)
	}
}

func request(name string, subnets ...string) NetworkRequest {
	r := NetworkRequest{Name: name, Pools: []netip.Prefix{prefix("10.0.0.0/8")}, PrefixLen: 16, Now: testNow}
	for _, s := range subnets {
		r.Subnets = append(r.Subnets, prefix(s))
	}
	return r
}

func TestProposeNetworkChooses(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding())
	one, err := c.View().ProposeNetwork(request("appnet"))
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := New(w.mesh).View().ProposeNetwork(request("appnet")); again.VNI != one.VNI || again.Subnet4 != one.Subnet4 || again.Subnet6 != one.Subnet6 {
		t.Errorf("another host chooses %+v, not %+v", again, one)
	}
	if !MeshPrefix(w.mesh).Contains(one.Subnet6.Addr()) || one.Subnet6.Overlaps(hostRange(w.mesh)) || one.Subnet6.Bits() != 64 {
		t.Errorf("IPv6 subnet %s", one.Subnet6)
	}
	if !hostRange(w.mesh).Contains(MeshAddress(w.mesh, nodeID("a"))) {
		t.Error("a host is outside the hosts' half")
	}
	avoiding := request("appnet")
	avoiding.Avoid = []netip.Prefix{one.Subnet4, prefix("0.0.0.0/0"), prefix("::/0"), MeshPrefix(w.mesh)}
	if other, err := c.View().ProposeNetwork(avoiding); err != nil || other.Subnet4 == one.Subnet4 {
		t.Errorf("avoiding: %v %v", other, err)
	}
	if six, err := c.View().ProposeNetwork(request("six", "fd12::/64")); err != nil || !six.Subnet4.IsValid() || six.Subnet6 != prefix("fd12::/64") || !six.Explicit {
		t.Errorf("IPv6 given: %+v %v", six, err)
	}
	sys := request(IngressNetwork)
	sys.System = true
	if _, err := c.View().ProposeNetwork(sys); err != nil {
		t.Error(err)
	}
}

func TestProposeNetworkRefuses(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), []Record{w.network("a", "n")}) // 10.1.0.0/16
	if n, err := c.View().ProposeNetwork(request("same", "10.1.0.0/16")); err != nil || n.VNI == 7 {
		t.Errorf("the same subnet: %+v %v", n, err)
	}
	noPool, full := request("x"), request("x")
	noPool.Pools = []netip.Prefix{prefix("fd00::/8"), prefix("10.0.0.0/24")}
	full.Pools = []netip.Prefix{prefix("10.1.0.0/16")}
	small := request("x")
	small.PrefixLen = 30
	mesh := MeshPrefix(w.mesh).Addr().As16()
	mesh[6] = 0x80
	for _, tc := range []struct {
		req  NetworkRequest
		is   error
		want string
	}{
		{request("n"), ErrExists, "exists already"},
		{request("ingress"), ErrInvalid, "reserved"},
		{request(""), ErrInvalid, "needs a name"},
		{request("App"), ErrInvalid, "a-z"},
		{request("-a"), ErrInvalid, "both ends"},
		{request(strings.Repeat("a", 64)), ErrInvalid, "at most 63"},
		{request("x", "10.1.2.0/24"), ErrOverlap, "10.1.0.0/16 of network n"},
		{request("x", "10.0.0.0/8"), ErrOverlap, "overlaps"},
		{request("x", "fd00::/64", "fd01::/64"), ErrInvalid, "both IPv6"},
		{request("x", "10.2.0.0/16", "10.3.0.0/16"), ErrInvalid, "both IPv4"},
		{request("x", "10.2.3.4/16"), ErrInvalid, "use 10.2.0.0/16"},
		{request("x", "10.2.0.0/30"), ErrInvalid, "/8 to /29"},
		{request("x", "fd01::/48"), ErrInvalid, "/64 to /96"},
		{request("x", "127.0.0.0/16"), ErrInvalid, "special"},
		{request("x", netip.PrefixFrom(netip.AddrFrom16(mesh), 64).String()), ErrInvalid, "own hosts"},
		{noPool, ErrNoRoom, "address_pools"},
		{full, ErrNoRoom, "is free"},
		{small, ErrInvalid, "network_prefix"},
	} {
		_, err := c.View().ProposeNetwork(tc.req)
		if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %v: %v", tc.req.Name, tc.req.Subnets, err)
		}
	}
}

func TestRemoveNetwork(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), []Record{w.network("a", "n"), w.network("a", "ingress", func(n *NetworkRecord) { n.VNI = 8 })},
		[]Record{w.host("a", onNetwork("n", 64, 2, ""))})
	for name, want := range map[string]error{"x": ErrNotFound, "n": ErrInUse, "ingress": ErrInvalid} {
		if _, err := c.View().RemoveNetwork(name, testNow); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.Merge(testNow, w.document("a", func(d *Document) { d.Sequence = 9 }))
	gone, err := c.View().RemoveNetwork("n", testNow)
	if err != nil {
		t.Fatal(err)
	}
	c.Merge(testNow, mustSign(t, keyOf("a"), KindNetwork, gone))
	if _, ok := c.View().Network("n"); ok {
		t.Error("it is still there")
	}
	back, err := c.View().ProposeNetwork(request("n"))
	if err != nil || back.Revision != 3 {
		t.Fatalf("%+v %v", back, err)
	}
	c.Merge(testNow, mustSign(t, keyOf("a"), KindNetwork, back))
	if _, ok := c.View().Network("n"); !ok {
		t.Error("it does not come back")
	}
}

func TestNextClaimTakesHomeBlocks(t *testing.T) {
	w := newWorld(t)
	small := w.network("a", "n", func(n *NetworkRecord) { n.Subnet4 = prefix("10.1.0.0/24") })
	c := w.filled(w.founding(), w.join("a", "b"), []Record{small, w.document("a")})
	// Two hosts that do not hear of each other do not claim the same blocks while they have homes.
	claimed := map[uint32]string{}
	for _, node := range []string{"a", "b"} {
		blocks := w.claimAll(c, node, 6)
		for _, b := range blocks {
			if other := claimed[b]; other != "" {
				t.Errorf("%s claims %d like %s", node, b, other)
			}
			claimed[b] = node
		}
	}
	all := w.claimAll(c, "a", 1000)
	if uint32(len(all)) != LayoutOf(prefix("10.1.0.0/24")).Blocks {
		t.Errorf("%d blocks", len(all))
	}
	if _, ok := c.View().NextClaim("x", nodeID("a"), testNow); ok {
		t.Error("a claim on nothing")
	}
}

// claimAll claims up to count blocks for a node, which hears of nobody else's.
func (w *world) claimAll(c *Catalog, node string, count int) (blocks []uint32) {
	alone := w.filled(c.Records())
	for seq := range count {
		b, ok := alone.View().NextClaim("n", nodeID(node), testNow)
		if !ok {
			return blocks
		}
		blocks = append(blocks, b)
		alone.Merge(testNow, w.document(node, func(d *Document) {
			d.Sequence = uint64(seq) + 2
			for _, b := range sorted(blocks) {
				d.Claims = append(d.Claims, Claim{"n", b, testNow})
			}
		}))
	}
	return blocks
}

func TestFreeIndex(t *testing.T) {
	w := newWorld(t)
	tiny := w.network("a", "n", func(n *NetworkRecord) { n.Subnet4 = prefix("10.1.0.0/26") }) // blocks of 4
	c := w.filled(w.founding(), []Record{tiny, w.host("a", onNetwork("n", 2, 0, ""), onNetwork("n", 9, 2, ""))})
	none := func(uint32) bool { return false }
	v, a := c.View(), nodeID("a")
	if i, ok := v.FreeIndex("n", a, none); !ok || i != 2 {
		t.Errorf("%d %v", i, ok)
	}
	if i, ok := v.FreeIndex("n", a, func(i uint32) bool { return i < 4 }, 8, 10); !ok || i != 11 {
		t.Errorf("%d %v", i, ok)
	}
	if _, ok := v.FreeIndex("n", a, none, 2, 3, 8, 10, 11); ok {
		t.Error("gave out a recent one")
	}
	if n := v.CountFree("n", a, none); n != 5 {
		t.Errorf("%d free", n)
	}
	if n := v.CountFree("n", nodeID("b"), none); n != 0 {
		t.Errorf("%d free to somebody else", n)
	}
}

func TestChooseVIP(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), []Record{w.network("a", "n")})
	index, stamp, existing := c.View().ChooseVIP("n", "db")
	if !LayoutOf(prefix("10.1.0.0/16")).IsVIP(index) || stamp != 0 || existing {
		t.Fatal(index, stamp, existing)
	}
	vip := func(service string) placing {
		return func(d *Document) {
			onNetwork("n", 64, 1, service)(d)
			d.Endpoints[0].Attachments[0].VIP, d.Endpoints[0].Attachments[0].VIPStamp = index, 5
		}
	}
	c.Merge(testNow, w.host("a", vip("db")))
	if i, s, existing := c.View().ChooseVIP("n", "db"); i != index || s != 5 || !existing {
		t.Error(i, s, existing)
	}
	c.Merge(testNow, w.host("a", vip("other"), func(d *Document) { d.Sequence = 2 }))
	if i, _, existing := c.View().ChooseVIP("n", "db"); i == index || existing {
		t.Error("took another service's")
	}
	if i, _, _ := c.View().ChooseVIP("x", "db"); i != 0 {
		t.Error("a virtual IP of nothing")
	}
}

func TestUnacknowledged(t *testing.T) {
	w := newWorld(t)
	c := w.filled(w.founding(), w.join("a", "b"), w.join("a", "c"), []Record{w.evict("a", "c")})
	v := c.View()
	b, _ := v.Member(nodeID("b"))
	later := b.Version
	later.Sequence++
	claim := DocumentVersion{Epoch: 2, Sequence: 3}
	for name, tc := range map[string]struct {
		alive []NodeID
		ack   Ack
		want  int
	}{
		"alone":                       {nil, Ack{}, 0},
		"no word":                     {[]NodeID{nodeID("b")}, Ack{}, 1},
		"acknowledged":                {[]NodeID{nodeID("b")}, Ack{claim, b.Version}, 0},
		"a later one":                 {[]NodeID{nodeID("b")}, Ack{DocumentVersion{Epoch: 3, Sequence: 1}, b.Version}, 0},
		"an older one":                {[]NodeID{nodeID("b")}, Ack{DocumentVersion{Epoch: 2, Sequence: 2}, b.Version}, 1},
		"its document is newer there": {[]NodeID{nodeID("b")}, Ack{claim, later}, 1},
		"the evicted has no say":      {[]NodeID{nodeID("c")}, Ack{}, 0},
		"a stranger":                  {[]NodeID{nodeID("x")}, Ack{}, 1},
	} {
		if got := v.Unacknowledged(claim, tc.alive, map[NodeID]Ack{nodeID("b"): tc.ack}); len(got) != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCheckAdmission(t *testing.T) {
	w := newWorld(t)
	once := w.token("a", "once", func(i *Invite) { i.Uses = 1 })
	c := w.filled(w.founding(), []Record{w.signer("a", "s"), w.certificate("a", "b", "once", once), w.evict("a", "e"), w.evict("a", "s"),
		mustSign(t, keyOf("a"), KindRevocation, Revocation{Mesh: w.mesh, Token: InviteIDOf(pub(keyOf("back")))})})
	other := *w
	other.mesh = MeshIDOf(pub(keyOf("other")))
	forged := w.token("a", "tok")
	forged.Author = pub(keyOf("s"))
	for name, tc := range map[string]struct {
		node, key string
		token     Record
		want      error
	}{
		"welcome":          {"x", "tok", w.token("a", "tok"), nil},
		"unknown here":     {"x", "new", w.token("a", "new"), nil},
		"used by another":  {"x", "once", once, ErrUsedUp},
		"used by itself":   {"b", "once", once, nil},
		"expired":          {"x", "t", w.token("a", "t", func(i *Invite) { i.Expires = testNow }), ErrExpired},
		"taken back":       {"x", "back", w.token("a", "back"), ErrRevoked},
		"signer evicted":   {"x", "t", w.token("s", "t"), ErrRevoked},
		"by a non-signer":  {"x", "t", w.token("b", "t"), ErrUnknownSigner},
		"another mesh":     {"x", "t", other.token("a", "t"), ErrOtherMesh},
		"another key":      {"x", "u", w.token("a", "t"), ErrInvite},
		"evicted":          {"e", "tok", w.token("a", "tok"), ErrEvicted},
		"forged":           {"x", "tok", forged, ErrSignature},
		"not a token":      {"x", "tok", w.document("a"), ErrMalformed},
		"no record at all": {"x", "tok", Record{}, ErrMalformed},
	} {
		n := pub(keyOf(tc.node))
		err := CheckAdmission(c.View(), Admission{Token: tc.token, Node: n, Now: testNow, Invite: ed25519.Sign(keyOf(tc.key), InviteMessage(w.mesh, n))})
		if !errors.Is(err, tc.want) || tc.want != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	states := fmt.Sprint(len(c.View().Tokens))
	if states != "1" { // only records of their own are listed, not those within certificates
		t.Errorf("%s tokens", states)
	}
}

func TestUsage(t *testing.T) {
	space := spaceOf(prefix("10.0.0.0/24")) // 24 blocks of 8, the first without its first two
	for _, tc := range []struct {
		blocks map[uint32]NodeID
		want   float64
	}{
		{nil, 0},
		{map[uint32]NodeID{0: "a"}, 6.0 / 190},
		{map[uint32]NodeID{1: "a", 2: "b"}, 16.0 / 190},
	} {
		if got := (Network{Space: space, Blocks: tc.blocks}).Usage(); got != tc.want {
			t.Errorf("blocks %v: usage %v, want %v", tc.blocks, got, tc.want)
		}
	}
	if got := (Network{}).Usage(); got != 1 {
		t.Errorf("a network without addresses: usage %v", got)
	}
}
