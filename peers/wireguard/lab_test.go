package wireguard

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/meshd/meshd/internal/netns"
)

const (
	testPort = 51820
	testMTU  = 1420
)

// testHost is a host: a namespace with an underlay address, and a mesh namespace.
type testHost struct {
	name       string
	host, mesh string // paths
	runtimeDir string
	underlay   netip.Addr
	address    netip.Addr // in the mesh
	key        wgtypes.Key
	device     *Device
}

// newPair makes two hosts with an underlay of MTU 1500 between them, and removes them.
func newPair(t *testing.T) (*testHost, *testHost) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, and CI must not skip")
		}
		t.Skip("needs root to make network namespaces")
	}
	a := newHost(t, "a", "10.99.0.1", "fd00:1::a")
	b := newHost(t, "b", "10.99.0.2", "fd00:1::b")
	peer, err := netns.Open(b.host)
	must(t, err)
	defer func() { _ = peer.Close() }()
	must(t, withNetlink(a.host, func(nl *netlink.Handle) error {
		return nl.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.FD()), PeerMTU: 1500,
		})
	}))
	for _, h := range []*testHost{a, b} {
		must(t, withNetlink(h.host, func(nl *netlink.Handle) error {
			link, err := nl.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := nl.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(h.underlay, 24))}); err != nil {
				return err
			}
			return nl.LinkSetUp(link)
		}))
	}
	return a, b
}

func newHost(t *testing.T, name, underlay, address string) *testHost {
	t.Helper()
	dir := t.TempDir()
	h := &testHost{
		name: name, host: filepath.Join(dir, "host"), mesh: filepath.Join(dir, "netns"), runtimeDir: dir,
		underlay: netip.MustParseAddr(underlay), address: netip.MustParseAddr(address), key: newKey(t),
	}
	for _, path := range []string{h.host, h.mesh} {
		ns, err := netns.Create(path)
		must(t, err)
		_ = ns.Close()
		t.Cleanup(func() {
			if err := netns.Delete(path); err != nil {
				t.Error(err)
			}
		})
	}
	h.device = h.newDevice(t, nil)
	t.Cleanup(func() {
		if err := h.device.Remove(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *testHost) newDevice(t *testing.T, change func(*Options)) *Device {
	t.Helper()
	opts := Options{MeshNamespace: h.mesh, HostNamespace: h.host, RuntimeDir: h.runtimeDir, Mode: ModeUserspace, Logger: testLogger(t).With("host", h.name)}
	if change != nil {
		change(&opts)
	}
	d, err := New(opts)
	must(t, err)
	return d
}

func (h *testHost) config(peers ...*testHost) Config { return h.configOn(testPort, peers...) }

// configOn is config with another port of the peers.
func (h *testHost) configOn(port uint16, peers ...*testHost) Config {
	cfg := Config{PrivateKey: h.key, ListenPort: testPort, Address: netip.PrefixFrom(h.address, 48), MTU: testMTU}
	for _, p := range peers {
		cfg.Peers = append(cfg.Peers, Peer{
			ID: p.name, PublicKey: p.key.PublicKey(), Address: p.address,
			Endpoints: []netip.AddrPort{netip.AddrPortFrom(p.underlay, port)}, Keepalive: 25 * time.Second,
		})
	}
	return cfg
}

func (h *testHost) apply(t *testing.T, cfg Config) {
	t.Helper()
	if err := h.device.Apply(t.Context(), cfg); err != nil {
		t.Fatalf("applying on host %s: %v", h.name, err)
	}
}

func (h *testHost) statuses(t *testing.T) []PeerStatus {
	t.Helper()
	st, err := h.device.Status()
	must(t, err)
	return st
}

func (h *testHost) status(t *testing.T, of *testHost) PeerStatus {
	t.Helper()
	for _, st := range h.statuses(t) {
		if st.PublicKey == of.key.PublicKey() {
			return st
		}
	}
	t.Fatalf("host %s has no peer %s", h.name, of.name)
	return PeerStatus{}
}

func (h *testHost) pid(t *testing.T) int {
	t.Helper()
	conn, err := h.device.userspace.dial()
	must(t, err)
	defer func() { _ = conn.Close() }()
	pid, err := peerPID(conn)
	must(t, err)
	return pid
}

func (h *testHost) link(t *testing.T) netlink.Link {
	t.Helper()
	var link netlink.Link
	must(t, withNetlink(h.mesh, func(nl *netlink.Handle) error {
		var err error
		link, err = nl.LinkByName(h.device.Name())
		return err
	}))
	return link
}

func (h *testHost) addresses(t *testing.T) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	must(t, withNetlink(h.mesh, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(h.device.Name())
		if err != nil {
			return err
		}
		addrs, err := nl.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range addrs {
			out = append(out, toPrefix(a.IPNet))
		}
		return err
	}))
	return out
}

// useIPv6 gives the host an IPv6 underlay address, for others to use.
func (h *testHost) useIPv6(t *testing.T, address string) {
	t.Helper()
	h.underlay = netip.MustParseAddr(address)
	must(t, withNetlink(h.host, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName("eth0")
		if err != nil {
			return err
		}
		return nl.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(h.underlay, 64)), Flags: unix.IFA_F_NODAD})
	}))
}

// fragments is how many fragments the host made, of IPv4 and of IPv6 packets.
func (h *testHost) fragments(t *testing.T) string {
	t.Helper()
	var v4, v6 string
	must(t, netns.Do(h.host, func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		lines := strings.Split(string(snmp), "\n")
		v4 = strings.Fields(lines[1])[slices.Index(strings.Fields(lines[0]), "FragCreates")]
		snmp6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		_, v6, _ = strings.Cut(string(snmp6), "Ip6FragCreates")
		v6 = strings.Fields(v6)[0]
		return nil
	}))
	return v4 + " " + v6
}

// ip runs ip(8) in the mesh namespace, as somebody who meddles would.
func (h *testHost) ip(t *testing.T, args ...string) {
	t.Helper()
	must(t, netns.Do(h.mesh, func() error {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
		return nil
	}))
}

func (h *testHost) assertNothingLeft(t *testing.T) {
	t.Helper()
	for _, path := range []string{h.mesh, h.host} {
		if kind, err := linkType(path, h.device.Name()); kind != "" || err != nil {
			t.Errorf("a link of type %q is left in %s (%v)", kind, path, err)
		}
	}
	for _, path := range []string{socketPath(h.device.Name()), h.device.userspace.logPath()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
