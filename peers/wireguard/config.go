package wireguard

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Config is everything that should be.
type Config struct {
	PrivateKey [32]byte
	ListenPort int          // UDP, 1 to 65535, in the host's namespace
	Address    netip.Prefix // this host's mesh address with the mesh's prefix length, so that peers are on-link
	MTU        int          // bytes, 1280 to 65535 (IPv6 needs 1280, RFC 8200)
	Peers      []Peer
}

// Peer is another host of the mesh.
type Peer struct {
	ID        string // for messages
	PublicKey [32]byte
	Address   netip.Addr       // in the mesh; the only address that the peer may send from
	Endpoints []netip.AddrPort // candidates on the underlay, best first; none: the peer has to call us
	Keepalive time.Duration    // whole seconds; 0: none. Also the pace at which a silent path is noticed
}

func (c Config) validate() error {
	switch {
	case c.PrivateKey == [32]byte{}:
		return fmt.Errorf("WireGuard has no private key")
	case c.ListenPort < 1 || c.ListenPort > 65535:
		return fmt.Errorf("wireguard.listen_port is %d: it must be 1 to 65535", c.ListenPort)
	case !c.Address.IsValid() || !c.Address.Addr().Is6():
		return fmt.Errorf("mesh address %s is not an IPv6 address with a prefix length", c.Address)
	case c.MTU < 1280 || c.MTU > 65535:
		return fmt.Errorf("the MTU for WireGuard is %d: it must be 1280 to 65535, so the underlay needs an MTU of at least 1360", c.MTU)
	}
	return nil
}

// wantPeer is a WireGuard peer as it should be.
type wantPeer struct {
	id        string
	key       [32]byte
	addresses []netip.Addr // sorted
	endpoints []netip.AddrPort
	keepalive time.Duration
}

// wantPeers makes one WireGuard peer of each public key.
//
// Members name their keys themselves, so one could name another's. Both addresses then
// lead to the one who has the private key: the liar harms nobody but itself. An
// address that was given to one key already is not given to a second.
func wantPeers(cfg Config, self [32]byte, log *slog.Logger) []wantPeer {
	var out []wantPeer
	taken := map[netip.Addr]string{cfg.Address.Addr(): "this host"}
	index := map[[32]byte]int{}
	for _, p := range cfg.Peers {
		if p.PublicKey == self || p.PublicKey == [32]byte{} || !p.Address.Is6() {
			log.Warn("leaving out a peer whose WireGuard key or mesh address cannot be its own", "peer", p.ID)
			continue
		}
		if by, ok := taken[p.Address]; ok {
			log.Warn("leaving out a peer whose mesh address is taken", "peer", p.ID, "address", p.Address, "by", by)
			continue
		}
		taken[p.Address] = p.ID
		i, ok := index[p.PublicKey]
		if !ok {
			index[p.PublicKey] = len(out)
			out = append(out, wantPeer{
				id: p.ID, key: p.PublicKey, addresses: []netip.Addr{p.Address},
				endpoints: dialable(p.Endpoints), keepalive: p.Keepalive.Truncate(time.Second),
			})
			continue
		}
		log.Warn("two peers name the same WireGuard key", "peer", p.ID, "other", out[i].id)
		out[i].addresses = append(out[i].addresses, p.Address)
		slices.SortFunc(out[i].addresses, netip.Addr.Compare)
		out[i].endpoints = append(out[i].endpoints, dialable(p.Endpoints)...)
	}
	return out
}

// dialable leaves out what cannot be sent to, and unmaps IPv4.
func dialable(in []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, ap := range in {
		ap = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
		if ap.IsValid() && ap.Port() != 0 && !ap.Addr().IsUnspecified() && !slices.Contains(out, ap) {
			out = append(out, ap)
		}
	}
	return out
}

// shortKey is enough of a public key to tell peers apart in a log.
func shortKey(key [32]byte) string { return base64.StdEncoding.EncodeToString(key[:])[:10] }
