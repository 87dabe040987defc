package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/health"
)

func TestCheckOf(t *testing.T) {
	got, err := checkOf(api.AttachRequest{Health: "http:80/ok", HealthInterval: time.Minute, HealthRetries: 7, HealthSuccesses: 2})
	want := health.Check{Port: 80, Path: "/ok", Interval: time.Minute, Timeout: health.DefaultTimeout, Retries: 7, Successes: 2}
	if err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := checkOf(api.AttachRequest{}); err != nil || got != (health.Check{}) {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, bad := range []api.AttachRequest{
		{Health: "ping"}, {HealthRetries: 1}, {HealthSuccesses: 1}, {Health: "tcp:1", HealthSuccesses: -1}, {Health: "tcp:1", HealthTimeout: -1},
	} {
		if got, err := checkOf(bad); err == nil {
			t.Errorf("%v: %v", bad, got)
		}
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("503 \x00\xff\n" + strings.Repeat("ü", 200)); len(got) > 128 || strings.ContainsAny(got, "\x00\n\ufffd") || !strings.HasSuffix(got, "…") {
		t.Errorf("%q", got)
	}
	if got := shorten("nobody listens"); got != "nobody listens" {
		t.Errorf("%q", got)
	}
}
