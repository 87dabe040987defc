package catalog

import (
	"crypto/ed25519"
	"net/netip"
)

// A Kind tells what a record's body is.
type Kind string

const (
	KindSigner      Kind = "signer"      // a key that may create tokens, evict, and certify signers
	KindToken       Kind = "token"       // an invite key, signed by a signer
	KindCertificate Kind = "certificate" // a node's membership
	KindDocument    Kind = "document"    // what one node says of itself; only its owner writes it
	KindNetwork     Kind = "network"     // a network: a last-writer-wins register by name
	KindService     Kind = "service"     // what was set for a service: a register by network and name
	KindRevocation  Kind = "revocation"  // a node, or a token, that is shut out for ever
)

// Record is the unit that is stored, sent and signed. Body holds the very
// bytes that were signed (JSON of the type named by Kind), so that nobody ever
// has to encode them again to check them.
type Record struct {
	Kind      Kind              `json:"kind"`
	Body      []byte            `json:"body"`
	Author    ed25519.PublicKey `json:"author"`
	Signature []byte            `json:"signature"`
}

// NodeID is a node's identity: 26 characters of lower-case base32, the first 128
// bits of the SHA-256 of its Ed25519 public key. It is the node's Serf name.
type NodeID string

// MeshID is a mesh's identity, made of the mesh key as a NodeID of a node's.
type MeshID string

// Millis is a point in time: milliseconds since 1970 UTC by its author's clock.
type Millis int64

// Signer is the body of a KindSigner record. Its author is the mesh key or
// another valid signer. A node is a signer if a valid Signer names its key.
type Signer struct {
	Mesh   MeshID            `json:"mesh"`
	Key    ed25519.PublicKey `json:"key"` // the node's identity key
	Issued Millis            `json:"issued"`
}

// Invite is the body of a KindToken record, signed by a signer: whoever holds
// the private half of Key may join. The private half is never in a record.
type Invite struct {
	ID      string            `json:"id"` // made of Key as a NodeID of a node's
	Mesh    MeshID            `json:"mesh"`
	Key     ed25519.PublicKey `json:"key"`
	Created Millis            `json:"created"`
	Expires Millis            `json:"expires"`          // 0: never
	Uses    int               `json:"uses"`             // 0: any number
	Signer  bool              `json:"signer,omitempty"` // who joins with it becomes a signer
}

// Certificate is the body of a KindCertificate record: a node's proof of
// membership. Its author is the sponsor, the member that let the node in; a signer
// may sponsor itself with a token of its own, which is how a mesh begins.
type Certificate struct {
	Mesh   MeshID            `json:"mesh"`
	Node   ed25519.PublicKey `json:"node"`
	Token  Record            `json:"token"`  // the KindToken record it was let in with
	Invite []byte            `json:"invite"` // signature by Token's key over InviteMessage(Mesh, Node)
	Signed Millis            `json:"signed"` // the sponsor's time
}

// Document is the body of a KindDocument record: all that a node says of
// itself. Its author is the node. It is replaced whole; of two, the one with the
// higher (Epoch, Sequence, hash of the body) stands.
type Document struct {
	Mesh       MeshID           `json:"mesh"`
	Epoch      uint64           `json:"epoch"`    // a new one at each start of the agent, from 1
	Sequence   uint64           `json:"sequence"` // counts changes within the epoch, from 1
	Stamp      Millis           `json:"stamp"`
	Instance   string           `json:"instance,omitempty"` // of the run of the agent that wrote it, random
	Follows    string           `json:"follows,omitempty"`  // the run whose document it went on from
	Name       string           `json:"name"`               // the hostname, or node.name
	Version    string           `json:"version"`            // of meshd
	WireGuard  WireGuardKey     `json:"wireguard"`          // the public key
	Candidates []netip.AddrPort `json:"candidates"`         // where WireGuard may be reached, best first
	MTU        int              `json:"mtu"`                // bytes that fit the WireGuard device without being cut on the underlay
	Left       bool             `json:"left,omitempty"`
	Routes     []netip.Prefix   `json:"routes,omitempty"`    // what its host reaches by routes of its own: see SummarizeRoutes
	Claims     []Claim          `json:"claims,omitempty"`    // sorted by network, block
	Endpoints  []Endpoint       `json:"endpoints,omitempty"` // sorted by ID
	Occupied   []Port           `json:"occupied,omitempty"`  // published ports that a process of the host has; sorted by protocol, number
}

// WireGuardKey is a Curve25519 public key; its text form is base64 as in wg(8).
type WireGuardKey [32]byte

// Claim is a node's claim on a block of a network's addresses. Of several
// claims on one block the lowest (Stamp, node) owns it.
type Claim struct {
	Network string `json:"network"`
	Block   uint32 `json:"block"` // index, see Layout
	Stamp   Millis `json:"stamp"`
}

// Health is an endpoint's fitness for service.
type Health string

