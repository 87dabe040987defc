package catalog

import (
	"cmp"
	"maps"
	"slices"
)

// compiler makes views. It keeps what the last one was made of, by node and by network, so that
// a change costs what it changes and little of what there is: at 1,000 hosts making
// everything anew takes an eighth of a second. What it returns follows from the records
// alone, in whatever order they came.
type compiler struct {
	dirt     dirt
	view     *View // the last one; nil: none was made yet
	docs     map[NodeID]*Document
	networks map[string]*placement        // by name; also those that are only spoken of
	settings map[serviceKey]ServiceRecord // also of networks that are not there; deleted ones too
	everyone map[string]bool              // names of services to which settings give ports, on any network
	ports    map[serviceKey]portList
}

// dirt is what has changed since the last view.
type dirt struct {
	any       bool
	trust     bool // who belongs, and the tokens
	networks  bool // the networks' records
	settings  bool // the services' records
	documents map[NodeID]bool
}

func newCompiler() compiler {
	return compiler{
		dirt:     dirt{documents: map[NodeID]bool{}},
		docs:     map[NodeID]*Document{},
		networks: map[string]*placement{},
	}
}

// changed notes that a record came or went.
func (d *dirt) changed(e *entry) {
	d.any = true
	switch e.record.Kind {
	case KindDocument:
		d.documents[e.author] = true
	case KindNetwork:
		d.networks = true
	case KindService:
		d.settings = true
	default:
		d.trust = true
	}
}

// compile makes the view of what c holds: who belongs, then the networks, then who owns
// which addresses, then the services on them. Each step is in a file of its own. Slices and
// maps that are as before are shared with the view before: nobody writes to them.
func (k *compiler) compile(c *Catalog) *View {
	if k.view != nil && !k.dirt.any {
		return k.view
	}
	last := k.view
	if last == nil {
		last, k.dirt.trust, k.dirt.networks, k.dirt.settings = &View{}, true, true, true
	}
	v := &View{}
	*v = *last
	v.Mesh = c.mesh
	if k.dirt.trust {
		v.takeTrust(c)
	} else {
		v.Members = slices.Clone(last.Members)
		for node := range k.dirt.documents {
			i, found := v.memberAt(node)
			if found {
				v.Members[i] = c.member(node, c.trust.members[node])
			}
		}
	}
	v.vacated = c.vacatedClaims(v.Members)
	if k.dirt.networks {
		v.records = c.networkRecords()
	}
	if k.dirt.settings {
		v.settings = c.serviceRecords()
		k.settings, k.everyone = v.settings, map[string]bool{}
		for key, r := range v.settings {
			if len(r.Publish) > 0 {
				k.everyone[key.name] = true
			}
		}
	}
	k.place(c, v)
	k.view, k.dirt = v, dirt{documents: map[NodeID]bool{}}
	return v
}

