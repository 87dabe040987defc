package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/claims"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/peers/syncer"
)

// claimants is the allocators of a mesh whose hosts exchange records when they ask for an
// acknowledgement, as the syncer does.
type claimants struct {
	t     *testing.T
	world *world

	nodes map[string]*allocator

	mu   sync.Mutex // guards all below
	dead map[string]bool
	gate map[string]chan struct{} // by asking node: nobody answers it until closed
}

func newClaimants(t *testing.T, names ...string) *claimants {
	c := &claimants{t: t, world: newWorld(t), nodes: make(map[string]*allocator), dead: make(map[string]bool), gate: make(map[string]chan struct{})}
	records := slices.Concat(c.world.admitted(names...), c.world.networks(), []catalog.Record{
		c.world.network("tiny", 3, func(r *catalog.NetworkRecord) { r.Subnet4 = netip.MustParsePrefix("10.3.0.0/29") }),
	})
	for _, name := range names {
		records = append(records, c.world.document(name))
	}
	for _, name := range names {
		dir := t.TempDir()
		c.nodes[name] = &allocator{
			store: c.world.store(dir, name, records...), locals: openTestLocals(t, dir),
			alive: func() []catalog.NodeID { return c.alive(name) },
			confirm: func(ctx context.Context, v catalog.DocumentVersion, nodes []catalog.NodeID) error {
				return c.confirm(ctx, name, v, nodes)
			},
		}
	}
	return c
}

func (c *claimants) alive(but string) []catalog.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []catalog.NodeID
	for name := range c.nodes {
		if name != but && !c.dead[name] {
			ids = append(ids, nodeOf(name))
		}
	}
	return ids
}

func (c *claimants) confirm(ctx context.Context, from string, version catalog.DocumentVersion, nodes []catalog.NodeID) error {
	c.mu.Lock()
	gate := c.gate[from]
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return &syncer.UnconfirmedError{Nodes: nodes, Reasons: make([]error, len(nodes))}
		}
	}
	for name, other := range c.nodes {
		if !slices.Contains(nodes, nodeOf(name)) {
			continue
		}
		c.meet(c.nodes[from], other)
		if held, ok := other.store.forSyncer().Version(nodeOf(from)); !ok || held.Less(version) {
			c.t.Errorf("%s asks for %+v, which its store does not hold", from, version)
		}
	}
	return ctx.Err()
}

func (c *claimants) meet(a, b *allocator) {
	for _, pair := range [][2]*allocator{{a, b}, {b, a}} {
		if _, rejected := pair[0].store.Merge(pair[1].store.Records()...); len(rejected) > 0 {
			c.t.Error(errors.Join(rejected...))
		}
	}
}

// hold has a node keep the next address of a network.
func (c *claimants) hold(name, network string) (uint32, error) {
	a := c.nodes[name]
	var got uint32
	err := a.Allocate(c.t.Context(), network, func(index uint32) error {
		got = index
		e := newLocal("1", "/nowhere", index)
		e.ID = newEndpointID()
		e.Attachments[0].Network = network
		return a.locals.Put(e)
	})
	return got, err
}

func (c *claimants) claims(name string) []uint32 {
	var blocks []uint32
	for _, claim := range c.nodes[name].store.Own().Claims {
		blocks = append(blocks, claim.Block)
	}
	return blocks
}

func wantCode(t *testing.T, err error, code api.Code, words ...string) {
	t.Helper()
	var own *api.Error
	if !errors.As(err, &own) || own.Code != code {
		t.Fatalf("error %v, want one of code %v", err, code)
	}
	for _, w := range words {
		if !strings.Contains(own.Message, w) {
			t.Errorf("the error does not say %q: %s", w, own.Message)
		}
	}
}

func TestNoAddressBeforeEverybodyAgreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaimants(t, "a", "b", "c")
		gate := make(chan struct{})
		c.gate["a"] = gate
		type result struct {
			index uint32
			err   error
		}
		done := make(chan result, 1)
		go func() {
			index, err := c.hold("a", "appnet")
			done <- result{index, err}
		}()
		synctest.Wait()
		time.Sleep(5 * time.Second) // virtual
		select {
		case r := <-done:
			t.Fatalf("address %d before anybody agreed (%v)", r.index, r.err)
		default:
		}
		if len(c.claims("a")) != 1 {
			t.Errorf("claims %v", c.claims("a"))
		}
		close(gate)
		r := <-done
		if r.err != nil || r.index == 0 || c.claims("a")[0] != r.index/8 {
			t.Fatalf("address %d, %v, claims %v", r.index, r.err, c.claims("a"))
		}
		for _, other := range []string{"b", "c"} {
			n, _ := c.nodes[other].store.View().Network("appnet")
			if n.Blocks[r.index/8] != nodeOf("a") {
				t.Errorf("%s does not know whose the block is", other)
			}
		}
	})
}

func TestWhoDidNotAgreeIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaimants(t, "a", "b")
		c.gate["a"] = make(chan struct{})
		begun := time.Now()
		_, err := c.hold("a", "appnet")
		wantCode(t, err, api.CodeUnavailable, "did not agree to it in time: b", "meshd members")
		if d := time.Since(begun); d > claimTimeout+time.Second {
			t.Errorf("told after %s", d)
		}
		before := c.claims("a")
		close(c.gate["a"])
		index, err := c.hold("a", "appnet")
		if err != nil {
			t.Fatal(err)
		}
		if after := c.claims("a"); !slices.Equal(before, after) || index/8 != before[0] {
			t.Errorf("the block that was claimed already is not taken up: %v, then %v", before, after)
		}
	})
}

func TestDeadHostIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaimants(t, "a", "b")
		c.gate["a"] = make(chan struct{}) // b has died
		time.AfterFunc(3*time.Second, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.dead["b"] = true // membership notices
			delete(c.gate, "a")
		})
		begun := time.Now()
		if _, err := c.hold("a", "appnet"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("it took %s", d)
		}
	})
}

func TestLostClaimLeadsToAnotherBlock(t *testing.T) {
	c := newClaimants(t, "a", "b")
	c.nodes["a"].confirm = func(ctx context.Context, v catalog.DocumentVersion, nodes []catalog.NodeID) error {
		if own := c.claims("a"); len(own) == 1 && len(c.claims("b")) == 0 {
			_, err := c.nodes["b"].store.Update(func(d *catalog.Document) { // b was first
				d.Claims = []catalog.Claim{{Network: "appnet", Block: own[0], Stamp: testTime}}
			})
			if err != nil {
				t.Error(err)
			}
		}
		return c.confirm(ctx, "a", v, nodes)
	}
	index, err := c.hold("a", "appnet")
	if err != nil {
		t.Fatal(err)
	}
	lost := c.claims("b")[0]
	if index/8 == lost || slices.Contains(c.claims("a"), lost) || slices.ContainsFunc(c.nodes["a"].locals.ConfirmedClaims(), func(have catalog.Claim) bool { return have.Block == lost }) {
		t.Errorf("address %d, claims %v: block %d is b's", index, c.claims("a"), lost)
	}
}