const (
	Healthy   Health = "healthy"
	Starting  Health = "starting"
	Unhealthy Health = "unhealthy"
)

// Endpoint is one network namespace on one or more networks.
type Endpoint struct {
	ID          string       `json:"id"` // 12 hex digits, random
	Name        string       `json:"name"`
	Service     string       `json:"service,omitempty"`
	Created     Millis       `json:"created"`
	Health      Health       `json:"health"`
	Draining    bool         `json:"draining,omitempty"`
	Reason      string       `json:"reason,omitempty"` // why it is not healthy, in plain words
	Attachments []Attachment `json:"attachments"`      // in the order of interfaces
	Publish     []Publish    `json:"publish,omitempty"`
}

// Attachment is an endpoint's interface on a network.
type Attachment struct {
	Network  string `json:"network"`
	Index    uint32 `json:"index"` // offset of its addresses in the network's subnets
	MAC      string `json:"mac"`
	VIP      uint32 `json:"vip,omitempty"`       // its service's virtual IP as its node sees it: an offset, 0 is none
	VIPStamp Millis `json:"vip_stamp,omitempty"` // when this service got a virtual IP; replicas pass it on
	VIPMoved uint32 `json:"vip_moved,omitempty"` // how often it had to give way to an older service since
	// Aliases are further names of the endpoint on this network, separated by single spaces.
	Aliases string `json:"aliases,omitempty"`
}

// Publish asks for a port on every host.
type Publish struct {
	Published uint16 `json:"published"`
	Target    uint16 `json:"target"`
	Protocol  string `json:"protocol"` // "tcp" or "udp"
	Stamp     Millis `json:"stamp"`    // of two services that want one port, the lowest stamp keeps it
}

// Register orders the writes of a last-writer-wins record: the highest
// (Revision, Stamp, author, hash of the body) stands.
type Register struct {
	Revision uint64 `json:"revision"`
	Stamp    Millis `json:"stamp"`
	Deleted  bool   `json:"deleted,omitempty"` // a tombstone
}

// NetworkRecord is the body of a KindNetwork record. Its author is a member.
type NetworkRecord struct {
	Register
	Mesh     MeshID       `json:"mesh"`
	Name     string       `json:"name"`
	Created  Millis       `json:"created"`
	VNI      uint32       `json:"vni"`                // 1 to 2^24-1 (RFC 7348)
	Subnet4  netip.Prefix `json:"subnet4"`            // always there
	Subnet6  netip.Prefix `json:"subnet6"`            // always there; /64 to /96
	More     []Growth     `json:"more,omitempty"`     // what it has grown by since
	Explicit bool         `json:"explicit,omitempty"` // the subnet was asked for: never moved on a collision
	Internal bool         `json:"internal,omitempty"`
	// Labels are of whoever made it, for engines to show on all hosts; the mesh makes nothing of them.
	Labels map[string]string `json:"labels,omitempty"`
}

// Affinity says which connections of one client go to one replica.
type Affinity string

const (
	AffinityNone     Affinity = ""          // each connection is drawn by itself
	AffinityClientIP Affinity = "client-ip" // all of one address go to one replica, as long as that is in rotation
)

// Prefer says which replicas come first.
type Prefer string

const (
	PreferNone  Prefer = ""      // all are alike
	PreferLocal Prefer = "local" // those of the client's host, else of the nearest by round trip
)

// ServiceRecord is the body of a KindService record: what holds for all replicas of a service, wherever
// they run, also for those to come. Its author is a member. One that says nothing is a tombstone.
type ServiceRecord struct {
	Register
	Mesh     MeshID    `json:"mesh"`
	Network  string    `json:"network"`
	Service  string    `json:"service"`
	Affinity Affinity  `json:"affinity,omitempty"`
	Prefer   Prefer    `json:"prefer,omitempty"`
	Publish  []Publish `json:"publish,omitempty"`  // of all replicas, instead of what they bring for the same port; sorted by protocol, published
	Withdraw []Port    `json:"withdraw,omitempty"` // not published though replicas bring them; none of Publish; sorted by protocol, number
}

// Port is a port as clients see it.
type Port struct {
	Protocol string `json:"protocol"` // "tcp" or "udp"
	Number   uint16 `json:"number"`
}

// Growth is a further IPv4 subnet of a network. It is never moved.
type Growth struct {
	Slot    uint32       `json:"slot"` // 1 to 255, of the network's alone: see Space
	Subnet4 netip.Prefix `json:"subnet4"`
}

// Revocation is the body of a KindRevocation record, signed by a signer. One of Node
// and Token is set. It is only ever added.
type Revocation struct {
	Mesh   MeshID  `json:"mesh"`
	Node   NodeID  `json:"node,omitempty"`
	Name   string  `json:"name,omitempty"`   // Node's, as people knew it: its document goes
	Claims []Claim `json:"claims,omitempty"` // Node's, as the signer knew them: in quarantine from then on
	Token  string  `json:"token,omitempty"`
	Issued Millis  `json:"issued"`
}
