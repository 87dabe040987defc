package link

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// PortFlags is how a bridge treats one of its ports. A flag that the running
// kernel does not know has no effect.
type PortFlags struct {
	Learning      bool // source addresses of arriving frames become forwarding entries
	NeighSuppress bool // ARP and ND for known neighbours are answered and not sent out here (Linux 4.15)
	Isolated      bool // no frame passes to another isolated port (Linux 4.18)
	Locked        bool // frames are dropped unless their source has a forwarding entry here (Linux 5.18)
}

// attributes pairs each flag with its netlink attribute.
func (f *PortFlags) attributes() map[uint16]*bool {
	return map[uint16]*bool{
		nl.IFLA_BRPORT_LEARNING:       &f.Learning,
		nl.IFLA_BRPORT_NEIGH_SUPPRESS: &f.NeighSuppress,
		nl.IFLA_BRPORT_ISOLATED:       &f.Isolated,
		nl.IFLA_BRPORT_LOCKED:         &f.Locked,
	}
}

// PortState is a bridge port's flags as they are. Known has the flags set that the kernel has.
type PortState struct {
	PortFlags
	Known PortFlags
}

// Ports returns the state of all bridge ports of the namespace by interface index.
func (n *Namespace) Ports() (map[int]PortState, error) {
	messages, err := Dump(func() ([][]byte, error) {
		req := n.request(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		return req.Execute(unix.NETLINK_ROUTE, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("listing bridge ports: %w", classify(err))
	}
	ports := make(map[int]PortState)
	for _, m := range messages {
		info := nl.DeserializeIfInfomsg(m)
		attrs, err := nl.ParseRouteAttr(m[info.Len():])
		if err != nil {
			return nil, fmt.Errorf("reading bridge ports: %w", err)
		}
		for _, attr := range attrs {
			if attr.Attr.Type&nl.NLA_TYPE_MASK != unix.IFLA_PROTINFO {
				continue
			}
			if ports[int(info.Index)], err = portState(attr.Value); err != nil {
				return nil, fmt.Errorf("reading bridge ports: %w", err)
			}
		}
	}
	return ports, nil
}

func portState(data []byte) (PortState, error) {
	var state PortState
	attrs, err := nl.ParseRouteAttr(data)
	if err != nil {
		return state, err
	}
	flags, known := state.attributes(), state.Known.attributes()
	for _, attr := range attrs {
		kind := attr.Attr.Type & nl.NLA_TYPE_MASK
		if flag, ok := flags[kind]; ok && len(attr.Value) > 0 {
			*flag, *known[kind] = attr.Value[0] != 0, true
		}
	}
	return state, nil
}

// EnsurePort sets the flags of a bridge port that differ from its state, as Ports
// returned it. For a new port the state is the zero PortState: all are set.
func (n *Namespace) EnsurePort(l netlink.Link, state PortState, want PortFlags) error {
	fresh := state.Known == PortFlags{}
	wanted, have, known := want.attributes(), state.attributes(), state.Known.attributes()
	req := n.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	changes := 0
	for kind, flag := range wanted {
		if !fresh && (!*known[kind] || *have[kind] == *flag) {
			continue
		}
		value := byte(0)
		if *flag {
			value = 1
		}
		info.AddRtAttr(int(kind), []byte{value})
		changes++
	}
	if changes == 0 {
		return nil
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("setting bridge port flags of %s: %w", l.Attrs().Name, classify(err))
	}
	n.changes.Note("bridge link set dev %s (%d flags)", l.Attrs().Name, changes)
	return nil
}

func (n *Namespace) request(kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: n.raw}
	return req
}
