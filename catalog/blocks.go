package catalog

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// statement is what one document says of one network.
type statement struct {
	claims    []Claim
	presences []presence
}

// presence is an attachment with what it belongs to.
type presence struct {
	Attachment
	endpoint *Endpoint
}

// statements turns a document round, by network; nil says nothing.
func statements(d *Document) map[string]statement {
	if d == nil {
		return nil
	}
	out := map[string]statement{}
	for _, c := range d.Claims {
		s := out[c.Network]
		s.claims = append(s.claims, c)
		out[c.Network] = s
	}
	for i := range d.Endpoints {
		e := &d.Endpoints[i]
		for _, a := range e.Attachments {
			s := out[a.Network]
			s.presences = append(s.presences, presence{a, e})
			out[a.Network] = s
		}
	}
	return out
}

type nodeClaim struct {
	Claim
	node NodeID
}

// ownBlocks says who owns each claimed block: the lowest (stamp, node).
func ownBlocks(space Space, claims []nodeClaim) map[uint32]NodeID {
	best := map[uint32]nodeClaim{}
	for _, c := range claims {
		if first, end := space.Range(c.Block); first == end {
			continue // no such block
		}
		old, ok := best[c.Block]
		if !ok || cmp.Or(cmp.Compare(c.Stamp, old.Stamp), cmp.Compare(c.node, old.node)) < 0 {
			best[c.Block] = c
		}
	}
	owners := make(map[uint32]NodeID, len(best))
	for block, c := range best {
		owners[block] = c.node
	}
	return owners
}

// placement is one network with all that is said of it: who owns which block, and which
// endpoints are where. It is brought up to date by the blocks and nodes that changed.
type placement struct {
	name   string
	said   map[NodeID]statement
	claims map[uint32][]nodeClaim // by block
	blocks map[uint32]bool        // those whose claims have changed since the last update

	base     Network  // as it was resolved
	live     *Network // as it was last placed; nil: there is no such network
	anew     bool     // all is to be placed again
	placed   map[NodeID][]*placed
	order    []*placed // all of them, by IP4
	replicas map[string]*replicaSet
	services []Service // by name; their ports are not here
}

// placed is an endpoint at its addresses, with what services are made of. It never changes.
type placed struct {
	NetworkEndpoint
	vip     vote
	publish []Publish
	first   string // the network that it publishes its service on
}

func (p *placed) equal(q *placed) bool {
	return p.NetworkEndpoint == q.NetworkEndpoint && p.vip == q.vip && p.first == q.first && slices.Equal(p.publish, q.publish)
}

func comparePlaced(a, b *placed) int { return a.IP4.Compare(b.IP4) }

// moves is what an update has changed.
type moves struct {
	any   bool
	ports bool // something about published ports
}

func (m *moves) add(other moves) {
	m.any = m.any || other.any
	m.ports = m.ports || other.ports
}

func newPlacement(name string) *placement {
	return &placement{name: name, said: map[NodeID]statement{}, claims: map[uint32][]nodeClaim{}, blocks: map[uint32]bool{}}
}

// say replaces what a node says of the network.
func (p *placement) say(node NodeID, s statement) {
	old := p.said[node]
	if !slices.Equal(old.claims, s.claims) {
		for _, c := range old.claims {
			p.blocks[c.Block] = true
			p.claims[c.Block] = slices.DeleteFunc(p.claims[c.Block], func(c nodeClaim) bool { return c.node == node })
			if len(p.claims[c.Block]) == 0 {
				delete(p.claims, c.Block)
			}
		}
		for _, c := range s.claims {
			p.blocks[c.Block] = true
			p.claims[c.Block] = append(p.claims[c.Block], nodeClaim{c, node})
		}
	}
	if len(s.claims) == 0 && len(s.presences) == 0 {
		delete(p.said, node)
	} else {
		p.said[node] = s
	}
}

// become has the network be as it was resolved now.
func (p *placement) become(n Network) {
	if p.live != nil && reflect.DeepEqual(p.base, n) {
		return
	}
	p.base, p.live, p.anew = n, &n, true
}

