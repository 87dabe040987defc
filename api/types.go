// Package api is the daemon's local interface: HTTP and JSON over a Unix socket. The
// command line is its first client; openapi.yaml describes it to others.
package api

import (
	"context"
	"time"
)

// Backend is what the daemon does when asked. Its methods return *Error for what a
// caller did wrong or can mend; any other error is the daemon's own failure.
// Methods may be called at the same time.
type Backend interface {
	Mesh
	Networks
	Endpoints
}

// Mesh is being a member.
type Mesh interface {
	Init(ctx context.Context, req InitRequest) (InitResponse, error)
	Join(ctx context.Context, req JoinRequest) (Status, error)
	// Pair knocks at a signer's door without a token. What it answers goes into Join, which waits there.
	Pair(ctx context.Context, req PairRequest) (Pairing, error)
	// Waiting lists the hosts that have knocked at this host's door; LetIn lets one of them in.
	Waiting(ctx context.Context) ([]Waiting, error)
	LetIn(ctx context.Context, req LetInRequest) error
	// Ping pings a host through the tunnel, once. It is an error if no answer comes within two seconds.
	Ping(ctx context.Context, req PingRequest) (Ping, error)
	Leave(ctx context.Context) error
	Evict(ctx context.Context, node string) error
	Members(ctx context.Context) ([]Member, error)
	Status(ctx context.Context) (Status, error)
	// Events tells what happened as this host saw it, since its agent began; the last 1,000.
	Events(ctx context.Context, req EventsRequest) (Events, error)
	// Doctor checks this host, and the way to every other.
	Doctor(ctx context.Context, req DoctorRequest) (Diagnosis, error)
	CreateToken(ctx context.Context, req TokenRequest) (TokenSecret, error)
	Tokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, id string) error
}

// Networks is overlay networks and the services on them.
type Networks interface {
	CreateNetwork(ctx context.Context, req NetworkRequest) (Network, error)
	// GrowNetwork gives a network one more IPv4 subnet; what is on it stays as it is.
	GrowNetwork(ctx context.Context, req GrowthRequest) (Network, error)
	Networks(ctx context.Context) ([]Network, error)
	Network(ctx context.Context, name string) (NetworkDetail, error)
	RemoveNetwork(ctx context.Context, name string) error
	Services(ctx context.Context) ([]Service, error)
	// Service takes NAME or NAME.NETWORK.
	Service(ctx context.Context, name string) (Service, error)
	// UpdateService takes what Service takes. It changes the service everywhere.
	UpdateService(ctx context.Context, name string, req ServiceRequest) (Service, error)
}

// Endpoints is network namespaces on networks.
type Endpoints interface {
	Attach(ctx context.Context, req AttachRequest) (Attached, error)
	// Detach takes an id, an unambiguous start of one, or a name, of an endpoint on this host.
	Detach(ctx context.Context, endpoint string) error
	// DetachKey takes an endpoint of this host that was attached with a key off one of its
	// networks, or off all.
	DetachKey(ctx context.Context, req DetachRequest) error
	// Drain takes an endpoint of any host, or all of this one, out of rotation: they get no new connections and keep those that they
	// have. It returns when every host that is alive acts on it.
	Drain(ctx context.Context, req DrainRequest) error
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// Resolve answers a question for a name as an endpoint of this host gets it.
	Resolve(ctx context.Context, req ResolveRequest) (Resolution, error)
}

// Code classifies an Error.
type Code string

const (
	CodeInvalid     Code = "invalid"     // HTTP 400: the request makes no sense
	CodeNotFound    Code = "not_found"   // 404
	CodeConflict    Code = "conflict"    // 409: it exists, overlaps, or is in use
	CodeNoMesh      Code = "no_mesh"     // 412: this host belongs to no mesh yet
	CodeDenied      Code = "denied"      // 403: this host, or this token, may not
	CodeUnavailable Code = "unavailable" // 503: try again
	CodeInternal    Code = "internal"    // 500
)

// Error says in one line what is wrong, why, and what to do next.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// InitRequest founds a mesh.
type InitRequest struct{}

// InitResponse is shown once: nothing in it can be asked for again.
type InitResponse struct {
	Mesh         string `json:"mesh"`
	Node         string `json:"node"`
	JoinCommand  string `json:"join_command"`
	Token        string `json:"token"`
	RecoveryCode string `json:"recovery_code"`
}

// JoinRequest joins through any member that answers.
type JoinRequest struct {
	Addresses []string `json:"addresses"` // HOST or HOST:PORT
	Token     string   `json:"token"`
	Pairing   string   `json:"pairing,omitempty"` // instead of both: a pairing's id; waits until this host is let in
}

