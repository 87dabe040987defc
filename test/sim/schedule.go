package sim

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
)

// Op is one thing that happens to a mesh. Who it happens to is chosen by numbers, modulo
// those that there are, so that an op still means something when others are left out.
type Op struct {
	At   time.Duration `json:"at"`
	What string        `json:"what"`
	A    int           `json:"a"`
	B    int           `json:"b"`
	N    int           `json:"n"`
}

func (o Op) String() string {
	return fmt.Sprintf("%8v %s %d %d %d", o.At.Round(time.Millisecond), o.What, o.A, o.B, o.N)
}

// Schedule is a seed and what happens: all that a run depends on.
type Schedule struct {
	Seed uint64 `json:"seed"`
	Note string `json:"note,omitempty"` // what it once broke
	Ops  []Op   `json:"ops"`
}

func (s Schedule) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// what happens, and how often.
type kind struct {
	what   string
	weight int
}

var wide = []kind{
	{"attach", 30}, {"detach", 14}, {"burst", 2},
	{"make network", 2}, {"remove network", 2}, {"set service", 5},
	{"halves", 5}, {"one way", 4}, {"flap", 3}, {"heal", 9},
	{"lossy", 3}, {"slow", 3},
	{"kill", 5}, {"power cut", 3}, {"restart", 12}, {"roll back", 4}, {"all power", 1}, {"sleep", 1},
	{"clock", 4},
	{"join", 3}, {"leave", 1}, {"evict", 1},
	{"forge", 4},
	{"grow", 1}, {"disk full", 2}, {"disk room", 3}, {"lose", 1}, {"week", 1},
}

const networks = 3

// prefixes are of the networks: one with room, and two in which hosts get in each other's way.
var prefixes = [networks]int{25, 27, 28}

// crowd is what happens in every other schedule: hosts that all want the same few blocks
// at once, before and after they lose sight of each other.
var crowd = []kind{
	{"rush", 30}, {"attach", 6}, {"detach", 10}, {"clear", 8},
	{"halves", 8}, {"one way", 8}, {"heal", 14}, {"lossy", 2}, {"slow", 4},
	{"kill", 4}, {"power cut", 8}, {"restart", 16}, {"roll back", 8}, {"all power", 1},
	{"lag", 4}, {"evict", 1}, {"join", 2},
	{"grow", 1}, {"disk full", 3}, {"disk room", 6},
}

// NewSchedule makes up what happens from a seed: a mesh of two to six hosts, and then some trouble.
func NewSchedule(seed uint64) Schedule {
	r := rand.New(rand.NewPCG(seed, 1))
	s := Schedule{Seed: seed}
	kinds, pause := wide, 1600*time.Millisecond
	if seed%2 == 0 {
		kinds, pause = crowd, 1200*time.Millisecond
	}
	at := 200 * time.Millisecond
	for range 1 + r.IntN(5) {
		s.Ops = append(s.Ops, Op{At: at, What: "join"})
		at += 100 * time.Millisecond
	}
	for i := range networks {
		s.Ops = append(s.Ops, Op{At: at, What: "make network", A: r.IntN(6), N: i})
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for range 30 + r.IntN(60) {
		at += between(r, 0, pause)
		pick := r.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				s.Ops = append(s.Ops, Op{At: at, What: k.what, A: r.IntN(60), B: r.IntN(60), N: r.IntN(1 << 12)})
				break
			}
		}
	}
	return s
}

// Run runs a schedule and returns what broke, or nil.
func Run(s Schedule, bug Bug) (*World, error) {
	w := newWorld(s.Seed, bug)
	for _, op := range s.Ops {
		w.run(max(op.At, w.now))
		w.do(op)
		if w.trouble != nil {
			return w, w.trouble
		}
	}
	w.quieten()
	if w.trouble == nil {
		w.checkQuiet()
	}
	return w, w.trouble
}

