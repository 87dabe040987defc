package ingress

import (
	"fmt"

	"github.com/meshd/meshd/internal/netns"
)

// A translated is a namespace with one of our tables in it. It keeps the namespace open, so that the
// table can be removed even after its path has gone.
type translated struct {
	id     tableID
	handle *netns.Handle
	// Kept open: to close it after a change waits until the kernel has let go of what was replaced, some 10 ms.
	kernel *kernel // nil until needed
	// While the ruleset's generation is this one, nobody has touched it since the last
	// Apply, and the table need not be read back.
	generation uint32
	known      bool
}

// open makes sure that the namespace is the one at path.
func (t *translated) open(path string) error {
	h, err := netns.Open(path)
	if err != nil {
		return err
	}
	if t.handle != nil && t.handle.ID() == h.ID() {
		return h.Close()
	}
	t.forgetHandle()
	t.handle = h
	return nil
}

func (t *translated) forgetHandle() {
	t.hangUp()
	if t.handle != nil {
		_ = t.handle.Close()
	}
	t.handle, t.known = nil, false
}

// dial opens nftables in the namespace, unless it is open.
func (t *translated) dial() (*kernel, error) {
	if t.kernel != nil {
		return t.kernel, nil
	}
	k, err := dialKernel(t.handle.FD(), t.id)
	t.kernel = k
	return k, err
}

// hangUp is called after every error: nobody knows then what the kernel still has to say.
func (t *translated) hangUp() {
	if t.kernel != nil {
		t.kernel.close()
	}
	t.kernel = nil
}

// tables is the two ways to say what should be in the kernel.
type tables struct {
	full func() table              // everything
	step func() (want, have table) // only what differs from the last Apply, and how that was
}

// apply makes the kernel's table equal to the wanted one, in one transaction with only what differs. It
// returns the changes, and whether the whole table had to be read for them because
// this is the first time or somebody else has changed the ruleset.
func (t *translated) apply(want tables) (ops []op, full bool, err error) {
	defer func() {
		if err != nil {
			t.hangUp()
		}
	}()
	k, err := t.dial()
	if err != nil {
		return nil, false, err
	}
	if t.known {
		ops, err = t.applyStep(k, want.step)
		if err == nil && t.known {
			return ops, false, nil
		}
		t.known = false
		if err != nil {
			t.hangUp()
			if k, err = t.dial(); err != nil {
				return ops, true, err
			}
		}
	}
	more, err := t.applyFull(k, want.full)
	return append(ops, more...), true, err
}

func (t *translated) applyStep(k *kernel, step func() (want, have table)) ([]op, error) {
	generation, err := k.generation()
	if err != nil {
		return nil, err
	}
	if generation != t.generation {
		t.known = false
		return nil, nil
	}
	want, have := step()
	return t.commit(k, generation, plan(want, &have))
}

func (t *translated) applyFull(k *kernel, full func() table) ([]op, error) {
	generation, err := k.generation()
	if err != nil {
		return nil, err
	}
	want := full()
	have, err := k.read(want)
	if err != nil {
		return nil, err
	}
	return t.commit(k, generation, plan(want, have))
}

func (t *translated) commit(k *kernel, before uint32, ops []op) ([]op, error) {
	if len(ops) == 0 {
		t.generation, t.known = before, true
		return nil, nil
	}
	t.known = false
	if err := k.commit(ops); err != nil {
		return nil, err
	}
	after, err := k.generation()
	if err != nil {
		return ops, err
	}
	t.generation, t.known = after, after == before+1
	return ops, nil
}

// remove takes our table out of the namespace and lets go of it.
func (t *translated) remove() error {
	if t.handle == nil {
		return nil
	}
	defer t.forgetHandle()
	k, err := t.dial()
	if err != nil {
		return err
	}
	have, err := k.read(table{})
	if err != nil || have == nil {
		return err
	}
	return k.commit([]op{{table: t.id, verb: deleteTable}})
}

// A client is a namespace in which virtual IPs are translated, as the last Apply left it.
type client struct {
	translated
	services []VirtualIP
	stale    flowFilter // flows that the last Apply has left without a replica; nil: there are none to look for
}

func (c *client) apply(want Client) ([]op, error) {
	services := vipKind.sorted(want.Services)
	if err := c.open(want.Namespace); err != nil {
		return nil, err
	}
	last := c.services
	ops, full, err := c.translated.apply(tables{
		full: func() table { return compileClient(services, services) },
		step: func() (table, table) {
			old, new := vipKind.changed(last, services)
			return compileClient(services, new), compileClient(last, old)
		},
	})
	if err != nil {
		return ops, err
	}
	c.services = services
	c.stale = staleIn(serviceBalancer, vipKind.touched(last, services, full && len(ops) > 0))
	return ops, nil
}

// staleIn returns a filter for flows of the touched items that have lost their replica; nil if nothing was touched.
func staleIn[T any](balance func(ipv6 bool, touched []T) *balancer, touched []T) flowFilter {
	if len(touched) == 0 {
		return nil
	}
	return either(balance(false, touched).stale(), balance(true, touched).stale())
}

// forgetStale ends what goes to replicas that have gone. Connections of others that only pass through the
// namespace meet a replica that does not know them at their next packet, which resets them.
func (c *client) forgetStale() error {
	if c.stale == nil {
		return nil
	}
	stale := c.stale
	c.stale = nil
	_, err := forget(c.handle, stale)
	return err
}

// describe is the reason for an error, for a person.
func describe(endpoint string, err error) error {
	return fmt.Errorf("translating virtual IPs for endpoint %s: %w", endpoint, err)
}