func TestBlockLostLaterIsGivenUp(t *testing.T) {
	c := newClaimants(t, "a", "b")
	a := c.nodes["a"]
	index, err := c.hold("a", "appnet")
	if err != nil {
		t.Fatal(err)
	}
	claim := a.store.Own().Claims[0]
	if err := a.Review(0); err != nil || claim.Block != index/8 || !a.locals.Confirmed(claim) {
		t.Fatalf("a block that was not lost: %v", err)
	}
	_, err = c.nodes["b"].store.Update(func(d *catalog.Document) {
		d.Claims = []catalog.Claim{{Network: "appnet", Block: claim.Block, Stamp: testTime}}
	})
	if err != nil {
		t.Fatal(err)
	}
	c.meet(a, c.nodes["b"]) // two halves of the mesh see each other again
	if err := a.Review(0); err != nil {
		t.Fatal(err)
	}
	if a.locals.Confirmed(claim) || len(c.claims("a")) != 0 {
		t.Fatalf("block %d is b's, and still ours: claims %v", claim.Block, c.claims("a"))
	}
	// When it falls back to us, everybody has to agree anew.
	if _, err := c.nodes["b"].store.Update(func(d *catalog.Document) { d.Claims = nil }); err != nil {
		t.Fatal(err)
	}
	c.meet(a, c.nodes["b"])
	asked := 0
	a.confirm = func(ctx context.Context, v catalog.DocumentVersion, nodes []catalog.NodeID) error {
		asked++
		return c.confirm(ctx, "a", v, nodes)
	}
	if _, err := c.hold("a", "appnet"); err != nil || asked == 0 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

// A block that nobody is in goes back, but not before its last address has rested.
func TestEmptyBlocksAreGivenBack(t *testing.T) {
	c := newClaimants(t, "a", "b")
	a := c.nodes["a"]
	if _, err := c.hold("a", "appnet"); err != nil {
		t.Fatal(err)
	}
	review := func(at time.Duration, want int) {
		t.Helper()
		if err := a.Review(at); err != nil {
			t.Fatal(err)
		}
		if got := len(c.claims("a")); got != want || len(a.locals.ConfirmedClaims()) != want {
			t.Fatalf("after %v: claims %v, confirmed %v, want %d", at, c.claims("a"), a.locals.ConfirmedClaims(), want)
		}
	}
	review(0, 1)
	review(2*claims.IdleRest, 1)
	for _, l := range a.locals.All() {
		if err := a.locals.Remove(l.ID, now()); err != nil {
			t.Fatal(err)
		}
	}
	review(2*claims.IdleRest, 1) // its address rests
	a.locals.retired = map[addressKey]catalog.Millis{}
	review(3*claims.IdleRest, 1) // this is when it was first seen empty
	a.turn("appnet") <- struct{}{}
	review(4*claims.IdleRest, 1) // somebody chooses an address
	<-a.turn("appnet")
	review(4*claims.IdleRest, 0)
	if _, err := c.hold("b", "appnet"); err != nil {
		t.Fatal(err)
	}
}

// A claim that was made anew is not the one that all agreed to.
func TestConfirmationIsOfOneClaim(t *testing.T) {
	l := openTestLocals(t, t.TempDir())
	if err := l.Confirm(block("appnet", 1)); err != nil {
		t.Fatal(err)
	}
	again := block("appnet", 1)
	again.Stamp++
	if !l.Confirmed(block("appnet", 1)) || l.Confirmed(again) {
		t.Error("a later claim on the same block counts as agreed to")
	}
}

func TestFullNetwork(t *testing.T) {
	c := newClaimants(t, "a", "b")
	seen := make(map[uint32]bool)
	for range 4 {
		index, err := c.hold("a", "tiny")
		if err != nil {
			t.Fatal(err)
		}
		if seen[index] || index < 2 || index > 5 {
			t.Errorf("address %d of %v", index, seen)
		}
		seen[index] = true
	}
	_, err := c.hold("a", "tiny")
	wantCode(t, err, api.CodeUnavailable, "network tiny has no addresses left", "meshd network grow tiny")
	_, err = c.hold("b", "tiny")
	wantCode(t, err, api.CodeUnavailable, "no addresses left")
}

func TestOneSlowNetworkDoesNotBlockAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaimants(t, "a", "b")
		if _, err := c.hold("a", "backnet"); err != nil {
			t.Fatal(err)
		}
		c.gate["a"] = make(chan struct{})
		slow := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := c.hold("a", "appnet")
				slow <- err
			}()
		}
		synctest.Wait()
		begun := time.Now()
		if _, err := c.hold("a", "backnet"); err != nil || time.Since(begun) > 0 {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		for range 2 {
			if err := <-slow; err == nil {
				t.Error("an address to which nobody agreed")
			} else if d := time.Since(begun); d > claimTimeout+time.Second {
				t.Errorf("who comes second waits %s", d)
			}
		}
	})
}

func TestNobodyGetsAnothersAddress(t *testing.T) {
	c := newClaimants(t, "a", "b", "c")
	var mu sync.Mutex
	holders := make(map[uint32][]string)
	var group sync.WaitGroup
	for name := range c.nodes {
		for range 3 {
			group.Add(1)
			go func() {
				defer group.Done()
				for range 7 {
					index, err := c.hold(name, "appnet")
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					holders[index] = append(holders[index], name)
					mu.Unlock()
				}
			}()
		}
	}
	group.Wait()
	if len(holders) != 3*3*7 {
		t.Errorf("%d different addresses of %d", len(holders), 3*3*7)
	}
	for index, names := range holders {
		if len(names) > 1 {
			t.Errorf("address %d was given out by %v", index, names)
		}
	}
}

func TestNothingIsHandedOutByAHostThatLeaves(t *testing.T) {
	c := newClaimants(t, "a")
	if _, err := c.nodes["a"].store.Update(func(d *catalog.Document) { d.Left = true }); err != nil {
		t.Fatal(err)
	}
	_, err := c.hold("a", "appnet")
	wantCode(t, err, api.CodeUnavailable, "is leaving")
}

func TestMACs(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		mac, err := parseMAC(link.RandomMAC())
		if err != nil || mac[0]&1 != 0 || mac[0]&2 == 0 || seen[mac.String()] {
			t.Fatalf("%s (%v): it must be unicast, locally administered and new", mac, err)
		}
		seen[mac.String()] = true
	}
}

func TestUnconfirmedHostWithoutANameIsNamedByID(t *testing.T) {
	c := newClaimants(t, "a", "b")
	got := c.nodes["a"].unconfirmedBy(fmt.Errorf("waiting: %w", &syncer.UnconfirmedError{Nodes: []catalog.NodeID{nodeOf("b"), nodeOf("c")}}))
	if got != "b, "+string(nodeOf("c")) {
		t.Errorf("%q", got)
	}
}
