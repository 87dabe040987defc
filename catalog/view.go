package catalog

import (
	"crypto/ed25519"
	"net/netip"
)

// View is the mesh as the records describe it. It is immutable and shared: do
// not change what it holds. Slices are sorted, so equal record sets make equal
// views.
type View struct {
	Mesh     MeshID
	Members  []Member  // by ID; evicted and left ones too
	Networks []Network // by Name; deleted ones are not there
	Services []Service // by Network, Name
	Tokens   []Token   // by Created, ID

	signers map[NodeID]bool
	evicted map[NodeID]bool
	revoked map[string]bool            // tokens
	usedBy  map[string]map[NodeID]bool // who was let in with each token
	records map[string]NetworkRecord   // by name; deleted ones too

	settings map[serviceKey]ServiceRecord // deleted ones too
	vacated  []vacated
}

// Member is a node that has, or had, a valid certificate.
type Member struct {
	ID         NodeID
	Key        ed25519.PublicKey
	Address    netip.Addr // in the mesh
	Signer     bool
	Sponsor    NodeID
	Joined     Millis
	Evicted    bool
	Left       bool
	Known      bool // its document is here; without it all below is zero, but for an evicted one's Name
	Version    DocumentVersion
	Name       string
	Agent      string // version of meshd
	WireGuard  WireGuardKey
	Candidates []netip.AddrPort
	MTU        int
	Routes     []netip.Prefix // what its host reaches by routes of its own
	Occupied   []Port         // published ports that a process of the host has, and that do not answer there
}

// DocumentVersion orders a node's documents.
type DocumentVersion struct {
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"` // hex SHA-256 of the body
}

// Network is a network as everybody sees it, collisions resolved.
type Network struct {
	Name      string
	VNI       uint32
	Subnet4   netip.Prefix // the first; Space has all
	Subnet6   netip.Prefix
	Internal  bool
	Labels    map[string]string
	Created   Millis
	Space     Space
	Blocks    map[uint32]NodeID // the owner of each claimed block
	Endpoints []NetworkEndpoint // by IP4; only those whose node owns their block; of evicted and left nodes none
}

// NetworkEndpoint is an endpoint's presence on one network.
type NetworkEndpoint struct {
	ID       string
	Name     string
	Service  string
	Node     NodeID
	IP4      netip.Addr
	IP6      netip.Addr
	MAC      string
	Health   Health
	Draining bool
	Reason   string
	Created  Millis
	Aliases  string // further names, separated by single spaces
}

// InRotation says whether the endpoint takes new connections of its service,
// as far as the catalog knows; whether its node lives is for the caller to know.
func (e NetworkEndpoint) InRotation() bool { return e.Health == Healthy && !e.Draining }

// Service is the endpoints of one network that share a service name, and what was set for them. One
// with settings is there also while it has no replicas, and keeps the ports that it was given.
type Service struct {
	Network  string
	Name     string
	Affinity Affinity
	Prefer   Prefer
	VIP4     netip.Addr
	VIP6     netip.Addr
	VIPIndex uint32
	VIPStamp Millis
	VIPMoved uint32            // how often it had to give way, this time included; see Attachment
	Replicas []NetworkEndpoint // by IP4, healthy or not
	Ports    []ServicePort     // by Protocol, Published
	Brought  []Port            // what replicas bring, published or not; sorted
	Withdraw []Port            // of those, and of later ones, what is not published; sorted
}

// ServicePort is a published port of a service.
type ServicePort struct {
	Published uint16
	Target    uint16
	Protocol  string
	Stamp     Millis            // of services that want one port, the lowest has it
	Everyone  bool              // it was set for the service: all its replicas publish it
	Backends  []NetworkEndpoint // presence on the ingress network of the replicas that publish it, by IP4
	Conflict  string            // the "service.network" that has the port; then this one does not
}

// Token is an invite and what became of it.
type Token struct {
	Invite
	By      NodeID // the signer
	Used    int    // certificates that name it
	Revoked bool
}

// IngressNetwork is the network that published ports travel over. It is made with
// the mesh, cannot be removed or attached to by name, and has no names in DNS.
const IngressNetwork = "ingress"

// Layout says how the addresses of a network's subnet are cut up. All numbers are offsets
// from its first address. Offset 0 and 1 (the gateway that Docker wants to
// hear of) and the last are never given out.
type Layout struct {
	Size      uint32 // addresses in the subnet
	BlockSize uint32
	Blocks    uint32 // endpoint blocks: block i holds [i*BlockSize, (i+1)*BlockSize)
	VIPFirst  uint32 // virtual IPs: [VIPFirst, VIPEnd); above the blocks
	VIPEnd    uint32
}
