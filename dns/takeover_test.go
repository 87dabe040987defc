package dns

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/meshd/meshd/internal/netns"
)

// TestTakeoverEndsWithItsSocket: the table is the socket's, so it goes with the process, also by kill -9.
func TestTakeoverEndsWithItsSocket(t *testing.T) {
	path := newNamespace(t)
	handle, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = handle.Close() }()
	tables := func() string {
		t.Helper()
		out, err := exec.Command("nsenter", "--net="+path, "nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for range 2 {
		taken, err := takeOver(handle)
		if err != nil {
			t.Fatal(err)
		}
		if rules := tables(); !strings.Contains(rules, takeoverTable) || strings.Count(rules, "notrack") != 4 {
			t.Errorf("the rules are %s", rules)
		}
		// Nobody but the socket may change it; others' tables do not count.
		if out, err := exec.Command("nsenter", "--net="+path, "nft", "flush", "table", "ip", takeoverTable).CombinedOutput(); err == nil {
			t.Errorf("somebody else could flush it: %s", out)
		}
		if second, err := takeOver(handle); err == nil {
			second.close()
			t.Error("the address was taken over twice")
		}
		taken.close()
		if rules := tables(); strings.Contains(rules, takeoverTable) {
			t.Errorf("left: %s", rules)
		}
	}
}