func pick(hosts []*host, n int) *host {
	if len(hosts) == 0 {
		return nil
	}
	return hosts[n%len(hosts)]
}

func (w *World) do(op Op) {
	up, down := w.running(), slices.DeleteFunc(slices.Clone(w.hosts), func(h *host) bool { return h.up || h.gone })
	a, b := pick(up, op.A), pick(up, op.B)
	if op.What == "restart" || op.What == "roll back" || op.What == "lose" {
		a = pick(down, op.A)
	}
	if a == nil {
		return
	}
	switch op.What {
	case "attach":
		w.attached++
		a.attach(fmt.Sprintf("n%d", op.N%networks), []string{"", "web", "db", "s3"}[op.N>>4%4])
	case "rush":
		for _, h := range up {
			h.after(between(w.random, 0, 3*time.Millisecond), func() { h.attach(fmt.Sprintf("n%d", 1+op.N%2), "") })
		}
	case "clear":
		for _, l := range a.sortedLocals() {
			a.detach(l.ID)
		}
	case "lag":
		a.skew += catalog.Millis((op.N - 2048) * 4) // up to eight seconds
	case "burst":
		for range 12 {
			a.attach(fmt.Sprintf("n%d", op.N%networks), "web")
		}
	case "detach":
		if locals := a.sortedLocals(); len(locals) > 0 {
			a.detach(locals[op.N%len(locals)].ID)
		}
	case "make network":
		a.makeNetwork(fmt.Sprintf("n%d", op.N%networks), prefixes[op.N%networks])
	case "remove network":
		a.removeNetwork(fmt.Sprintf("n%d", op.N%networks))
	case "set service":
		a.setService(op.B, op.N)
	case "grow":
		a.growNetwork(fmt.Sprintf("n%d", op.N%networks))
	case "disk full":
		a.full = true
	case "disk room":
		if a.full {
			a.room()
		}
	case "week":
		w.shift += catalog.Millis((7 * 24 * time.Hour).Milliseconds())
	case "lose":
		w.lose(a, b)
	case "restart":
		a.start()
	case "roll back":
		a.rollBack(op.N)
		a.start()
	case "kill", "power cut":
		a.stop(op.What == "power cut")
	case "sleep":
		a.stop(false)
		w.losing(func() { a.asleep = true })
	case "all power":
		for _, h := range up {
			h.stop(true)
		}
	case "clock":
		a.skew += catalog.Millis((op.N - 2048) * 20_000) // up to eleven hours
		a.skew = max(min(a.skew, 40_000_000), -40_000_000)
	case "join":
		w.join(a)
	case "copy":
		w.copy(a)
	case "leave", "evict":
		w.part(a, b, op.What == "evict")
	case "forge":
		w.forge(a, b, op.N)
	default:
		w.disturb(op, a, b)
	}
}

// disturb is what happens to the network.
func (w *World) disturb(op Op, a, b *host) {
	switch op.What {
	case "heal":
		w.net.cut = map[pair]bool{}
		w.net.slow = map[*host]time.Duration{}
		w.net.loss, w.net.twice = 0, 0
	case "halves":
		for i, x := range w.hosts {
			for j, y := range w.hosts {
				if op.N>>i&1 != op.N>>j&1 {
					w.net.cut[pair{x, y}] = true
				}
			}
		}
	case "one way":
		w.net.cut[pair{a, b}] = true
	case "flap":
		for i := range 12 {
			w.after(time.Duration(i)*time.Duration(100+op.N)*time.Millisecond, func() {
				if w.quiet {
					return
				}
				w.net.cut[pair{a, b}], w.net.cut[pair{b, a}] = i%2 == 0, i%2 == 0
			})
		}
	case "lossy":
		w.net.loss, w.net.twice = float64(op.N%40)/100, 0.1
	case "slow":
		w.net.slow[a] = time.Duration(op.N) * time.Millisecond / 8
	}
}