// PairRequest knocks at the doors one after the other, until a signer's lets this host wait.
type PairRequest struct {
	Addresses []string `json:"addresses"` // HOST or HOST:PORT
}

// Pairing is this host waiting at a signer's door. It ends after ten minutes, or when there is another.
type Pairing struct {
	ID      string `json:"id"`
	Code    string `json:"code"`    // the signer has to show the same
	Name    string `json:"name"`    // of this host, as the signer shows it
	Address string `json:"address"` // of the door
	Expires string `json:"expires"` // RFC 3339
}

// Waiting is a host that wants to be let in without a token. It says its name itself.
type Waiting struct {
	Name    string `json:"name"`
	Code    string `json:"code"`    // that host has to show the same
	Address string `json:"address"` // where it comes from
	Since   string `json:"since"`   // RFC 3339
}

// LetInRequest lets in the host that waits under a name, and shows this code.
type LetInRequest struct {
	Name string `json:"name"`
	Code string `json:"code"`
}

// PingRequest pings a host.
type PingRequest struct {
	Node string `json:"node"` // its name or its id
}

// Ping is a host's answer.
type Ping struct {
	Name    string  `json:"name"`
	Address string  `json:"address"` // in the mesh
	RTT     float64 `json:"rtt_ms"`
}

// ResolveRequest asks for a name, or for that of an address.
type ResolveRequest struct {
	Name     string `json:"name"`
	Type     string `json:"type"`     // such as A; empty: A, or PTR for an address
	Endpoint string `json:"endpoint"` // of this host; empty: one that is on all networks
}

// Resolution is what a name server answers, that there is no such name included.
type Resolution struct {
	Name    string      `json:"name"` // as asked, absolute
	Type    string      `json:"type"`
	Code    string      `json:"code"`          // NOERROR, NXDOMAIN, SERVFAIL, ...
	Source  string      `json:"source"`        // "mesh", "upstream 192.0.2.1:53"; empty: nobody was asked
	Why     string      `json:"why,omitempty"` // of a failure
	Records []DNSRecord `json:"records"`
}

// DNSRecord is one record of an answer.
type DNSRecord struct {
	Name string `json:"name"`
	Type string `json:"type"`
	TTL  uint32 `json:"ttl"`  // seconds
	Data string `json:"data"` // as in a zone file
}

// Member is a row of `meshd members`.
type Member struct {
	Name     string  `json:"name"`
	ID       string  `json:"id"`
	Status   string  `json:"status"`   // alive, suspect, failed, left, evicted
	Address  string  `json:"address"`  // in the mesh
	Endpoint string  `json:"endpoint"` // of WireGuard on the underlay; empty when unknown
	Version  string  `json:"version"`
	RTT      float64 `json:"rtt_ms"` // 0: not measured
	Signer   bool    `json:"signer"`
	Self     bool    `json:"self"`
}

// Status is this host.
type Status struct {
	State     string       `json:"state"` // idle, joining, member
	Healthy   bool         `json:"healthy"`
	Health    []string     `json:"health"` // what is wrong, in plain words, each ending in what to do
	Node      string       `json:"node"`
	Name      string       `json:"name"`
	Mesh      string       `json:"mesh"`
	Address   string       `json:"address"`
	Version   string       `json:"version"`
	WireGuard string       `json:"wireguard"` // kernel or userspace
	Peers     []PeerStatus `json:"peers"`
	Networks  []Network    `json:"networks"`
	Repairs   Repairs      `json:"repairs"`
	Docker    DockerStatus `json:"docker"`
	Clock     string       `json:"clock,omitempty"` // what is wrong with this host's clock, as Health has it too
}

// Repairs is what somebody else undid on this host and meshd made again, since the daemon started.
type Repairs struct {
	Counts []RepairCount `json:"counts"`         // by part; only those that had any
	Last   string        `json:"last,omitempty"` // when, RFC 3339; empty: never
	Part   string        `json:"part,omitempty"` // of the last
	What   string        `json:"what,omitempty"` // the last: its first few changes, as ip(8), nft(8) and others write them
}

// RepairCount is how much of one part had to be made again.
type RepairCount struct {
	Part    string `json:"part"` // wireguard, overlay, gateway or ingress
	Changes int    `json:"changes"`
}

// DockerStatus is the Docker Engine of this host, as far as it is served.
type DockerStatus struct {
	State    string   `json:"state"`             // off, waiting (for the Engine), connected
	Version  string   `json:"version,omitempty"` // of the Engine
	Problems []string `json:"problems"`          // in plain words, each ending in what to do
}

// EventsRequest asks what happened.
type EventsRequest struct {
	After uint64        `json:"after,omitempty"` // only what has a higher number
	Run   string        `json:"run,omitempty"`   // of the answer that After comes from; after another run all is told
	Wait  time.Duration `json:"wait,omitempty"`  // nanoseconds, at most a minute, until there is something to tell
}

