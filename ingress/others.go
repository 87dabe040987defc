package ingress

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/nftables"

	"github.com/meshd/meshd/internal/netns"
)

// others tells whether somebody else filters or redirects in a namespace, such as a container with a firewall of
// its own. Their rules may ask conntrack about connections.
type others struct {
	generation uint32 // of the ruleset when nftables was last asked
	found      bool
}

// look asks the kernel; nftables only if its ruleset has changed.
func (o *others) look(h *netns.Handle, k *kernel) (bool, error) {
	legacy, err := legacyTables(h)
	if err != nil || legacy {
		return legacy, err
	}
	generation, err := k.generation()
	if err != nil || generation == o.generation {
		return o.found, err
	}
	chains, err := k.conn.ListChains()
	if err != nil {
		return false, fmt.Errorf("listing nftables chains: %w", err)
	}
	o.found, o.generation = false, generation
	for _, c := range chains {
		o.found = o.found || !ours(c.Table) && asksConntrack(c)
	}
	return o.found, nil
}

func ours(t *nftables.Table) bool { return t.Name == translateTable.name || t.Name == returnTable.name }

// asksConntrack tells whether a chain sees connections that come in. Those of NAT on the way out do not: Docker has
// such in containers, for its name server.
func asksConntrack(c *nftables.Chain) bool {
	switch c.Table.Family {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
	default:
		return false
	}
	if c.Hooknum == nil { // others lead there
		return false
	}
	outgoing := *c.Hooknum == *nftables.ChainHookOutput || *c.Hooknum == *nftables.ChainHookPostrouting
	return c.Type != nftables.ChainTypeNAT || !outgoing
}

// legacyTables tells whether a namespace has tables of the kernel's older iptables. What is in them only
// a program of theirs could say.
func legacyTables(h *netns.Handle) (found bool, err error) {
	err = h.Do(func() error {
		for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
			content, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // not in every kernel
				return fmt.Errorf("looking for iptables: %w", err)
			}
			found = found || len(content) > 0
		}
		return nil
	})
	return found, err
}
