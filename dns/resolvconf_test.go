package dns

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseResolvConf(t *testing.T) {
	for _, test := range []struct{ text, want, search string }{
		{"# a comment\nnameserver 192.0.2.1\n nameserver\t192.0.2.2 extra\n", "192.0.2.1:53 192.0.2.2:53", ""},
		{"nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", "127.0.0.53:53", ""},
		{"nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver ::ffff:192.0.2.1", "[fe80::1%eth0]:53 [2001:db8::1]:53 192.0.2.1:53", ""},
		{"domain a.example\nsearch b.example c.example\nnameserver 192.0.2.1", "192.0.2.1:53", "b.example c.example"},
		{"search b.example c.example\ndomain a.example\nnameserver nonsense\nnameserver 192.0.2.1", "192.0.2.1:53", "a.example"},
		{"nameserver 127.0.0.11\n", "", ""},
		{"", "127.0.0.1:53", ""},
	} {
		conf, err := ParseResolvConf(strings.NewReader(test.text))
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
		var got []string
		for _, upstream := range conf.Upstreams {
			got = append(got, upstream.String())
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%q: upstreams %s", test.text, diff)
		}
		if diff := cmp.Diff(test.search, strings.Join(conf.Search, " ")); diff != "" {
			t.Errorf("%q: search %s", test.text, diff)
		}
	}
}

func TestUpstreamsFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if _, err := Upstreams(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := Upstreams(path)
	if err != nil || len(conf.Upstreams) != 1 || conf.Upstreams[0] != netip.MustParseAddrPort("192.0.2.1:53") {
		t.Errorf("Upstreams = %v, %v", conf, err)
	}
}

func TestResolvConf(t *testing.T) {
	config := Config{Search: []string{"corp.example", "example"}}
	for _, test := range []struct {
		forward bool
		search  string
	}{{true, "corp.example example"}, {false, "."}} {
		want := "# Written by meshd.\nnameserver 127.0.0.11\nsearch " + test.search + "\noptions ndots:0\n"
		if diff := cmp.Diff(want, string(ResolvConf(Server{Forward: test.forward}, config))); diff != "" {
			t.Error(diff)
		}
	}
}
