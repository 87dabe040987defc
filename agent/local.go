package agent

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/health"
)

// Local is an endpoint on this host: what the mesh knows of it, and what only
// this host does.
type Local struct {
	catalog.Endpoint
	Namespace string `json:"namespace"` // path: bound by us, so it outlives PIDs and agents
	// Process ends the endpoint when it ends; the zero Process stands for an
	// endpoint that lives until it is detached.
	Process Process `json:"process"`
	// Check decides whether it is healthy; the zero Check: it is, as long as it is there.
	Check health.Check `json:"check,omitzero"`
	// DrainUntil is when an endpoint that drains must have finished; 0: never.
	DrainUntil   catalog.Millis `json:"drain_until,omitempty"`
	GatewayIndex uint32         `json:"gateway_index"` // offset of its addresses in the gateway's subnets; 0: no way out
	// Infrastructure marks the host's own presence on the ingress
	// network: it has no names and no virtual IPs, and lists do not show it.
	Infrastructure bool `json:"infrastructure,omitempty"`
	// Key is what the caller knows the endpoint by. Only one with a key has what is below.
	Key         string            `json:"key,omitempty"`
	Source      string            `json:"source,omitempty"`       // the caller's path of the namespace: the endpoint goes with it
	Interfaces  map[string]string `json:"interfaces,omitempty"`   // network → name inside
	Owners      map[string]string `json:"owners,omitempty"`       // network → on whose behalf
	Resolver    bool              `json:"resolver,omitempty"`     // the namespace has a name server of its own
	HostPublish []catalog.Publish `json:"host_publish,omitempty"` // published on this host alone

	// What follows is of the attach under way.
	Asked catalog.Attachment `json:"-"` // the network and index that were asked for
	Told  bool               `json:"-"` // its health is told by whoever attaches it
}

// Process is a process as nothing else ever was on this boot: its ID and when it
// began, in clock ticks since boot (proc(5), field 22 of stat).
type Process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
}

// clone shares nothing with l that either may change.
func (l Local) clone() Local {
	l.Attachments = slices.Clone(l.Attachments)
	l.Publish = slices.Clone(l.Publish)
	l.HostPublish = slices.Clone(l.HostPublish)
	l.Interfaces = maps.Clone(l.Interfaces)
	l.Owners = maps.Clone(l.Owners)
	return l
}

// interfaceName is the name inside the namespace of the i-th attachment.
func (l Local) interfaceName(i int) string {
	if name := l.Interfaces[l.Attachments[i].Network]; name != "" {
		return name
	}
	if l.Infrastructure {
		return hostInterface
	}
	if l.Attachments[i].Network == catalog.IngressNetwork {
		return ingressInterface
	}
	return fmt.Sprintf("eth%d", i)
}

func (l Local) on(network string) bool {
	for _, a := range l.Attachments {
		if a.Network == network {
			return true
		}
	}
	return false
}

// networks is the networks that the endpoint is on, sorted.
func (l Local) networks() []string {
	out := make([]string, len(l.Attachments))
	for i, a := range l.Attachments {
		out[i] = a.Network
	}
	slices.Sort(out)
	return out
}

// publishes says whether the endpoint's service publishes a port already.
func (l Local) publishes(p api.Publish) bool {
	return slices.ContainsFunc(l.Publish, func(have catalog.Publish) bool {
		return have.Published == p.Published && have.Target == p.Target && have.Protocol == p.Protocol
	})
}

// describeAttachment notes what only this host knows of an attachment.
func (l *Local) describeAttachment(network, inside, owner string) {
	if inside != "" {
		if l.Interfaces == nil {
			l.Interfaces = make(map[string]string)
		}
		l.Interfaces[network] = inside
	}
	if owner != "" {
		if l.Owners == nil {
			l.Owners = make(map[string]string)
		}
		l.Owners[network] = owner
	}
}