// Events is what happened, oldest first.
type Events struct {
	Run    string  `json:"run"` // of the agent that counts: numbers begin anew with each
	Events []Event `json:"events"`
}

// Event is one thing that happened in the mesh, as this host saw it.
type Event struct {
	Sequence uint64 `json:"seq"`     // counts up by one
	Time     string `json:"time"`    // RFC 3339: when this host saw it
	Kind     string `json:"kind"`    // agent, member, network, endpoint, service, repair
	Subject  string `json:"subject"` // a host's, a network's or a service's name, an endpoint's id
	What     string `json:"what"`    // in plain words
}

// DoctorRequest asks for a diagnosis.
type DoctorRequest struct {
	Fix bool `json:"fix,omitempty"` // first make again what others undid
}

// Diagnosis is what `meshd doctor` found.
type Diagnosis struct {
	Healthy bool    `json:"healthy"` // no check is a problem
	Checks  []Check `json:"checks"`
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"`           // ok, warning, problem
	Detail string `json:"detail"`          // what is, and what to do
	Fixed  bool   `json:"fixed,omitempty"` // it was mended just now
}

// PeerStatus is the tunnel to another host.
type PeerStatus struct {
	Name      string  `json:"name"`
	ID        string  `json:"id"`
	Path      string  `json:"path"` // direct, or none
	Endpoint  string  `json:"endpoint"`
	Handshake float64 `json:"handshake_age_s"` // -1: never
	RX        uint64  `json:"rx"`              // bytes
	TX        uint64  `json:"tx"`
	MTU       int     `json:"mtu"`
}

// TokenRequest asks for an admission token.
type TokenRequest struct {
	TTL    time.Duration `json:"ttl"` // nanoseconds; 0 is 24 h
	Uses   int           `json:"uses"`
	Signer bool          `json:"signer"`
}

// TokenSecret is a new token; the secret is shown once.
type TokenSecret struct {
	ID          string `json:"id"`
	Token       string `json:"token"`
	JoinCommand string `json:"join_command"`
	Expires     string `json:"expires"` // RFC 3339
}

// Token is a row of `meshd token ls`.
type Token struct {
	ID      string `json:"id"`
	Created string `json:"created"` // RFC 3339
	Expires string `json:"expires"` // RFC 3339
	Uses    int    `json:"uses"`    // 0: any number
	Used    int    `json:"used"`
	Signer  bool   `json:"signer"`
	By      string `json:"by"`
	State   string `json:"state"` // valid, expired, used, revoked
}

// NetworkRequest makes a network.
type NetworkRequest struct {
	Name     string   `json:"name"`
	Subnets  []string `json:"subnets"` // CIDRs, at most one of each family; empty: chosen
	Internal bool     `json:"internal"`
	// Labels are shown on all hosts by engines that have labels; at most 32, of 2,048 bytes together.
	Labels map[string]string `json:"labels,omitempty"`
}

// GrowthRequest gives a network more addresses.
type GrowthRequest struct {
	Name   string `json:"name"`
	Subnet string `json:"subnet,omitempty"` // an IPv4 CIDR; empty: chosen
}

