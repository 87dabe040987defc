// Package identity keeps who a node is: its keys, its membership and its epoch, in
// files below the state directory, and makes what only those keys can make: a new
// mesh, and tokens.
//
// The state directory has mode 0700, its files 0600. Each file is replaced whole, so
// a crash or a full disk leaves the old one or the new one. One process at a time
// holds the directory, see [Open]. The files are:
//
//	lock             the flock(2) of the process that runs, with its pid
//	identity.json    the Ed25519 identity key and the WireGuard key, written once
//	membership.json  the mesh id and the node's certificate, once it is a member
//	epoch            how often the agent has started with this identity
//
// A node whose state is lost comes back as another node: there is nothing in here that
// others could give back to it.
package identity
