package overlay

import (
	"bytes"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/meshd/meshd/internal/journal"
	"github.com/meshd/meshd/internal/link"
)

// guardName is our nftables table in the mesh namespace. Its one rule drops what a
// bridge hands up to the namespace's own IP stack: without it an endpoint that
// sends an IPv6 packet for the mesh address in a frame to the bridge's MAC would
// reach the sockets of gossip and sync.
const guardName = "meshd-overlay"

// bridgePrefix is what the names of all our bridges begin with, see BridgeName.
const bridgePrefix = "br"

func ensureGuard(mesh *link.Namespace, changes *journal.Journal) error {
	conn, err := nftables.New(nftables.WithNetNSFd(mesh.Handle().FD()))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	if ok, err := guarded(conn); err != nil || ok {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: guardName}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	table = conn.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, UserData: []byte(guardName), Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(bridgePrefix)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", guardName, err)
	}
	changes.Note("nft add table inet %s", guardName)
	return nil
}

// guarded says whether the table is as ensureGuard makes it.
func guarded(conn *nftables.Conn) (bool, error) {
	table, err := findGuard(conn)
	if table == nil || err != nil {
		return false, err
	}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: "input", Table: table})
	if err != nil {
		return false, nil // the chain has gone
	}
	return len(rules) == 1 && bytes.Equal(rules[0].UserData, []byte(guardName)), nil
}

func findGuard(conn *nftables.Conn) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing nftables tables: %w", err)
	}
	for _, table := range tables {
		if table.Name == guardName {
			return table, nil
		}
	}
	return nil, nil
}

func removeGuard(mesh *link.Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(mesh.Handle().FD()))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	table, err := findGuard(conn)
	if table == nil || err != nil {
		return err
	}
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("deleting nftables table %s: %w", guardName, err)
	}
	return nil
}
