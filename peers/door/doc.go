// Package door is how a host becomes a member: TCP and TLS 1.3, the only thing besides
// WireGuard that meshd listens with on the underlay.
//
// The server's TLS key is its node's identity key. Nothing of X.509 counts: the client
// asks for the mesh in its token, the server shows the records that lead from the
// mesh's key to its own certificate, and the client checks them. Then the client sends
// its request: its key, the token's record, the invite's signature for that key, its first
// document. It signs it together with a value of this very TLS session (RFC 5705,
// RFC 8446 section 7.5), so whoever sits between cannot use it anywhere else. The
// invite's secret never leaves the joiner.
//
// On the wire are frames: four bytes of length, big endian, and JSON.
//
//	client  hello    protocol version, mesh id
//	server  welcome  its time and chain, or why not
//	client  request  signed with the TLS session
//	server  answer   certificate, or why not; then the catalog's records, and an empty frame
//
// A newcomer without a token is let in by people who compare a code, at a signer's door:
//
//	client  hello    protocol version, commitment to a number
//	server  offer    a number of its own, or why not
//	client  reveal   its number, and its name
//	server  grant    once somebody has let it in: a token, with which it joins as above
//
// Who does not know the mesh's id learns nothing but the node's public key, and whether it is a signer.
package door
