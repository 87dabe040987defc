// Package apitest has an in-memory daemon for tests of what talks to one.
package apitest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/meshd/meshd/api"
)

// Backend is a strict api.Backend without a network: it refuses what a real one refuses,
// and remembers all changes in the order in which they came. All its ids, times and
// addresses are the same in each run.
type Backend struct {
	// OnAttach, if set, is called in Attach before anything is remembered; set it before use.
	OnAttach func(ctx context.Context, req api.AttachRequest) error

	mu        sync.Mutex // guards everything below
	member    bool
	problems  []string
	tokens    []api.Token
	networks  []api.Network
	endpoints []api.Endpoint
	attached  int
	updates   map[string]api.ServiceRequest // the last one of each NAME.NETWORK
	evicted   []string
	letIn     bool // host-c
	changes   []string
}

var _ api.Backend = (*Backend)(nil)

const (
	meshID  = "mesh7pdl3nq2kzv5xw4tbhyr6c"
	nodeA   = "aaaa7pdl3nq2kzv5xw4tbhyr6c"
	nodeB   = "bbbb7pdl3nq2kzv5xw4tbhyr6c"
	created = "2026-01-02T03:04:05Z"
	expires = "2026-01-03T03:04:05Z"
)

// Changes are the changes that were made, one line each.
func (b *Backend) Changes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.changes)
}

// Break makes Status unhealthy for these reasons, or healthy again without any.
func (b *Backend) Break(problems ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = problems
}

func (b *Backend) change(format string, args ...any) {
	b.changes = append(b.changes, fmt.Sprintf(format, args...))
}

func refuse(code api.Code, format string, args ...any) error {
	return &api.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// locked takes the lock, and refuses if this host is no member. The caller unlocks in each case.
func (b *Backend) locked() error {
	b.mu.Lock()
	if !b.member {
		return refuse(api.CodeNoMesh, "this host belongs to no mesh: found one with `meshd init`, or join one with `meshd join`")
	}
	return nil
}

// Init implements api.Mesh.
func (b *Backend) Init(context.Context, api.InitRequest) (api.InitResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.member {
		return api.InitResponse{}, refuse(api.CodeConflict, "this host belongs to mesh %s already: leave it first with `meshd leave`", meshID)
	}
	b.member = true
	b.change("init")
	return api.InitResponse{Mesh: meshID, Node: nodeA, Token: "mt-secret",
		JoinCommand: "sudo meshd join 192.0.2.1 --token mt-secret", RecoveryCode: "apple-bread-cloud"}, nil
}

// Pair implements api.Mesh: at 192.0.2.1 a signer lets this host wait.
func (b *Backend) Pair(_ context.Context, req api.PairRequest) (api.Pairing, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.member {
		return api.Pairing{}, refuse(api.CodeConflict, "this host belongs to mesh %s already: leave it first with `meshd leave`", meshID)
	}
	if len(req.Addresses) != 1 || req.Addresses[0] != "192.0.2.1" {
		return api.Pairing{}, refuse(api.CodeUnavailable, "joining: %s: that host is no signer: use the address of one", strings.Join(req.Addresses, " "))
	}
	return api.Pairing{ID: "p1", Code: "4831-0927", Name: "host-a", Address: "192.0.2.1:7946", Expires: expires}, nil
}

// Ping implements api.Mesh: host-b answers.
func (b *Backend) Ping(_ context.Context, req api.PingRequest) (api.Ping, error) {
	err := b.locked()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		return api.Ping{}, err
	case req.Node == "host-c":
		return api.Ping{}, refuse(api.CodeUnavailable, "host host-c does not answer at fd00:1:2::c: no answer in 2s: see meshd status here and there")
	case req.Node != "host-b":
		return api.Ping{}, refuse(api.CodeNotFound, "no host %q: see meshd members", req.Node)
	}
	return api.Ping{Name: "host-b", Address: "fd00:1:2::b", RTT: 0.25}, nil
}

