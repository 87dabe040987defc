package catalog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/netip"
	"time"
)

// idEncoding is RFC 4648 base32 in lower case without padding: safe in DNS
// labels, file names and Serf names.
var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	idBytes = 16 // of a hash in an id
	idChars = 26 // of their base32 form
)

// NodeIDOf returns the id of the node whose identity key is key.
func NodeIDOf(key ed25519.PublicKey) NodeID { return NodeID(idOf(key)) }

// MeshIDOf returns the id of the mesh whose key is key.
func MeshIDOf(key ed25519.PublicKey) MeshID { return MeshID(idOf(key)) }

// InviteIDOf returns the id of the token whose invite key is key.
func InviteIDOf(key ed25519.PublicKey) string { return idOf(key) }

func idOf(key []byte) string {
	sum := sha256.Sum256(key)
	return idEncoding.EncodeToString(sum[:idBytes])
}

// idHash returns the bytes of an id, and whether it is one. Only the one
// spelling that idOf makes is an id: 26 characters hold two bits more than 128.
func idHash(id string) ([]byte, bool) {
	if len(id) != idChars {
		return nil, false
	}
	b, err := idEncoding.DecodeString(id)
	if err != nil || idEncoding.EncodeToString(b) != id {
		return nil, false
	}
	return b, true
}

// Valid says whether id is well formed.
func (id NodeID) Valid() bool { _, ok := idHash(string(id)); return ok }

// Valid says whether id is well formed.
func (id MeshID) Valid() bool { _, ok := idHash(string(id)); return ok }

// MeshPrefix returns the unique local prefix (RFC 4193) of a mesh, a /48: fd and the
// first 40 bits of the mesh's id. It is the zero Prefix if mesh is malformed.
//
// The top bit of the fourth 16-bit group tells what an address in it is: 1 a
// host's (MeshAddress), 0 an endpoint's on a network (a network's Subnet6). So no
// network that meshd chooses ever covers a host.
func MeshPrefix(mesh MeshID) netip.Prefix {
	h, ok := idHash(string(mesh))
	if !ok {
		return netip.Prefix{}
	}
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], h)
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// hostBit is set in byte 6 of every host's mesh address.
const hostBit = 0x80

// MeshAddress returns the address of a node inside a mesh: the mesh's prefix, a bit
// that tells hosts from networks, and 79 bits of the node's id. It is the zero Addr
// if either id is malformed.
func MeshAddress(mesh MeshID, node NodeID) netip.Addr {
	p := MeshPrefix(mesh)
	h, ok := idHash(string(node))
	if !p.IsValid() || !ok {
		return netip.Addr{}
	}
	a := p.Addr().As16()
	copy(a[6:], h[:10])
	a[6] |= hostBit
	return netip.AddrFrom16(a)
}

// String returns the key in base64, as wg(8) shows it.
func (k WireGuardKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText returns the key in base64.
func (k WireGuardKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a key in base64; anything but exactly 32 bytes is an error.
func (k *WireGuardKey) UnmarshalText(text []byte) error {
	if len(text) != base64.StdEncoding.EncodedLen(len(k)) {
		return fmt.Errorf("WireGuard key has %d characters, not 44", len(text))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != len(k) {
		return fmt.Errorf("WireGuard key is not base64 of 32 bytes")
	}
	copy(k[:], b)
	return nil
}

// MillisOf returns t in milliseconds since 1970 UTC.
func MillisOf(t time.Time) Millis { return Millis(t.UnixMilli()) }

// Time returns m as a time in UTC.
func (m Millis) Time() time.Time { return time.UnixMilli(int64(m)).UTC() }

// Add returns m moved by d, cut to whole milliseconds.
func (m Millis) Add(d time.Duration) Millis { return m + Millis(d.Milliseconds()) }
