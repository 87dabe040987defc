package scale

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/catalog"
)

// costs is what one host of a mesh pays, measured with the real code.
type costs struct {
	takeAll time.Duration // a newcomer takes in everything, and sees it
	parse   time.Duration // a document in a frame, also one that is known
	merge   time.Duration // a changed document: checked, taken in
	view    time.Duration // and seen
	compile time.Duration // and what it changes in the desired state
	memory  int64         // bytes in use: records, view, desired state
	records int           // bytes, as they are sent

	keepalive time.Duration // of the tunnels
}

// measure makes one host of the mesh, and lets documents change.
func measure(m *mesh) (costs, error) {
	var c costs
	var parsing []time.Duration
	parse := func(records ...catalog.Record) ([]catalog.Record, error) {
		text, err := json.Marshal(records)
		if err != nil {
			return nil, err
		}
		var out []catalog.Record
		parsing = append(parsing, processor(func() { err = json.Unmarshal(text, &out) }))
		c.records = max(c.records, len(text))
		return out, err
	}
	records, err := parse(m.records...)
	if err != nil {
		return c, err
	}
	before := heapInUse()
	cat := catalog.New(m.id)
	var rejected []error
	var view *catalog.View
	c.takeAll = processor(func() {
		_, rejected = cat.Merge(m.now(), records...)
		view = cat.View()
	})
	if len(rejected) > 0 {
		return c, rejected[0]
	}
	desired := agent.Compile(m.inputs(0, view))
	c.memory = heapInUse() - before
	runtime.KeepAlive(records)
	runtime.KeepAlive(desired)

	var merge, look, compile []time.Duration
	for i := range 15 {
		parsed, err := parse(m.change(1 + i%3))
		if err != nil {
			return c, err
		}
		merge = append(merge, processor(func() { _, rejected = cat.Merge(m.now(), parsed...) }))
		if len(rejected) > 0 {
			return c, rejected[0]
		}
		look = append(look, processor(func() { view = cat.View() }))
		in := m.inputs(0, view)
		compile = append(compile, processor(func() { desired = agent.Compile(in) }))
	}
	if len(desired.WireGuard.Peers) != m.size-1 {
		return c, fmt.Errorf("%d peers in a mesh of %d", len(desired.WireGuard.Peers), m.size)
	}
	c.keepalive = desired.WireGuard.Peers[0].Keepalive
	c.parse, c.merge, c.view, c.compile = middle(parsing), middle(merge), middle(look), middle(compile)
	return c, nil
}

// processor is how long a function computes, whatever else the machine does meanwhile.
func processor(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() int64 {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			panic(err) // it cannot fail for one's own thread
		}
		return t.Nano()
	}
	began := now()
	f()
	return time.Duration(now() - began)
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what the first one set free, it swept only in part
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