func (w *World) join(sponsor *host) {
	if !sponsor.author.Document().Left && len(w.running()) < 7 && len(w.hosts) < 10 {
		h := newHost(w, fmt.Sprintf("h%d", len(w.hosts)))
		w.admit(h, sponsor, append(sponsor.cat.Records(), w.certify(sponsor, h)))
	}
}

// lose destroys the disk of a host that is down. Nobody knows; it joins anew, as another.
func (w *World) lose(a, sponsor *host) {
	w.losing(func() { a.asleep = true })
	if sponsor != nil {
		w.join(sponsor)
	}
}

// part has a host leave, or be evicted by the signer h0, which stays.
func (w *World) part(a, b *host, evict bool) {
	signer := w.hosts[0]
	if b == signer || b == nil || b.copied || len(w.running()) < 3 {
		return
	}
	if evict {
		if !signer.up || a != signer && a == b {
			return
		}
		id, _ := signer.publish(catalog.KindRevocation, catalog.Revocation{
			Mesh: w.mesh, Node: b.id, Claims: signer.claimsOf(b), Issued: signer.clock(),
		})
		w.ledger.evictions[id] = b
		w.losing(func() { b.gone, b.evicted = true, true }) // it may run on: nobody has to agree with it
		return
	}
	for id, e := range w.endpoints {
		if e.host == b {
			w.endpoints[id].gone = true
		}
	}
	b.locals = map[string]agent.Local{}
	b.write(func(d *catalog.Document) { d.Left, d.Endpoints = true, nil })
	b.after(3*time.Second, func() {
		b.stop(true)
	})
	w.losing(func() { b.gone, b.left = true, true })
}

// rollBack puts an older state on the disk of a host that is down, as a restored snapshot
// does. The machine boots anew, so its kernel is empty.
func (h *host) rollBack(n int) {
	h.stop(true)
	if len(h.past) == 0 {
		return
	}
	old := h.past[n%len(h.past)]
	h.w.losing(func() { h.saved, h.onDisk, h.disk = old.saved, old.onDisk, old.memory.clone() })
	h.w.forgetFreed(h)
}

// forge gives a host records that it must not take.
func (w *World) forge(a, b *host, n int) {
	records := b.cat.Records()
	r := records[n%len(records)]
	switch n % 3 {
	case 0: // somebody else's signature
		doc := b.author.Document()
		doc.Name, doc.Epoch, doc.Sequence, doc.Mesh = forgery, doc.Epoch+1000, 1, w.mesh
		signature := r.Signature
		r = sign(b.key, catalog.KindDocument, doc)
		if !w.bug.is(trustForged) {
			r.Signature = signature
		}
	case 1: // far ahead
		ahead := catalog.MaxSkew + 24*time.Hour
		if w.bug.is(trustFuture) {
			ahead = 0
		}
		view := b.cat.View()
		record, err := view.ProposeNetwork(catalog.NetworkRequest{
			Name: forgery, Pools: pools, PrefixLen: 25, Now: w.time() + a.skew + catalog.Millis(ahead.Milliseconds()),
		})
		if err != nil {
			return
		}
		r = sign(b.key, catalog.KindNetwork, record)
	case 2: // what has long been replaced
		if len(w.archive) > 0 {
			r = w.archive[n%len(w.archive)]
		}
	}
	a.merge(b, []catalog.Record{r})
}

// Shrink leaves out of a schedule what the failure does not need.
func Shrink(s Schedule, bug Bug, failure string) Schedule {
	for size := len(s.Ops) / 2; size > 0; {
		smaller := false
		for at := 0; at < len(s.Ops); {
			try := s
			try.Ops = slices.Delete(slices.Clone(s.Ops), at, min(at+size, len(s.Ops)))
			if _, err := Run(try, bug); broken(err) == failure {
				s, smaller = try, true
			} else {
				at += size
			}
		}
		if !smaller || size > len(s.Ops) {
			size /= 2
		}
	}
	return s
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }
