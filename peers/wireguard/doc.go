// Package wireguard keeps the host's WireGuard device equal to a [Config]: one peer
// for each other host of the mesh, each with its mesh address as the only address it
// may use.
//
// The device lies in the mesh namespace, its UDP socket in the host's. Where the kernel
// has WireGuard the device is the kernel's. Elsewhere it is a TUN device served by
// wireguard-go in a process of its own ([RunUserspace]), which goes on when the agent
// ends, so that a restart of the agent interrupts nothing. Both are set up through wgctrl.
//
// Peers are patched, never replaced: a peer that is right is not touched, and its session
// lives on.
package wireguard
