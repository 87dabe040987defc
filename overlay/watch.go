package overlay

import (
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
)

// Reading tables of 80,000 rows, which a network of 1,000 hosts has, takes a third of a second. So large
// tables are read again only when the kernel told of a change that is not ours, and now and then
// to be sure; small ones every time.
const (
	slowRead     = 10 * time.Millisecond // from here on the tables are large
	readShare    = 50                    // of so many times a reading's length, it may take one
	longestTrust = time.Minute
	watchBuffer  = 8 << 20 // bytes, for what the kernel tells of
)

// reading is what is known of the kernel's tables between two passes. The zero reading knows nothing.
type reading struct {
	of    string  // which namespace
	want  []entry // what was applied last
	have  []entry // the same, one for each key, as we left the tables; nil: not known
	read  time.Time
	took  time.Duration
	watch *watch
}

// trusted says whether the tables are as we left them.
func (t *reading) trusted(mesh *link.Namespace) bool {
	return t.have != nil && t.of == mesh.Handle().ID() && t.watch != nil && !t.watch.isTouched() && time.Since(t.read) < min(readShare*t.took, longestTrust)
}

// observe reads the tables. If they are large they are watched from before that on.
func (t *reading) observe(mesh *link.Namespace, links map[string]netlink.Link) ([]entry, error) {
	if t.took > slowRead {
		t.stop()
		t.watch = startWatch(mesh)
	}
	t.of, t.read = mesh.Handle().ID(), time.Now()
	have, err := observeEntries(mesh, links)
	t.took = time.Since(t.read)
	return have, err
}

// expect says what the tables are about to hold, so that the kernel's word of it is no news.
func (t *reading) expect(want, have []entry) {
	t.want, t.have = want, have
	if t.watch != nil {
		t.watch.expect(have)
	}
}

func (t *reading) stop() {
	if t.watch != nil {
		t.watch.stop()
		t.watch = nil
	}
}

// firsts leaves out entries whose key an earlier one has: see plan.
func firsts(want []entry) []entry {
	seen := make(map[key]bool, len(want))
	return slices.DeleteFunc(slices.Clone(want), func(e entry) bool {
		taken := seen[e.key()]
		seen[e.key()] = true
		return taken
	})
}

// watch hears what the kernel tells of the tables in one namespace.
type watch struct {
	done chan struct{}
	once sync.Once

	mu       sync.Mutex // guards all below
	expected map[key]entry
	ours     map[int]bool // interface numbers that the tables are of
	touched  bool         // something is, or was, not as expected, or the kernel could not tell all
}

// startWatch returns nil if the kernel does not tell.
func startWatch(mesh *link.Namespace) *watch {
	w := &watch{done: make(chan struct{}), ours: map[int]bool{}}
	updates := make(chan netlink.NeighUpdate, 1024)
	err := netlink.NeighSubscribeWithOptions(updates, w.done, netlink.NeighSubscribeOptions{
		Namespace: mesh.Handle().ForNetlink(), ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true,
		ErrorCallback: func(error) { w.touch() },
	})
	if err != nil {
		return nil
	}
	go func() {
		for u := range updates {
			w.hear(u)
		}
		w.touch() // nobody hears any more
	}()
	return w
}

func (w *watch) stop() { w.once.Do(func() { close(w.done) }) }

func (w *watch) touch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.touched = true
}

func (w *watch) isTouched() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.touched
}

func (w *watch) expect(want []entry) {
	expected := make(map[key]entry, len(want))
	ours := map[int]bool{}
	for _, e := range want {
		expected[e.key()], ours[e.group], ours[e.link] = e, true, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected, w.ours = expected, ours
}

// hear notes a change that leads away from what is expected.
func (w *watch) hear(u netlink.NeighUpdate) {
	e, ok := fromKernel(u.Neigh)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ours[e.group] && !w.ours[e.link] {
		return
	}
	wanted, known := w.expected[e.key()]
	as := known && wanted == e
	if gone := u.Type == unix.RTM_DELNEIGH; gone == as {
		w.touched = true
	}
}
