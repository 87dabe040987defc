// Package claims is the protocol by which the nodes of a mesh share out addresses
// without a leader: how a node writes its document, when it may use a block that it
// claims, and what an acknowledgement is worth.
//
// It is pure, as the catalog is: no IO, no goroutines, no clock. The agent runs it on
// hosts, the simulator in test/sim runs the same code through partitions and crashes.
package claims
