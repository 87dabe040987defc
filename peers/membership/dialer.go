package membership

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/catalog"
)

const (
	dialSlots    = 4 // at a time: a newcomer that reaches one member hears of all others
	dialTimeout  = 2 * time.Second
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 10 * time.Second
	idleCheck    = 2 * time.Second // Known may change without a word
	// With it somebody dials a newcomer every 20 ms, as long as nothing is heard of it.
	spreadPerHost = 20 * time.Millisecond
)

// schedule says which members to dial when. Not safe for concurrent use; it knows no
// clock and no network.
type schedule struct {
	attempts map[catalog.NodeID]*attempt
	random   func() float64 // [0, 1)
	spread   time.Duration  // new ones are due within it, at random; 0: at once
}

type attempt struct {
	peer    Peer
	next    time.Time
	backoff time.Duration
	running bool
}

func newSchedule(random func() float64) *schedule {
	return &schedule{attempts: map[catalog.NodeID]*attempt{}, random: random}
}

// update takes the members that are known and not alive. Those not yet on the schedule are
// due within spread.
func (s *schedule) update(now time.Time, missing []Peer) {
	wanted := map[catalog.NodeID]bool{}
	for _, peer := range missing {
		wanted[peer.ID] = true
		if a := s.attempts[peer.ID]; a != nil {
			a.peer = peer
			continue
		}
		s.attempts[peer.ID] = &attempt{
			peer: peer, next: now.Add(time.Duration(s.random() * float64(s.spread))), backoff: firstBackoff,
		}
	}
	for id, a := range s.attempts {
		if !wanted[id] && !a.running {
			delete(s.attempts, id)
		}
	}
}

// due marks up to slots members as being dialled and returns them, the longest waiting first.
func (s *schedule) due(now time.Time, slots int) []Peer {
	var ready []*attempt
	for _, a := range s.attempts {
		if !a.running && !a.next.After(now) {
			ready = append(ready, a)
		}
	}
	// Ties are broken by the map's order, which is random: so newcomers spread out.
	slices.SortStableFunc(ready, func(a, b *attempt) int { return cmp.Compare(a.next.UnixNano(), b.next.UnixNano()) })
	var peers []Peer
	for _, a := range ready[:min(len(ready), max(slots, 0))] {
		a.running = true
		peers = append(peers, a.peer)
	}
	return peers
}

// finished plans the next attempt, with up to a quarter of jitter either way. If the
// member is alive by then there will be none.
func (s *schedule) finished(now time.Time, id catalog.NodeID) {
	a := s.attempts[id]
	if a == nil {
		return
	}
	a.running = false
	a.next = now.Add(time.Duration(float64(a.backoff) * (0.75 + s.random()/2)))
	a.backoff = min(2*a.backoff, maxBackoff)
}

// wait is how long nothing is due, at most idleCheck.
func (s *schedule) wait(now time.Time) time.Duration {
	wait := idleCheck
	for _, a := range s.attempts {
		if !a.running {
			wait = min(wait, a.next.Sub(now))
		}
	}
	return max(wait, 0)
}

// dialForever keeps dialling the known members that are not alive until ctx ends.
func (m *Membership) dialForever(ctx context.Context) {
	plan := newSchedule(rand.Float64)
	results := make(chan catalog.NodeID)
	running := 0
	defer func() {
		for ; running > 0; running-- {
			<-results
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.redial:
		case id := <-results:
			running--
			plan.finished(time.Now(), id)
		}
		now := time.Now()
		missing, alive := m.missing()
		plan.spread = spreadOf(alive)
		plan.update(now, missing)
		for _, peer := range plan.due(now, dialSlots-running) {
			running++
			go func() {
				m.dial(ctx, peer)
				results <- peer.ID
			}()
		}
		if running < dialSlots {
			timer.Reset(plan.wait(time.Now()))
		} else {
			timer.Reset(idleCheck)
		}
	}
}

// spreadOf is how long dialling a member that is not alive may wait where so many others are. They all would
// dial a newcomer at the same moment, and whoever does first is enough; a host that is alone does
// not wait.
func spreadOf(alive int) time.Duration {
	return min(time.Duration(alive)*spreadPerHost, maxBackoff)
}

// missing is the known members that are not alive, and how many are.
func (m *Membership) missing() (peers []Peer, alive int) {
	for _, peer := range m.config.Known() {
		switch {
		case peer.ID == m.config.Self || m.state.isRemoved(peer.ID):
		case m.state.alive(peer.ID):
			alive++
		default:
			peers = append(peers, peer)
		}
	}
	return peers, alive
}

// dial connects once to see whether anybody is there, because Serf's joins wait for each other,
// and then joins, unless the member was heard of in the meantime: then that is not needed.
func (m *Membership) dial(ctx context.Context, peer Peer) {
	to := netip.AddrPortFrom(peer.Address, Port)
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := m.config.Network.Dial(dialing, m.config.Address, to)
	cancel()
	if err == nil {
		_ = conn.Close()
		err = m.join(ctx, peer, to)
	}
	if err != nil {
		m.config.Logger.Debug("member does not answer yet; trying again", "node", peer.ID, "address", to, "error", err)
	}
}

func (m *Membership) join(ctx context.Context, peer Peer, to netip.AddrPort) error {
	select {
	case m.joining <- struct{}{}:
		defer func() { <-m.joining }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.state.alive(peer.ID) {
		return nil
	}
	_, err := m.serf.Join([]string{string(peer.ID) + "/" + to.String()}, true)
	return err
}
