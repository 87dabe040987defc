package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Zone is all names of a mesh, compiled for looking up. It is immutable: any
// number of goroutines may use it.
type Zone struct {
	domain   string            // such as mesh.internal
	networks map[string]*names // by the network's name
	nodes    *names            // NODE.node
}

// names is the names below one suffix, and of the addresses there.
type names struct {
	records  map[string]*record    // by the name before the suffix
	pointers map[netip.Addr]string // absolute names
	subnets  []netip.Prefix
}

// record is what one name has.
type record struct {
	addrs  []netip.Addr // sorted
	ports  []port
	hollow bool // it is there only because names below it are (RFC 8020)
}

// port is what an SRV record says. The targets' addresses go along with it.
type port struct {
	target string // absolute
	number uint16
	addrs  []netip.Addr
}

// NewZone compiles the names of a Config. Names that no resolver could ask for
// are left out.
func NewZone(config Config) *Zone {
	z := &Zone{
		domain:   canonical(config.Domain),
		networks: make(map[string]*names, len(config.Networks)),
		nodes:    newNames(),
	}
	z.nodes.records[nodeLabel] = &record{hollow: true}
	for _, node := range config.Nodes {
		if !validName(node.Name) {
			continue
		}
		name := canonical(node.Name) + "." + nodeLabel
		z.nodes.add(name, node.Addrs)
		z.nodes.point(node.Addrs, z.absolute(name))
	}
	for _, network := range config.Networks {
		if validName(network.Name) {
			z.networks[canonical(network.Name)] = z.compile(network)
		}
	}
	return z
}

func newNames() *names {
	return &names{records: map[string]*record{}, pointers: map[netip.Addr]string{}}
}

func (z *Zone) compile(network Network) *names {
	n := newNames()
	n.subnets = network.Subnets
	n.records[endpointLabel] = &record{hollow: true}
	suffix := canonical(network.Name)
	for _, host := range network.Endpoints {
		if validName(host.Name) {
			n.add(endpointName(host), host.Addrs)
		}
	}
	for _, service := range network.Services {
		if !validName(service.Name) {
			continue
		}
		name := canonical(service.Name)
		n.add(name, service.VIPs)
		n.point(service.VIPs, z.absolute(name, suffix))
		var tasks []netip.Addr
		for _, replica := range service.Replicas {
			tasks = append(tasks, replica.Addrs...)
		}
		n.add(tasksLabel+"."+name, tasks)
		for _, p := range service.Ports {
			z.addPort(n, suffix, service, p)
		}
	}
	for _, host := range network.Endpoints {
		if validName(host.Name) {
			n.point(host.Addrs, z.absolute(endpointName(host), suffix))
		}
	}
	return n
}

func endpointName(host Host) string { return canonical(host.Name) + "." + endpointLabel }

// addPort makes the SRV records of one port: one for each replica that has a name
// of its own, and one for tasks.NAME, where the others are.
func (z *Zone) addPort(n *names, network string, service Service, p Port) {
	label := strings.ToLower(p.Name)
	if label == "" {
		label = strconv.Itoa(int(p.Number))
	}
	if !validName(label) || !single(label) || p.Protocol == "" || p.Number == 0 {
		return
	}
	tasks := tasksLabel + "." + canonical(service.Name)
	targets := map[string][]netip.Addr{}
	for _, replica := range service.Replicas {
		target := tasks
		if n.records[endpointName(replica)] != nil {
			target = endpointName(replica)
		}
		targets[target] = append(targets[target], replica.Addrs...)
	}
	name := "_" + label + "._" + strings.ToLower(p.Protocol) + "." + canonical(service.Name)
	rec := n.add(name, nil)
	for target, addrs := range targets {
		rec.ports = append(rec.ports, port{z.absolute(target, network), p.Number, sorted(addrs)})
	}
	slices.SortFunc(rec.ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.target, b.target))
	})
}

// add gives a name addresses, besides those that it has, and makes the names above
// it exist.
func (n *names) add(name string, addrs []netip.Addr) *record {
	rec := n.records[name]
	if rec == nil {
		rec = &record{}
		n.records[name] = rec
	}
	rec.hollow = false
	rec.addrs = sorted(append(rec.addrs, addrs...))
	for {
		_, above, ok := strings.Cut(name, ".")
		if !ok {
			return rec
		}
		if n.records[above] == nil {
			n.records[above] = &record{hollow: true}
		}
		name = above
	}
}

// point gives addresses a name, unless they have one.
func (n *names) point(addrs []netip.Addr, name string) {
	for _, addr := range addrs {
		addr = addr.Unmap().WithZone("")
		if _, taken := n.pointers[addr]; !taken {
			n.pointers[addr] = name
		}
	}
}

func (z *Zone) absolute(parts ...string) string {
	if z.domain != "" {
		parts = append(parts, z.domain)
	}
	return strings.Join(parts, ".") + "."
}

// sorted is the valid addresses, each once.
func sorted(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, addr := range addrs {
		if addr.IsValid() {
			out = append(out, addr.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
