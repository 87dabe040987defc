package docker

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var healthcheck = []string{
	"--health-cmd", "/labpeer patient check http://127.0.0.1/health",
	"--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "30s",
}

// TestHealthcheck: only healthy containers are in rotation; starting ones are not, nor unhealthy ones.
func TestHealthcheck(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h3", "client", "--network", "appnet")
	flags := append([]string{"--network", "appnet", "--label", "meshd.service=app"}, healthcheck...)
	// one is made ill before it starts: it never gets into rotation until it is well.
	w.docker("h1", append(append([]string{"create", "--name", "one"}, flags...), "peer", "sh", "-c", "touch /tmp/ill; exec /labpeer web one 80")...)
	w.docker("h1", "start", "one")
	w.web("h2", "two", flags...)
	w.reaches("h3", "client", "http://app", "two")
	tasks := func(want ...string) {
		t.Helper()
		addresses := []string{}
		for _, name := range want {
			addresses = append(addresses, w.ip(map[string]string{"one": "h1", "two": "h2"}[name], name, "appnet"))
		}
		slices.Sort(addresses)
		within(t, 15*time.Second, fmt.Sprintf("in rotation are %v", want), func() error {
			got, err := w.lookup("h3", "client", "tasks.app")
			if err == nil && !slices.Equal(ipv4(got), addresses) {
				err = fmt.Errorf("%v and not %v", got, addresses)
			}
			return err
		})
	}
	tasks("two")
	for range 20 {
		if out, err := w.exec("h3", "client", "/labpeer", "patient", "get", "http://app"); err != nil || !strings.HasPrefix(out, "two ") {
			t.Errorf("while one is ill: %q, %v", out, err)
		}
	}
	if _, err := w.exec("h1", "one", "rm", "/tmp/ill"); err != nil {
		t.Fatal(err)
	}
	tasks("one", "two")
	if _, err := w.exec("h2", "two", "touch", "/tmp/ill"); err != nil {
		t.Fatal(err)
	}
	tasks("one")
	// A paused container does not answer, so it is not in rotation either.
	if _, err := w.exec("h2", "two", "rm", "/tmp/ill"); err != nil {
		t.Fatal(err)
	}
	tasks("one", "two")
	w.docker("h1", "pause", "one")
	tasks("two")
	w.docker("h1", "unpause", "one")
	tasks("one", "two")
}

// TestRollingReplacement: all replicas are replaced, one after the other, while clients inside and outside ask
// all the time. None of their requests is lost.
func TestRollingReplacement(t *testing.T) {
	w := newWorld(t)
	w.network("appnet")
	w.web("h2", "client", "--network", "appnet")
	flags := append([]string{"--network", "appnet", "--label", "meshd.service=app", "-p", "8080:80"}, healthcheck...)
	for _, host := range []string{"h1", "h2", "h3"} {
		w.web(host, "old", flags...)
	}
	w.reaches("h2", "client", "http://app", "old")
	w.answers("outside", "http://10.77.0.3:8080", "old")
	inRotation := func(n int) {
		t.Helper()
		within(t, 20*time.Second, fmt.Sprintf("%d replicas are in rotation on every host", n), func() error {
			for _, h := range mesh.Members() {
				var service struct {
					Endpoints []struct{ Name, Health string }
				}
				if err := mesh.MeshdJSON(w.ctx, h, &service, "service", "inspect", "app.appnet"); err != nil {
					return err
				}
				healthy := 0
				for _, e := range service.Endpoints {
					if e.Health == "healthy" {
						healthy++
					}
				}
				if healthy != n {
					return fmt.Errorf("%s: %+v", h.Name, service.Endpoints)
				}
			}
			return nil
		})
	}
	inRotation(3)
	load := []func() string{
		w.load("outside", "wrk", "-t1", "-c2", "-d600", "--timeout", "30s", "http://10.77.0.3:8080/"),
		w.load("h2", "sh", "-c", `exec nsenter --net="$(docker inspect --format '{{.NetworkSettings.SandboxKey}}' client)" wrk -t1 -c2 -d600 --timeout 30s http://`+
			ipv4(w.finds("h2", "client", "app"))[0]+`/`),
	}
	for _, host := range []string{"h1", "h2", "h3"} {
		w.web(host, "new", flags...)
		inRotation(4)
		w.docker(host, "stop", "-t", "60", "old") // it ends by itself when nobody asks it any more
		w.docker(host, "rm", "old")
		inRotation(3)
	}
	for _, end := range load {
		requests, lost := counted(t, end())
		t.Logf("%d requests, %d lost", requests, lost)
		if lost > 0 || requests < 100 {
			t.Errorf("%d of %d requests were lost", lost, requests)
		}
	}
	w.reaches("h2", "client", "http://app", "new")
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkSocket   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkAnswers  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
)

// counted reads what wrk printed.
func counted(t *testing.T, out string) (requests, lost int) {
	t.Helper()
	found := wrkRequests.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("this is not wrk's: %s", out)
	}
	requests, _ = strconv.Atoi(found[1])
	for _, pattern := range []*regexp.Regexp{wrkSocket, wrkAnswers} {
		if found := pattern.FindStringSubmatch(out); found != nil {
			t.Log(found[0])
			for _, n := range found[1:] {
				n, _ := strconv.Atoi(n)
				lost += n
			}
		}
	}
	return requests, lost
}

// load starts wrk on a host; what it returns ends it and says what it printed.
func (w *world) load(host string, command ...string) func() string {
	end := w.background(host, command...)
	return func() string { return end(2) } // SIGINT: wrk prints what it has
}