// Network is a row of `meshd network ls`.
type Network struct {
	Name      string            `json:"name"`
	VNI       uint32            `json:"vni"`
	Subnets   []string          `json:"subnets"`
	MTU       int               `json:"mtu"`
	Endpoints int               `json:"endpoints"`
	Usage     int               `json:"usage"` // percent of the addresses that hosts have taken for their endpoints
	Internal  bool              `json:"internal"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// NetworkDetail is `meshd network inspect`.
type NetworkDetail struct {
	Network
	Created string     `json:"created"` // RFC 3339
	Members []Endpoint `json:"members"`
	Blocks  []Block    `json:"blocks"`
}

// Block is a range of a network's addresses and the node that hands them out.
type Block struct {
	Range string `json:"range"` // FIRST-LAST
	Node  string `json:"node"`
}

// Publish is a published port.
type Publish struct {
	Published uint16 `json:"published"`
	Target    uint16 `json:"target"`
	Protocol  string `json:"protocol"`
}

// Service is a row of `meshd service ls`. One that was updated is there also while it has no endpoints.
type Service struct {
	Name      string        `json:"name"`
	Network   string        `json:"network"`
	VIP       string        `json:"vip"` // empty without endpoints, or if the network has none left
	VIP6      string        `json:"vip6"`
	Affinity  string        `json:"affinity"` // none, client-ip
	Prefer    string        `json:"prefer"`   // none, local
	Ports     []ServicePort `json:"ports"`
	Withdrawn []Port        `json:"withdrawn"` // what endpoints bring and an update took back
	Endpoints []Endpoint    `json:"endpoints"`
}

// ServicePort is a port that a service publishes, or would publish if nobody else had it.
type ServicePort struct {
	Publish
	Conflict string   `json:"conflict,omitempty"` // the SERVICE.NETWORK that has the port; then this service does not
	HeldOn   []string `json:"held_on,omitempty"`  // hosts on which a process has the port, and the service does not
}

// Port is a port as clients see it.
type Port struct {
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
}

// ServiceRequest changes a service. What is empty stays as it is.
type ServiceRequest struct {
	Affinity  string    `json:"affinity,omitempty"`  // none, client-ip
	Prefer    string    `json:"prefer,omitempty"`    // none, local
	Publish   []Publish `json:"publish,omitempty"`   // of all its endpoints, also later ones
	Unpublish []Port    `json:"unpublish,omitempty"` // whoever published it; without a protocol: of both
}

// AttachRequest puts a namespace on networks. One of NetNS and PID is set.
type AttachRequest struct {
	NetNS    string    `json:"netns,omitempty"` // path; the endpoint goes when it is detached
	PID      int       `json:"pid,omitempty"`   // the endpoint goes when this process ends
	Networks []string  `json:"networks"`
	Name     string    `json:"name,omitempty"`
	Service  string    `json:"service,omitempty"`
	Publish  []Publish `json:"publish,omitempty"`

	// Key is what the caller knows the endpoint by, such as cni/CONTAINER. Another attach of the
	// same namespace with the same key adds its networks to the endpoint; networks that it is on
	// already stay as they are. A namespace of another name means that the old one is no more.
	Key       string `json:"key,omitempty"`
	Interface string `json:"interface,omitempty"` // with a key and one network: its name inside; empty: chosen
	Owner     string `json:"owner,omitempty"`     // with a key: on whose behalf these networks are attached
	IP        string `json:"ip,omitempty"`        // with a key and one network: its IPv4 address there; empty: chosen
	MAC       string `json:"mac,omitempty"`       // with a key and one network: of its interface there; empty: random
	// Resolver, with a key: the namespace has a name server of its own on 127.0.0.11, as Docker's
	// containers have. It answers what is not the mesh's, and everything while the daemon is away.
	Resolver bool `json:"resolver,omitempty"`
	// Starting, with a key: the endpoint is not in rotation before its caller says that it is fit.
	Starting       bool          `json:"starting,omitempty"`
	Health         string        `json:"health,omitempty"`          // tcp:PORT or http:PORT/PATH; empty: healthy as soon as it is there
	HealthInterval time.Duration `json:"health_interval,omitempty"` // nanoseconds; 0: 2 s
	HealthTimeout  time.Duration `json:"health_timeout,omitempty"`  // nanoseconds; 0: 2 s
	HealthRetries  int           `json:"health_retries,omitempty"`  // failures in a row that make it unhealthy; 0: 3
	// HealthSuccesses is how many successes in a row make an unhealthy one healthy again; 0: 1.
	HealthSuccesses int `json:"health_successes,omitempty"`
}

// DrainRequest says what is to be drained.
type DrainRequest struct {
	Endpoint string        `json:"endpoint,omitempty"` // an id, an unambiguous start of one, or a name; empty: all endpoints of this host that belong to a service
	Undo     bool          `json:"undo,omitempty"`     // back into rotation
	Limit    time.Duration `json:"limit,omitempty"`    // nanoseconds; what still stands then is reset; 0: nothing is
	Wait     bool          `json:"wait,omitempty"`     // return only when nobody is connected to them any more, or at the limit
}

// DetachRequest names an endpoint by its key.
type DetachRequest struct {
	Key     string `json:"key"`
	Network string `json:"network,omitempty"` // empty: all
}

// Attached is a new endpoint.
type Attached struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Nameserver string     `json:"nameserver"` // what resolv.conf should name
	Search     []string   `json:"search"`
	Interfaces []Endpoint `json:"interfaces"`
}

// Endpoint is a row of `meshd endpoint ls`: an endpoint's presence on one network.
type Endpoint struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Service string `json:"service"`
	Network string `json:"network"`
	Node    string `json:"node"`
	IP      string `json:"ip"`
	IP6     string `json:"ip6"`
	MAC     string `json:"mac"`
	Health  string `json:"health"`           // healthy, starting, unhealthy, draining, unreachable
	Reason  string `json:"reason,omitempty"` // why it is unhealthy
	Self    bool   `json:"self,omitempty"`   // it is on this host

	// What it was attached with, if it is this host's and has a key.
	Key       string `json:"key,omitempty"`
	Interface string `json:"interface,omitempty"`
	Owner     string `json:"owner,omitempty"`
}