// Resolve implements api.Endpoints: db.appnet has an address.
func (b *Backend) Resolve(_ context.Context, req api.ResolveRequest) (api.Resolution, error) {
	err := b.locked()
	defer b.mu.Unlock()
	answer := api.Resolution{Name: req.Name + ".", Type: "A", Code: "NXDOMAIN", Source: "mesh"}
	if req.Type != "" {
		answer.Type = req.Type
	}
	switch {
	case err != nil:
		return api.Resolution{}, err
	case req.Endpoint == "nosuch":
		return api.Resolution{}, refuse(api.CodeNotFound, "no endpoint %q on this host: see meshd endpoint ls", req.Endpoint)
	case req.Name == "down.example":
		answer.Code, answer.Source, answer.Why = "SERVFAIL", "", "no upstream name server answered"
	case req.Name == "db.appnet":
		answer.Code = "NOERROR"
		if answer.Type == "A" {
			answer.Records = []api.DNSRecord{{Name: "db.appnet.", Type: "A", TTL: 5, Data: "10.64.250.1"}}
		}
	}
	return answer, nil
}

// Waiting implements api.Mesh: host-c waits until it is let in.
func (b *Backend) Waiting(context.Context) ([]api.Waiting, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil || b.letIn {
		return nil, err
	}
	return []api.Waiting{{Name: "host-c", Code: "4831-0927", Address: "192.0.2.3", Since: created}}, nil
}

// LetIn implements api.Mesh.
func (b *Backend) LetIn(_ context.Context, req api.LetInRequest) error {
	err := b.locked()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		return err
	case b.letIn || req.Name != "host-c":
		return refuse(api.CodeNotFound, "no host %s waits: see meshd admit", req.Name)
	case req.Code != "4831-0927":
		return refuse(api.CodeDenied, "%s does not show the code %s: it is not let in", req.Name, req.Code)
	}
	b.letIn = true
	b.change("let in %s", req.Name)
	return nil
}

// Join implements api.Mesh. Only the token mt-secret is good, and the pairing p1; the token "wait" waits until the
// caller gives up.
func (b *Backend) Join(ctx context.Context, req api.JoinRequest) (api.Status, error) {
	if req.Pairing == "p1" {
		req = api.JoinRequest{Addresses: []string{"192.0.2.1:7946"}, Token: "mt-secret"}
	}
	if req.Token == "wait" {
		<-ctx.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.change("join given up")
		return api.Status{}, ctx.Err()
	}
	if err := b.join(req); err != nil {
		return api.Status{}, err
	}
	return b.Status(ctx)
}

func (b *Backend) join(req api.JoinRequest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.member {
		return refuse(api.CodeConflict, "this host belongs to mesh %s already: leave it first with `meshd leave`", meshID)
	}
	if req.Token != "mt-secret" {
		return refuse(api.CodeDenied, "cannot join through %s: the token is not valid: make a new one with `meshd token create` on a signer", req.Addresses[0])
	}
	b.member = true
	b.change("join %s", strings.Join(req.Addresses, " "))
	return nil
}

// Leave implements api.Mesh.
func (b *Backend) Leave(context.Context) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	b.member, b.networks, b.endpoints, b.tokens = false, nil, nil, nil
	b.change("leave")
	return nil
}

// Evict implements api.Mesh.
func (b *Backend) Evict(_ context.Context, node string) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	if node != "host-b" && node != nodeB {
		return refuse(api.CodeNotFound, "no host %s: see `meshd members`", node)
	}
	b.evicted = append(b.evicted, nodeB)
	b.change("evict %s", node)
	return nil
}

// Members implements api.Mesh: host-a, which is this one, and host-b.
func (b *Backend) Members(context.Context) ([]api.Member, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	status := "alive"
	if slices.Contains(b.evicted, nodeB) {
		status = "evicted"
	}
	return []api.Member{
		{Name: "host-a", ID: nodeA, Status: "alive", Address: "fd00:1:2::a", Endpoint: "192.0.2.1:51820", Version: "1.0.0", Signer: true, Self: true},
		{Name: "host-b", ID: nodeB, Status: status, Address: "fd00:1:2::b", Endpoint: "192.0.2.2:51820", Version: "1.0.0", RTT: 0.25},
	}, nil
}

