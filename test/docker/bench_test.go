package docker

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var bench = flag.Int("docker.bench", 0, "measure with that many containers of each kind, instead of testing")

// TestBench measures what the documents state, see `make bench-docker`, and fails where a goal is missed.
func TestBench(t *testing.T) {
	if *bench == 0 {
		t.Skip("measures only with -docker.bench N")
	}
	w := newWorld(t)
	w.ctx = context.Background() // it takes its time
	w.network("appnet")
	w.docker("h1", "network", "create", "local")
	w.web("h2", "client", "--network", "appnet")
	benchBirth(w)
	benchAttach(w)
	benchLookup(w)
}

// goal fails the test if a figure is beyond its goal.
func (w *world) goal(what string, got, most time.Duration) {
	verdict := "met"
	if got > most {
		verdict = "MISSED"
		w.Errorf("%s: %s, and the goal is %s", what, got, most)
	}
	fmt.Printf("%-72s %9.2f ms   goal %6.2f ms  %s\n", what, ms(got), ms(most), verdict)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

// benchBirth measures from the start of `docker run` on h1 until a container on h2, which asks all the time, has found
// the new container's name and had an answer from it.
func benchBirth(w *world) {
	w.Helper()
	var fromStart, fromReturn, resolvable, calls []time.Duration
	for i := range *bench {
		name := fmt.Sprintf("probe%d", i)
		found := reaching(w, name)
		start := time.Now()
		w.docker("h1", "run", "-d", "--name", name, "--network", "appnet", "peer", "/labpeer", "serve", name, "80")
		returned := time.Now()
		resolved, reached := found()
		resolvable = append(resolvable, resolved.Sub(start))
		fromStart = append(fromStart, reached.Sub(start))
		fromReturn = append(fromReturn, reached.Sub(returned))
		calls = append(calls, returned.Sub(start))
		w.docker("h1", "rm", "-f", name)
	}
	fmt.Printf("docker run -d: p50 %.0f ms, p95 %.0f ms; resolvable on another host: p50 %.0f ms, p95 %.0f ms (%d containers)\n",
		ms(quantile(calls, 0.5)), ms(quantile(calls, 0.95)), ms(quantile(resolvable, 0.5)), ms(quantile(resolvable, 0.95)), *bench)
	fmt.Printf("reachable on another host: p95 %.0f ms, max %.0f ms after the start of the call; p50 %.0f ms after its return\n",
		ms(quantile(fromStart, 0.95)), ms(quantile(fromStart, 1)), ms(quantile(fromReturn, 0.5)))
	w.goal("from `docker run` to resolvable and reachable on another host, p50", quantile(fromStart, 0.5), 700*time.Millisecond)
	w.goal("the same, after the return of the call, max", quantile(fromReturn, 1), 300*time.Millisecond)
}

// reaching starts a container's search for a name, and returns what waits for its end.
func reaching(w *world, name string) func() (resolved, reached time.Time) {
	w.Helper()
	cmd := mesh.Host("h2").Command(w.ctx, "docker", "exec", "client", "/labpeer", "reach", name, "80", "")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if _, err := lines.ReadString('\n'); err != nil { // "looking"
		w.Fatal(err)
	}
	return func() (time.Time, time.Time) {
		line, _ := lines.ReadString('\n') // what is missing is an error below
		var resolved, reached int64
		_, err := fmt.Sscan(line, &resolved, &reached)
		if ended := cmd.Wait(); err != nil || ended != nil {
			w.Fatalf("searching for %s: %q, %v, %v", name, line, err, ended)
		}
		return time.Unix(0, resolved), time.Unix(0, reached)
	}
}

// benchAttach compares `docker run` on a network of meshd's with one on a bridge of Docker's own, taking turns.
func benchAttach(w *world) {
	w.Helper()
	took := map[string][]time.Duration{"appnet": nil, "local": nil, "bridge": nil}
	for range *bench {
		for network := range took {
			start := time.Now()
			id := w.docker("h1", "run", "-d", "--network", network, "peer")
			took[network] = append(took[network], time.Since(start))
			w.docker("h1", "rm", "-f", id)
		}
	}
	for _, network := range []string{"bridge", "local", "appnet"} {
		fmt.Printf("docker run -d --network %-7s p50 %.0f ms, p95 %.0f ms\n", network, ms(quantile(took[network], 0.5)), ms(quantile(took[network], 0.95)))
	}
	added := quantile(took["appnet"], 0.5) - quantile(took["local"], 0.5)
	w.goal("what a network of meshd's adds to `docker run`, medians", added, 150*time.Millisecond)
}

// benchLookup measures look-ups of a name of the mesh from within a container, and takes turns with Docker's own name server
// and a name of a container beside it: a goal in microseconds says as much of the machine as of us.
func benchLookup(w *world) {
	w.Helper()
	w.web("h3", "far", "--network", "appnet")
	w.finds("h2", "client", "far")
	w.docker("h2", "network", "create", "beside")
	w.docker("h2", "run", "-d", "--network", "beside", "--name", "near", "peer")
	w.docker("h2", "run", "-d", "--network", "beside", "--name", "asker", "peer")
	var ours, dockers []time.Duration
	for range 5 {
		ours = append(ours, lookups(w, "client", "far"))
		dockers = append(dockers, lookups(w, "asker", "near"))
	}
	own := quantile(dockers, 0.5)
	fmt.Printf("the same by Docker's own name server: %.3f ms; ours of its: %.2f\n", ms(own), float64(quantile(ours, 0.5))/float64(own))
	w.goal("a look-up in a container, p50 (the median of five runs of 2,000)", quantile(ours, 0.5), 200*time.Microsecond)
}

// lookups is the median of 2,000 look-ups of a name from within a container on h2.
func lookups(w *world, container, name string) time.Duration {
	w.Helper()
	out := w.docker("h2", "exec", container, "/labpeer", "lookups", name, "2000")
	var count, failed int
	var median, longest int64
	if _, err := fmt.Sscanf(out, "%d look-ups, %d failed; median %d us, longest %d us", &count, &failed, &median, &longest); err != nil || failed > 0 {
		w.Fatalf("%s: %v", out, err)
	}
	fmt.Printf("%s looks up %s: %s\n", container, name, strings.TrimSpace(out))
	return time.Duration(median) * time.Microsecond
}
