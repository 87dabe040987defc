package configs

import (
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

var netipEqual = cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})

func TestEmptyIsDefault(t *testing.T) {
	c, err := Parse(strings.NewReader(""), "meshd.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, netipEqual); diff != "" {
		t.Error(diff)
	}
	if c.Socket() != DefaultSocket {
		t.Errorf("socket is %s, the client expects %s", c.Socket(), DefaultSocket)
	}
}

func TestEveryKey(t *testing.T) {
	const text = `
node: {name: web-1, advertise: [203.0.113.7, "[2001:db8::1]:51821", web.example.com]}
state_dir: /a/state/
runtime_dir: /a/run
wireguard: {mode: userspace, listen_port: 1234}
join: {listen: "192.0.2.1:77", addresses: "m1, m2:7000", token_file: /a/token}
address_pools: [10.1.0.0/16, "fd00::/32"]
network_prefix: 24
gateway: {subnet: 10.2.0.0/24}
dns: {domain: example, upstreams: [192.0.2.53, "[2001:db8::53]:5353"]}
docker: {enabled: false}
metrics: {listen: off}
log: {level: warn, format: json}
`
	want := Config{
		Node:     Node{Name: "web-1", Advertise: []string{"203.0.113.7", "[2001:db8::1]:51821", "web.example.com"}},
		StateDir: "/a/state", RuntimeDir: "/a/run",
		WireGuard:     WireGuard{Mode: ModeUserspace, ListenPort: 1234},
		Join:          Join{Listen: "192.0.2.1:77", Addresses: []string{"m1", "m2:7000"}, TokenFile: "/a/token"},
		AddressPools:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/32")},
		NetworkPrefix: 24,
		Gateway:       Gateway{Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}},
		DNS: DNS{Domain: "example", Upstreams: []netip.AddrPort{
			netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:5353")}},
		Docker: Off,
		Log:    Log{Level: slog.LevelWarn, Format: FormatJSON},
	}
	got, err := Parse(strings.NewReader(text), "meshd.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, netipEqual); diff != "" {
		t.Error(diff)
	}
}

func TestPrecedence(t *testing.T) {
	const file = "wireguard: {mode: kernel, listen_port: 1}\njoin: {addresses: [a]}\n"
	t.Setenv("MESHD_WIREGUARD_LISTEN_PORT", "2")
	t.Setenv("MESHD_JOIN_ADDRESSES", "b, c")
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse([]string{"--join-addresses=d,e"}); err != nil {
		t.Fatal(err)
	}
	c, err := Parse(strings.NewReader(file), "meshd.yaml", flags)
	if err != nil {
		t.Fatal(err)
	}
	if c.WireGuard.Mode != ModeKernel || c.WireGuard.ListenPort != 2 || !slices.Equal(c.Join.Addresses, []string{"d", "e"}) {
		t.Errorf("file, environment, flag: got %v %d %v", c.WireGuard.Mode, c.WireGuard.ListenPort, c.Join.Addresses)
	}
}

// Each message is one line that names the source, the key, the value, and what is allowed.
func TestBadInput(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"wireguard: {mode: kernal}", `m.yaml: wireguard.mode: "kernal" is not allowed: use auto, kernel or userspace (did you mean kernel?)`},
		{"wireguard: {mod: kernel}", `m.yaml: unknown key wireguard.mod: did you mean wireguard.mode?`},
		{"statedir: /x", `m.yaml: unknown key statedir: did you mean state_dir?`},
		{"colour: red", `m.yaml: unknown key colour: the keys are node.name, `},
		{"wireguard: kernel", `m.yaml: wireguard: "kernel" is not allowed: it is a section`},
		{"wireguard: {listen_port: 70000}", `m.yaml: wireguard.listen_port: "70000" is not allowed: use a port from 1 to 65535`},
		{"wireguard: {listen_port: [1, 2]}", `m.yaml: wireguard.listen_port: "1, 2" is not allowed: use one value, not a list`},
		{"node: {name: Web_1}", `m.yaml: node.name: "Web_1" is not allowed: use 1 to 63 lower-case letters`},
		{"node: {advertise: ['a b']}", `m.yaml: node.advertise: "a b" is not allowed: "a b": use ADDRESS, NAME`},
		{"state_dir: lib", `m.yaml: state_dir: "lib" is not allowed: use an absolute path`},
		{"state_dir: /x\nruntime_dir: /x", `m.yaml: runtime_dir: "/x" is not allowed: it is state_dir as well`},
		{"join: {listen: 7946}", `m.yaml: join.listen: "7946" is not allowed: use ADDRESS:PORT`},
		{"address_pools: [10.0.0.1/8]", `m.yaml: address_pools: "10.0.0.1/8" is not allowed: "10.0.0.1/8" has bits set after its prefix: use 10.0.0.0/8`},
		{"address_pools: [10.0.0.0/8, 10.1.0.0/16]", `10.1.0.0/16 overlaps 10.0.0.0/8: leave one out`},
		{"address_pools: ['fd00::/8']", `name at least one IPv4 range`},
		{"address_pools: [198.19.0.0/16]", `m.yaml: gateway.subnet: "198.19.0.0/16" is not allowed: it overlaps address_pools' 198.19.0.0/16`},
		{"network_prefix: 8", `m.yaml: network_prefix: "8" is not allowed: no range in address_pools holds`},
		{"network_prefix: big", `m.yaml: network_prefix: "big" is not allowed: use a number from 8 to 29`},
		{"gateway: {subnet: ['fd00::/64']}", `use one IPv4 range of at least /29`},
		{"dns: {domain: mesh.internal.}", `m.yaml: dns.domain: "mesh.internal." is not allowed: use lower-case labels`},
		{"dns: {upstreams: [resolver]}", `m.yaml: dns.upstreams: "resolver" is not allowed: "resolver": use ADDRESS or ADDRESS:PORT`},
		{"docker: {enabled: yeah}", `m.yaml: docker.enabled: "yeah" is not allowed: use auto, true or false`},
		{"metrics: {listen: here}", `m.yaml: metrics.listen: "here" is not allowed: use ADDRESS:PORT, or :PORT for all addresses, or off`},
		{"log: {level: loud}", `m.yaml: log.level: "loud" is not allowed: use debug, info, warn or error`},
		{"log: {level: {a: b}}", `m.yaml: log.level: "map[a:b]" is not allowed: use a value, it has no keys below it`},
		{"log: [", `m.yaml: this is not YAML of keys and values: `},
		{"just text", `m.yaml: this is not YAML of keys and values: `},
	} {
		_, err := Parse(strings.NewReader(test.text), "m.yaml", nil)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\n got %v\nwant %s", test.text, err, test.want)
		}
	}
}