// Status implements api.Mesh.
func (b *Backend) Status(context.Context) (api.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.member {
		return api.Status{State: "idle", Healthy: true, Name: "host-a", Version: "1.0.0"}, nil
	}
	return api.Status{
		State: "member", Healthy: len(b.problems) == 0, Health: b.problems, Node: nodeA, Name: "host-a", Mesh: meshID,
		Address: "fd00:1:2::a", Version: "1.0.0", WireGuard: "userspace", Networks: slices.Clone(b.networks),
		Repairs: api.Repairs{Counts: []api.RepairCount{{Part: "ingress", Changes: 3}}, Last: "2026-01-02T03:04:05Z", Part: "ingress", What: "ip rule add priority 19780 table 19780"},
		Peers:   []api.PeerStatus{{Name: "host-b", ID: nodeB, Path: "direct", Endpoint: "192.0.2.2:51820", Handshake: 12.5, RX: 4096, TX: 1536000, MTU: 1420}},
	}, nil
}

// Events implements api.Mesh.
func (b *Backend) Events(_ context.Context, req api.EventsRequest) (api.Events, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return api.Events{}, err
	}
	all := []api.Event{
		{Sequence: 1, Time: created, Kind: "member", Subject: "host-b", What: "host host-b joined, with meshd 1.0.0"},
		{Sequence: 2, Time: expires, Kind: "endpoint", Subject: "3f2a00000001", What: "endpoint web-1 (service web) on host host-b is unhealthy: no answer"},
	}
	return api.Events{Run: "run", Events: all[min(req.After, 2):]}, nil
}

// Doctor implements api.Mesh.
func (b *Backend) Doctor(_ context.Context, req api.DoctorRequest) (api.Diagnosis, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := api.Diagnosis{Healthy: len(b.problems) == 0, Checks: []api.Check{
		{Name: "programs", State: "ok", Detail: "iptables is there"},
		{Name: "firewall: 51820/udp", State: "warning", Detail: "this host's firewall does not let in 51820/udp, all traffic between hosts: ufw allow 51820/udp"},
	}}
	if req.Fix {
		d.Checks = append([]api.Check{{Name: "repairs", State: "ok", Fixed: true, Detail: "1 changes that somebody else had undone"}}, d.Checks...)
	}
	for _, p := range b.problems {
		d.Checks = append(d.Checks, api.Check{Name: "state", State: "problem", Detail: p})
	}
	return d, nil
}

// CreateToken implements api.Mesh.
func (b *Backend) CreateToken(_ context.Context, req api.TokenRequest) (api.TokenSecret, error) {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return api.TokenSecret{}, err
	}
	token := api.Token{ID: fmt.Sprintf("tok%d", len(b.tokens)+1), Created: created, Expires: expires, Uses: req.Uses, Signer: req.Signer, By: "host-a", State: "valid"}
	b.tokens = append(b.tokens, token)
	b.change("token %s ttl=%s uses=%d signer=%v", token.ID, req.TTL, req.Uses, req.Signer)
	return api.TokenSecret{ID: token.ID, Token: "mt-secret", JoinCommand: "sudo meshd join 192.0.2.1 --token mt-secret", Expires: expires}, nil
}

// Tokens implements api.Mesh.
func (b *Backend) Tokens(context.Context) ([]api.Token, error) {
	err := b.locked()
	defer b.mu.Unlock()
	return slices.Clone(b.tokens), err
}

// RevokeToken implements api.Mesh.
func (b *Backend) RevokeToken(_ context.Context, id string) error {
	err := b.locked()
	defer b.mu.Unlock()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(b.tokens, func(t api.Token) bool { return t.ID == id })
	if i < 0 {
		return refuse(api.CodeNotFound, "no token %s: see `meshd token ls`", id)
	}
	b.tokens[i].State = "revoked"
	b.change("revoke %s", id)
	return nil
}
