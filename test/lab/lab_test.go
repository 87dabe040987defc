package lab_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/test/lab"
)

func TestHostsReachEachOther(t *testing.T) {
	linktest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := lab.New(ctx, lab.Options{Name: fmt.Sprintf("self%d", os.Getpid()), Hosts: 2, Outside: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", l.Dir, err)
		}
	})
	for _, target := range []string{l.Host("h2").IP, l.Host("h2").IP6, l.Host("outside").IP} {
		if _, err := l.Host("h1").Run(ctx, "ping", "-c1", "-W2", target); err != nil {
			t.Error(err)
		}
	}
	if err := l.Crash(ctx, l.Host("h2")); err != nil {
		t.Fatal(err)
	}
	if err := l.Boot(ctx, l.Host("h2")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host("h1").Run(ctx, "ping", "-c1", "-W2", l.Host("h2").IP); err != nil {
		t.Errorf("after a reboot: %v", err)
	}
	name, err := l.Host("h2").Run(ctx, "hostname")
	if err != nil || strings.TrimSpace(name) != "h2" {
		t.Errorf("hostname: %q, %v", name, err)
	}
}
