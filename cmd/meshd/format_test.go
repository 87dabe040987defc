package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/api"
)

func TestParsePublish(t *testing.T) {
	got, err := parsePublish([]string{"53/tcp", "53/udp", "8000-8001:9000-9001"})
	if err != nil || len(got) != 4 || got[3] != (api.Publish{Published: 8001, Target: 9001, Protocol: "tcp"}) {
		t.Error(got, err)
	}
	for _, bad := range [][]string{{"80", "80:8080"}, {"80-90", "85"}, {"1-100", "101-200"}, {"x"}} {
		if got, err := parsePublish(bad); err == nil {
			t.Errorf("%v is taken as %v", bad, got)
		}
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1536000: "1.5 MB", 999999: "1 MB", 1 << 62: "4611.7 PB"} {
		if got := bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	if age(-1) != "never" || age(75.4) != "1m15s ago" {
		t.Error(age(-1), age(75.4))
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a\n\n  b\n"); got != "a; b" {
		t.Error(got)
	}
}

func TestNamespaceMounts(t *testing.T) {
	const mountinfo = `22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:4 net:[4026532001] /run/meshd/netns rw shared:2 - nsfs nsfs rw
31 22 0:4 net:[4026532002] /run/meshd/endpoints/a\040b rw - nsfs nsfs rw
32 22 0:4 net:[4026532003] /run/netns/blue rw - nsfs nsfs rw
33 22 0:5 / /run/meshd/other rw - tmpfs tmpfs rw
`
	got, err := namespaceMounts(strings.NewReader(mountinfo), "/run/meshd")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/run/meshd/netns", "/run/meshd/endpoints/a b"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestResolvText(t *testing.T) {
	if got, want := resolvText("127.0.0.11", []string{"a.mesh.internal", "mesh.internal"}),
		"# made by meshd run\nnameserver 127.0.0.11\nsearch a.mesh.internal mesh.internal\n"; got != want {
		t.Error(got)
	}
}
