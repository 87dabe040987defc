// Package scale measures what a large mesh costs: how long a change takes to all hosts, and what each
// host pays for being one of so many, up to 1,000 hosts with 20 endpoints each, in one process.
//
// What is real: the catalog, the syncer and its frames, membership with Serf, the compile step. What
// is simulated: time (testing/synctest), the network (memnet, with the latency and bandwidth of a
// local network, counting what would be on the wire), and what does not fit into one process a
// thousand times over: hosts share the records in memory, they do not check a signature that another has
// checked, and what merging, viewing, compiling and applying cost is waited for instead, as measured
// with one real host of that mesh before.
package scale