func TestBadEnvironmentAndFlag(t *testing.T) {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse([]string{"--log-level=loud"}); err != nil {
		t.Fatal(err)
	}
	_, err := Parse(strings.NewReader(""), "m.yaml", flags)
	if err == nil || !strings.HasPrefix(err.Error(), `flag --log-level: log.level: "loud"`) {
		t.Error(err)
	}
	t.Setenv("MESHD_LOG_FORMAT", "xml")
	_, err = Parse(strings.NewReader(""), "m.yaml", nil)
	if err == nil || !strings.HasPrefix(err.Error(), `environment MESHD_LOG_FORMAT: log.format: "xml"`) {
		t.Error(err)
	}
	t.Setenv("MESHD_LOG_FORMAT", "json")
	t.Setenv("MESHD_WIREGARD_MODE", "kernel")
	_, err = Parse(strings.NewReader(""), "m.yaml", nil)
	if err == nil || err.Error() != "environment: unknown variable MESHD_WIREGARD_MODE: did you mean MESHD_WIREGUARD_MODE?" {
		t.Error(err)
	}
	environment := func(names ...string) error {
		return checkEnvironment(names, []string{"MESHD_LOG_LEVEL", "MESHD_STATE_DIR"})
	}
	const unknown = "environment: unknown variable MESHD_COLOUR: unset it, or use one of MESHD_LOG_LEVEL, MESHD_STATE_DIR"
	if err := environment("MESHD_COLOUR=red"); err == nil || err.Error() != unknown {
		t.Error(err)
	}
	if err := environment("MESHD_SOKET=/x"); err == nil || !strings.HasSuffix(err.Error(), "did you mean MESHD_SOCKET?") {
		t.Error(err)
	}
	if err := environment("MESHD_LOG_LEVEL=info", "MESHD_CONFIG=/x", "MESHD_SOCKET=/x", "MESHD_ENDPOINT=x", "MESHDX=1", "HOME=/"); err != nil {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	missing := t.TempDir() + "/none.yaml"
	if _, err := Load(missing, false, nil); err != nil {
		t.Errorf("the default file may be missing: %v", err)
	}
	if _, err := Load(missing, true, nil); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a file that was asked for may not be missing: %v", err)
	}
}

// A key without a "#" has its default; one with "#" and no space has none.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("meshd.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	asShipped, err := Parse(strings.NewReader(string(text)), "meshd.example.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), asShipped, netipEqual); diff != "" {
		t.Errorf("the example differs from the defaults: %s", diff)
	}
	whole := regexp.MustCompile(`(?m)^( *)#([a-z_]+:)`).ReplaceAllString(string(text), "$1$2")
	if _, err := Parse(strings.NewReader(whole), "meshd.example.yaml", nil); err != nil {
		t.Fatal(err)
	}
	all, shipped := viper.New(), viper.New()
	for v, s := range map[*viper.Viper]string{all: whole, shipped: string(text)} {
		v.SetConfigType("yaml")
		if err := v.ReadConfig(strings.NewReader(s)); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range settings() {
		if !all.InConfig(s.key) {
			t.Errorf("the example does not show %s", s.key)
		}
		if shipped.InConfig(s.key) != (len(s.def) > 0) {
			t.Errorf("%s: has a default: %v, stands in the example without #: %v", s.key, len(s.def) > 0, shipped.InConfig(s.key))
		}
	}
}
