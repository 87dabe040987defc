package agent

import (
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/netns"
)

func TestLocalsGrowAndShrink(t *testing.T) {
	l, err := openLocals(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first := catalog.Attachment{Network: "a", Index: 7}
	if err := l.Put(Local{Key: "cni/x", Endpoint: catalog.Endpoint{ID: "e", Attachments: []catalog.Attachment{first}},
		Interfaces: map[string]string{"a": "eth5"}}); err != nil {
		t.Fatal(err)
	}
	before, _ := l.ByKey("cni/x")
	if err := l.AddAttachment("e", catalog.Attachment{Network: "b", Index: 8}, "eth1", "list"); err != nil {
		t.Fatal(err)
	}
	both, ok := l.ByKey("cni/x")
	if !ok || !both.on("a") || both.interfaceName(0) != "eth5" || both.interfaceName(1) != "eth1" || both.Owners["b"] != "list" {
		t.Errorf("on two networks it is %+v", both)
	}
	if len(before.Interfaces) != 1 {
		t.Errorf("a copy changed: %+v", before)
	}
	if err := l.RemoveAttachment("e", "a", now()); err != nil {
		t.Fatal(err)
	}
	one, _ := l.ByKey("cni/x")
	if one.on("a") || !one.on("b") || one.interfaceName(0) != "eth1" || len(one.Interfaces) != 1 {
		t.Errorf("on one network it is %+v", one)
	}
	if !l.AddressBusy("a", 7, now()) {
		t.Error("the address that was left does not rest")
	}
	if _, ok := l.ByKey("cni/y"); ok {
		t.Error("a key that nobody has is found")
	}
}

// TestEndpointGoesWithItsSource: the caller's path decides, not our own name for the namespace.
func TestEndpointGoesWithItsSource(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	source, ours := filepath.Join(dir, "source"), filepath.Join(dir, "ours")
	create := func() {
		t.Helper()
		h, err := netns.Create(source)
		if err != nil {
			t.Fatal(err)
		}
		_ = h.Close() // the path keeps it
	}
	create()
	t.Cleanup(func() {
		for _, path := range []string{source, ours} {
			if err := netns.Delete(path); err != nil {
				t.Error(err)
			}
		}
	})
	if err := netns.Bind(source, ours); err != nil {
		t.Fatal(err)
	}
	keyed, plain := Local{Namespace: ours, Source: source}, Local{Namespace: ours}
	if !keyed.exists() || !plain.exists() {
		t.Error("the namespace is there, but the endpoint is not")
	}
	if err := netns.Delete(source); err != nil {
		t.Fatal(err)
	}
	if keyed.exists() || !plain.exists() {
		t.Errorf("without the source: keyed %v, plain %v", keyed.exists(), plain.exists())
	}
	create()
	if keyed.exists() {
		t.Error("another namespace of the same path counts as the endpoint's")
	}
}

func TestKeyLocksKeepOneOut(t *testing.T) {
	var locks keyLocks
	var order []int
	unlock := locks.lock("a")
	locks.lock("b")() // another key waits for nobody
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			defer locks.lock("a")()
			order = append(order, i) // the race detector sees two at once
		})
	}
	order = append(order, -1)
	unlock()
	all.Wait()
	slices.Sort(order)
	if !slices.Equal(order, []int{-1, 0, 1, 2}) || len(locks.held) != 0 {
		t.Errorf("order %v, locks left %v", order, locks.held)
	}
}