// takeTrust takes over all that does not come from networks and documents.
func (v *View) takeTrust(c *Catalog) {
	v.signers, v.evicted = map[NodeID]bool{}, map[NodeID]bool{}
	v.revoked, v.usedBy = map[string]bool{}, map[string]map[NodeID]bool{}
	for id := range c.trust.signers {
		v.signers[id] = true
	}
	for id := range c.trust.evicted {
		v.evicted[id] = true
	}
	for id := range c.trust.revoked {
		v.revoked[id] = true
	}
	v.Members = make([]Member, 0, len(c.trust.members))
	for id, m := range c.trust.members {
		v.Members = append(v.Members, c.member(id, m))
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	var tokens []*entry
	for _, e := range c.entries {
		switch body := e.body.(type) {
		case Certificate:
			v.countUse(e.invite, NodeIDOf(body.Node))
		case Invite:
			tokens = append(tokens, e)
		}
	}
	v.Tokens = v.listTokens(tokens)
}

func (c *Catalog) networkRecords() map[string]NetworkRecord {
	records := map[string]NetworkRecord{}
	for _, e := range c.entries {
		if body, ok := e.body.(NetworkRecord); ok {
			records[body.Name] = body
		}
	}
	return records
}

func (c *Catalog) serviceRecords() map[serviceKey]ServiceRecord {
	records := map[serviceKey]ServiceRecord{}
	for _, e := range c.entries {
		if body, ok := e.body.(ServiceRecord); ok {
			records[serviceKey{body.Network, body.Service}] = body
		}
	}
	return records
}

// place makes the networks and services of v from the documents that count: those of members who
// are neither evicted nor left.
func (k *compiler) place(c *Catalog, v *View) {
	touched := map[string]map[NodeID]bool{} // by network: whose words on it may differ
	for node := range k.dirt.documents {
		var now *Document
		if doc, _, ok := c.Document(node); ok && !doc.Left {
			now = &doc
		}
		for network := range k.rewrite(node, now) {
			if touched[network] == nil {
				touched[network] = map[NodeID]bool{}
			}
			touched[network][node] = true
		}
	}
	if k.dirt.networks {
		k.resolve(v.records)
	}
	moved := moves{any: k.dirt.networks || k.dirt.settings, ports: k.dirt.networks || k.dirt.settings}
	for name, p := range k.networks {
		moved.add(p.update(touched[name], k.everyone))
		if p.live == nil && len(p.said) == 0 {
			delete(k.networks, name)
		}
	}
	if moved.any {
		v.Networks = k.liveNetworks()
		v.Services = k.services(moved.ports)
	}
}

// rewrite replaces what a node says; nil is nothing. It returns the networks of which it spoke before,
// or speaks now.
func (k *compiler) rewrite(node NodeID, now *Document) map[string]bool {
	networks := map[string]bool{}
	for network := range statements(k.docs[node]) {
		networks[network] = true
	}
	says := statements(now)
	for network := range says {
		networks[network] = true
	}
	for network := range networks {
		if k.networks[network] == nil {
			k.networks[network] = newPlacement(network)
		}
		k.networks[network].say(node, says[network])
	}
	if now == nil {
		delete(k.docs, node)
	} else {
		k.docs[node] = now
	}
	return networks
}

// resolve settles which networks there are, and has those that are not as they were placed anew.
func (k *compiler) resolve(records map[string]NetworkRecord) {
	live := map[string]bool{}
	for _, n := range resolveNetworks(records) {
		live[n.Name] = true
		if k.networks[n.Name] == nil {
			k.networks[n.Name] = newPlacement(n.Name)
		}
		k.networks[n.Name].become(n)
	}
	for name, p := range k.networks {
		if !live[name] {
			p.live = nil
		}
	}
}

// liveNetworks is the networks that there are, by name.
func (k *compiler) liveNetworks() []Network {
	networks := []Network{}
	for _, name := range slices.Sorted(maps.Keys(k.networks)) {
		if p := k.networks[name]; p.live != nil {
			networks = append(networks, *p.live)
		}
	}
	return networks
}

// member describes a node by its certificate and, if it is here, its document.
func (c *Catalog) member(id NodeID, m member) Member {
	revocation, evicted := c.trust.evicted[id]
	out := Member{
		ID:      id,
		Key:     m.certificate.Node,
		Address: MeshAddress(c.mesh, id),
		Signer:  c.trust.signers[id] && !evicted,
		Sponsor: m.entry.author,
		Joined:  m.certificate.Signed,
		Evicted: evicted,
		Name:    revocation.Name,
	}
	doc, version, ok := c.Document(id)
	if !ok {
		return out
	}
	out.Known = true
	out.Left = doc.Left
	out.Version = version
	out.Name = doc.Name
	out.Agent = doc.Version
	out.WireGuard = doc.WireGuard
	out.Candidates = doc.Candidates
	out.MTU = doc.MTU
	out.Occupied = doc.Occupied
	out.Routes = doc.Routes
	return out
}

func (v *View) countUse(invite string, node NodeID) {
	if v.usedBy[invite] == nil {
		v.usedBy[invite] = map[NodeID]bool{}
	}
	v.usedBy[invite][node] = true
}

// listTokens sorts the tokens; of two records of one invite key the first counts.
func (v *View) listTokens(entries []*entry) []Token {
	slices.SortFunc(entries, func(a, b *entry) int {
		x, y := a.body.(Invite), b.body.(Invite)
		return cmp.Or(cmp.Compare(x.Created, y.Created), cmp.Compare(x.ID, y.ID), cmp.Compare(a.id, b.id))
	})
	var tokens []Token
	seen := map[string]bool{}
	for _, e := range entries {
		invite := e.body.(Invite)
		if seen[invite.ID] {
			continue
		}
		seen[invite.ID] = true
		tokens = append(tokens, Token{
			Invite:  invite,
			By:      e.author,
			Used:    len(v.usedBy[invite.ID]),
			Revoked: v.revoked[invite.ID] || v.evicted[e.author],
		})
	}
	return tokens
}

func (v *View) memberAt(id NodeID) (int, bool) {
	return slices.BinarySearchFunc(v.Members, id, func(m Member, id NodeID) int { return cmp.Compare(m.ID, id) })
}

// Member returns the member of that id.
func (v *View) Member(id NodeID) (Member, bool) {
	i, ok := v.memberAt(id)
	if !ok {
		return Member{}, false
	}
	return v.Members[i], true
}

// Network returns the live network of that name.
func (v *View) Network(name string) (Network, bool) {
	i, ok := slices.BinarySearchFunc(v.Networks, name, func(n Network, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return Network{}, false
	}
	return v.Networks[i], true
}

// Removed says whether there was a network of that name and somebody removed it.
func (v *View) Removed(name string) bool { return v.records[name].Deleted }

// Service returns a service of a network.
func (v *View) Service(network, name string) (Service, bool) {
	i, ok := slices.BinarySearchFunc(v.Services, serviceKey{network, name}, func(s Service, k serviceKey) int {
		return cmp.Or(cmp.Compare(s.Network, k.network), cmp.Compare(s.Name, k.name))
	})
	if !ok {
		return Service{}, false
	}
	return v.Services[i], true
}
