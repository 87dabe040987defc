package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/meshd/meshd/internal/netns"
)

// configure sets up the device that is there.
func (d *Device) configure(ctx context.Context, cfg Config) error {
	client, err := d.client()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	have, err := client.Device(d.name)
	if err != nil {
		return fmt.Errorf("reading WireGuard device %s: %w", d.name, err)
	}
	if err := d.setOwn(client, have, cfg); err != nil {
		return err
	}
	if err := configureLink(d.opts.MeshNamespace, d.name, cfg, d.opts.Changes); err != nil {
		return d.explainPort(err, cfg.ListenPort) // the kernel binds it when the link goes up
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.setPeers(ctx, client, have, cfg)
}

// client opens wgctrl inside the mesh namespace, where the kernel's devices are
// visible; it finds userspace ones by their sockets.
func (d *Device) client() (*wgctrl.Client, error) {
	var client *wgctrl.Client
	err := netns.Do(d.opts.MeshNamespace, func() error {
		var err error
		client, err = wgctrl.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening WireGuard's settings: %w", err)
	}
	return client, nil
}

// setOwn sets the private key and the port, if they differ.
func (d *Device) setOwn(client *wgctrl.Client, have *wgtypes.Device, cfg Config) error {
	var set wgtypes.Config
	if key := wgtypes.Key(cfg.PrivateKey); have.PrivateKey != key {
		set.PrivateKey = &key
	}
	if have.ListenPort != cfg.ListenPort {
		// Before the old port is given up.
		if err := checkPort(d.opts.HostNamespace, cfg.ListenPort); err != nil {
			return err
		}
		set.ListenPort = &cfg.ListenPort
	}
	if set.PrivateKey == nil && set.ListenPort == nil {
		return nil
	}
	if err := client.ConfigureDevice(d.name, set); err != nil {
		err = fmt.Errorf("setting key and port of WireGuard device %s: %w", d.name, err)
		if set.ListenPort != nil {
			err = d.explainPort(err, cfg.ListenPort)
		}
		return err
	}
	d.opts.Changes.Note("wg set %s, its own key or port", d.name)
	return nil
}

// explainPort returns a PortTakenError where err comes of one: EADDRINUSE from the kernel, and from
// wireguard-go's socket the number of it in a text.
func (d *Device) explainPort(err error, port int) error {
	if !errors.Is(err, unix.EADDRINUSE) && !strings.Contains(err.Error(), fmt.Sprintf("errno=-%d", unix.EADDRINUSE)) {
		return err
	}
	var taken *PortTakenError
	if errors.As(checkPort(d.opts.HostNamespace, port), &taken) {
		return taken
	}
	return err // free again: the next Apply will do
}

func (d *Device) setPeers(ctx context.Context, client *wgctrl.Client, have *wgtypes.Device, cfg Config) error {
	self := wgtypes.Key(cfg.PrivateKey).PublicKey()
	want := wantPeers(cfg, self, d.log)
	ops, trials := plan(want, toHave(have.Peers), d.trials, d.now())
	if len(ops) == 0 {
		d.trials = trials
		return nil
	}
	var set wgtypes.Config
	for _, o := range ops {
		level := slog.LevelDebug
		if o.lasting() {
			level = slog.LevelInfo
		}
		d.log.Log(ctx, level, "changing WireGuard", "change", o.String())
		set.Peers = append(set.Peers, o.configs()...)
	}
	if err := client.ConfigureDevice(d.name, set); err != nil {
		return fmt.Errorf("changing %d peers of WireGuard device %s: %w", len(ops), d.name, err)
	}
	d.trials = trials
	for _, o := range ops {
		if o.lasting() { // where a silent peer is looked for changes by itself
			d.opts.Changes.Note("wg set %s %s", d.name, o)
		}
	}
	return nil
}

// configs is the change as wgctrl wants it. A peer that has gone meanwhile is not made anew.
//
// To call a peer its keepalive is switched off and on: WireGuard then sends one at once, and with
// it a handshake. By itself it stops calling after 90 s, until there is something to send.
func (o op) configs() []wgtypes.PeerConfig {
	c := o.config()
	if o.call == 0 {
		return []wgtypes.PeerConfig{c}
	}
	var off time.Duration
	c.PersistentKeepaliveInterval = &o.call
	return []wgtypes.PeerConfig{{PublicKey: o.key, UpdateOnly: true, PersistentKeepaliveInterval: &off}, c}
}

func (o op) config() wgtypes.PeerConfig {
	c := wgtypes.PeerConfig{
		PublicKey: o.key, Remove: o.remove, UpdateOnly: !o.add && !o.remove,
		ReplaceAllowedIPs: o.addresses != nil, PersistentKeepaliveInterval: o.keepalive,
	}
	for _, p := range o.addresses {
		c.AllowedIPs = append(c.AllowedIPs, *toIPNet(p))
	}
	if o.endpoint.IsValid() {
		c.Endpoint = net.UDPAddrFromAddrPort(o.endpoint)
	}
	return c
}

func toHave(peers []wgtypes.Peer) []havePeer {
	out := make([]havePeer, len(peers))
	for i, p := range peers {
		h := havePeer{
			key: p.PublicKey, keepalive: p.PersistentKeepaliveInterval, endpoint: toAddrPort(p.Endpoint),
			handshake: handshakeTime(p.LastHandshakeTime), rx: p.ReceiveBytes, tx: p.TransmitBytes,
		}
		for _, n := range p.AllowedIPs {
			h.addresses = append(h.addresses, toPrefix(&n))
		}
		out[i] = h
	}
	return out
}

// handshakeTime makes of "never" the zero Time, also where it comes as the beginning of 1970.
func handshakeTime(t time.Time) time.Time {
	if t.Unix() <= 0 {
		return time.Time{}
	}
	return t
}

func toAddrPort(a *net.UDPAddr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Status reads the peers from the device. The error wraps os.ErrNotExist if there is no device.
func (d *Device) Status() ([]PeerStatus, error) {
	client, err := d.client()
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	dev, err := client.Device(d.name)
	if err != nil {
		return nil, fmt.Errorf("reading WireGuard device %s: %w", d.name, err)
	}
	out := make([]PeerStatus, 0, len(dev.Peers))
	for _, h := range toHave(dev.Peers) {
		out = append(out, PeerStatus{PublicKey: h.key, Endpoint: h.endpoint, LastHandshake: h.handshake, RX: h.rx, TX: h.tx})
	}
	return out, nil
}