// update places again what the nodes given say, and what depends on it. All endpoints of the services in
// everyone publish ports.
func (p *placement) update(nodes map[NodeID]bool, everyone map[string]bool) moves {
	switch {
	case p.live == nil:
		p.blocks, p.placed, p.order, p.replicas, p.services = map[uint32]bool{}, nil, nil, nil, nil
		return moves{}
	case !p.anew && len(nodes) == 0:
		return moves{}
	}
	n := *p.live
	dirty := map[NodeID]bool{}
	maps.Copy(dirty, nodes)
	if p.anew {
		p.placed, p.order, p.replicas, p.services = map[NodeID][]*placed{}, nil, map[string]*replicaSet{}, nil
		n.Blocks, n.Endpoints = map[uint32]NodeID{}, nil
		for node := range p.said {
			dirty[node] = true
		}
		for block := range p.claims {
			p.blocks[block] = true
		}
	}
	moved := moves{any: p.anew, ports: p.anew}
	if owners := p.settle(n); !maps.Equal(owners, n.Blocks) {
		for block := range p.blocks {
			if n.Blocks[block] != owners[block] {
				dirty[n.Blocks[block]], dirty[owners[block]] = true, true
			}
		}
		n.Blocks, moved.any = owners, true
	}
	p.blocks = map[uint32]bool{}
	gone, came := map[*placed]bool{}, []*placed(nil)
	for node := range dirty {
		came = append(came, p.replace(n, node, gone)...)
	}
	if len(gone) > 0 || len(came) > 0 || p.anew {
		slices.SortFunc(came, comparePlaced)
		p.order = patch(p.order, gone, came)
		n.Endpoints = endpointsOf(p.order)
		p.regroup(n, gone, came)
		moved.any = true
		moved.ports = moved.ports || publishAny(gone, came, everyone)
	}
	p.live, p.anew = &n, false
	return moved
}

// settle says who owns the network's blocks, now that some claims have changed.
func (p *placement) settle(n Network) map[uint32]NodeID {
	if len(p.blocks) == 0 {
		return n.Blocks
	}
	var claims []nodeClaim
	owners := maps.Clone(n.Blocks)
	for block := range p.blocks {
		delete(owners, block)
		claims = append(claims, p.claims[block]...)
	}
	maps.Copy(owners, ownBlocks(n.Space, claims))
	return owners
}

// replace places a node's endpoints. What differs from before goes into gone and is returned.
func (p *placement) replace(n Network, node NodeID, gone map[*placed]bool) (came []*placed) {
	old, now := p.placed[node], placeEndpoints(n, node, p.said[node].presences)
	for i, e := range now {
		at, found := slices.BinarySearchFunc(old, e, comparePlaced)
		if found && old[at].equal(e) {
			now[i] = old[at]
		} else {
			came = append(came, e)
		}
	}
	for _, e := range old {
		at, found := slices.BinarySearchFunc(now, e, comparePlaced)
		if !found || now[at] != e {
			gone[e] = true
		}
	}
	if len(now) == 0 {
		delete(p.placed, node)
	} else {
		p.placed[node] = now
	}
	return came
}

// placeEndpoints gives each presence of a node its addresses, in their order. It counts only if its node
// owns the block of its index; of two on one index the older counts.
func placeEndpoints(n Network, node NodeID, presences []presence) []*placed {
	best := map[uint32]presence{}
	for _, p := range presences {
		block, ok := n.Space.BlockOf(p.Index)
		if !ok || n.Blocks[block] != node {
			continue
		}
		old, ok := best[p.Index]
		if !ok || cmp.Or(cmp.Compare(p.endpoint.Created, old.endpoint.Created), cmp.Compare(p.endpoint.ID, old.endpoint.ID)) < 0 {
			best[p.Index] = p
		}
	}
	var out []*placed
	for index, p := range best {
		e := p.endpoint
		out = append(out, &placed{
			NetworkEndpoint: NetworkEndpoint{
				ID:       e.ID,
				Name:     e.Name,
				Service:  e.Service,
				Node:     node,
				IP4:      n.Space.Address(index),
				IP6:      AddressAt(n.Subnet6, index),
				MAC:      p.MAC,
				Health:   e.Health,
				Draining: e.Draining,
				Reason:   e.Reason,
				Created:  e.Created,
				Aliases:  p.Aliases,
			},
			vip:     vote{node, p.VIP, p.VIPStamp, p.VIPMoved},
			publish: e.Publish,
			first:   firstNetwork(e),
		})
	}
	slices.SortFunc(out, comparePlaced)
	return out
}

func firstNetwork(e *Endpoint) string {
	for _, a := range e.Attachments {
		if a.Network != IngressNetwork {
			return a.Network
		}
	}
	return ""
}

// patch takes out of a sorted list what is gone and puts in what came, sorted too. The old list
// stays as it is.
func patch(old []*placed, gone map[*placed]bool, came []*placed) []*placed {
	out := make([]*placed, 0, len(old)+len(came))
	for _, e := range old {
		if gone[e] {
			continue
		}
		for len(came) > 0 && comparePlaced(came[0], e) < 0 {
			out, came = append(out, came[0]), came[1:]
		}
		out = append(out, e)
	}
	return append(out, came...)
}

func endpointsOf(list []*placed) []NetworkEndpoint {
	if len(list) == 0 {
		return nil
	}
	out := make([]NetworkEndpoint, len(list))
	for i, e := range list {
		out[i] = e.NetworkEndpoint
	}
	return out
}

func publishAny(gone map[*placed]bool, came []*placed, everyone map[string]bool) bool {
	publishes := func(e *placed) bool { return len(e.publish) > 0 || everyone[e.Service] }
	for e := range gone {
		if publishes(e) {
			return true
		}
	}
	return slices.ContainsFunc(came, publishes)
}

func compareIP4(e NetworkEndpoint, ip netip.Addr) int { return e.IP4.Compare(ip) }
