package membership

import (
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/meshd/meshd/catalog"
)

// The failure detector. A host that dies is probed within (members-1) × probeInterval,
// suspected probeInterval later, and failed after suspicionMult × probeInterval without
// an objection (log10 of the members times that above ten): 3.5 to 4.5 s with three
// hosts. Only silence of all of that time makes a failure, over UDP, over TCP and
// through others, so lost packets or a starved agent do not.
const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 300 * time.Millisecond
	suspicionMult = 6
	// From six hosts on, others have to confirm a suspicion. Where they do not, it
	// takes this many times longer.
	suspicionMaxMult = 3
)

const (
	// Of a comparison of the whole state with a random member: 150 kB each way at 1,000 members. Nothing
	// depends on it, as members that are missing are dialled. memberlist stretches it with the
	// logarithm of the members, sixfold at 1,000.
	pushPullInterval = 2 * time.Minute

	gossipInterval = 100 * time.Millisecond
	// What fits into the smallest IPv6 MTU, 1280 bytes, with its headers (48), and
	// memberlist's checksum and framing, which it does not count.
	packetSize = 1200
	// A stream inside the tunnel that takes longer to open is not going to.
	streamTimeout = 3 * time.Second
	// How long Leave waits for its message to be sent: three rounds of gossip,
	// each of its two steps; and then for it to spread, before probes go unanswered.
	leaveSend   = 3 * gossipInterval
	leaveSpread = 150 * time.Millisecond
	// How many hosts Leave tells itself, and how long all of it may take. In larger meshes gossip repeats
	// itself often enough: the logarithm of the hosts decides how often.
	tellAtMost   = 100
	tellPatience = 300 * time.Millisecond
	// How long leaving waits for a join under way.
	joinPatience = time.Second
)

func (m *Membership) serfConfig(events chan<- serf.Event) *serf.Config {
	logger := log.New(&logBridge{logger: m.config.Logger, suspected: m.state.suspected}, "", 0)

	c := serf.DefaultConfig()
	c.NodeName = string(m.config.Self)
	c.ValidateNodeNames = false // verifier does, and Serf compiles an expression for each message
	c.Tags = nil                // what there is to say of a node is in its signed document
	c.EventCh = events
	c.Logger, c.LogOutput = logger, nil
	c.EnableNameConflictResolution = false // the minority would shut itself down
	c.SnapshotPath = ""
	c.DisableCoordinates = true // probes give the real round trip
	c.Merge = verifier{m}
	c.BroadcastTimeout = leaveSend
	c.LeavePropagateDelay = 0 // sayFarewell waits

	l := memberlist.DefaultLANConfig()
	l.Transport = m.transport
	l.Logger, l.LogOutput = logger, nil
	l.BindAddr, l.BindPort = m.config.Address.String(), Port
	l.AdvertiseAddr, l.AdvertisePort = m.config.Address.String(), Port
	l.EnableCompression = false
	l.UDPBufferSize = packetSize
	l.TCPTimeout = streamTimeout
	l.ProbeInterval, l.ProbeTimeout = probeInterval, probeTimeout
	l.SuspicionMult, l.SuspicionMaxTimeoutMult = suspicionMult, suspicionMaxMult
	l.GossipInterval = gossipInterval
	l.PushPullInterval = pushPullInterval
	l.DeadNodeReclaimTime = time.Second
	l.Ping = probes{m.state}
	c.MemberlistConfig = l
	return c
}

// probes learns from memberlist's own probes how far the others are.
type probes struct{ state *state }

func (probes) AckPayload() []byte { return nil }

func (p probes) NotifyPingComplete(other *memberlist.Node, rtt time.Duration, _ []byte) {
	p.state.answered(catalog.NodeID(other.Name), rtt)
}

// verifier lets only members in.
type verifier struct{ m *Membership }

// NotifyMerge is called for each node that is said to be alive, alone, and with all
// that another node knows before these are looked at one by one. Refusing the latter because
// of one node in it would lose the others, so it is let through.
func (v verifier) NotifyMerge(members []*serf.Member) error {
	if len(members) != 1 {
		return nil
	}
	id := catalog.NodeID(members[0].Name)
	address, ok := netip.AddrFromSlice(members[0].Addr)
	if !ok {
		return fmt.Errorf("node %s has no valid address", id)
	}
	address = address.Unmap()
	if id == v.m.config.Self {
		if address != v.m.config.Address {
			return fmt.Errorf("somebody says that this host is at %s", address)
		}
		return nil
	}
	if members[0].Port != Port {
		return fmt.Errorf("node %s is at port %d, want %d", id, members[0].Port, Port)
	}
	if v.m.state.isRemoved(id) {
		return fmt.Errorf("node %s was removed", id)
	}
	return v.m.config.Verify(id, address)
}

// logBridge passes Serf's and memberlist's log on as debug messages: what matters of it
// shows in the members' states. It is called with Serf's locks held.
type logBridge struct {
	logger    *slog.Logger
	suspected func(catalog.NodeID)
}

// memberlist tells nobody of a suspicion, except in this line of its log.
const suspectPrefix, suspectSuffix = "[INFO] memberlist: Suspect ", " has failed, no acks received"

func (b *logBridge) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if rest, ok := strings.CutPrefix(text, suspectPrefix); ok {
		if id, ok := strings.CutSuffix(rest, suspectSuffix); ok {
			b.suspected(catalog.NodeID(id))
		}
	}
	b.logger.Debug(text, "from", "serf")
	return len(line), nil
}
