package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/lab/engine"
)

// fleet is the Docker Engines of the demonstration.
type fleet map[string]*engine.Engine

// start makes the hosts one mesh, quietly, and starts an engine on each, which has the example's images.
func (f fleet) start(ctx context.Context, mesh *lab.Mesh) error {
	if err := mesh.Form(ctx); err != nil {
		return err
	}
	for _, h := range mesh.Members() {
		e, err := engine.New(ctx, h, engine.Options{})
		if err != nil {
			return err
		}
		f[h.Name] = e
	}
	return f.images(ctx, mesh)
}

func (f fleet) close() error {
	var errs []error
	for _, e := range f {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

// images builds the images of examples/compose on one host and copies them to the others.
func (f fleet) images(ctx context.Context, mesh *lab.Mesh) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	first := mesh.Members()[0]
	if _, err := first.Run(ctx, "env", "-C", here, filepath.Join(here, compose, "images")); err != nil {
		return err
	}
	archive := filepath.Join(mesh.Dir, "images.tar")
	save := []string{"save", "-o", archive, "meshd-example/app", "meshd-example/db", "meshd-example/proxy"}
	if _, err := f[first.Name].Docker(ctx, save...); err != nil {
		return err
	}
	for _, h := range mesh.Members()[1:] {
		if _, err := f[h.Name].Docker(ctx, "load", "-i", archive); err != nil {
			return err
		}
	}
	return os.Remove(archive)
}

// compose is where the example is, from the top of the repository, where the demonstration runs.
const compose = "examples/compose"

// docker is the demonstration of containers, part by part.
func (s *show) docker() error {
	s.page.why(`This is a demonstration of meshd with Docker. It makes three hosts on this machine out of Linux namespaces,
		h1, h2 and h3, and one outside of their mesh. On each runs a Docker Engine of its own, as the distribution has it,
		with no line of configuration, and the agent of meshd. Each command below has just been run as it stands there.`)
	s.engines = make(fleet)
	if err := s.engines.start(s.ctx, s.mesh); err != nil {
		return err
	}
	for _, part := range []func() error{
		s.engineHosts, s.dockerNetwork, s.containers, s.replicas, s.dockerPublished, s.healthcheck, s.rolling, s.agentDies, s.composed, s.removed,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (s *show) engineHosts() error {
	s.page.title("Three hosts with Docker, in one mesh")
	s.page.why("Each host has joined the mesh with `meshd join`. The engines know nothing of each other: this is no Swarm.")
	if err := s.run("h1", "meshd members", func(out string) error { return count(out, " alive ", 3) }); err != nil {
		return err
	}
	return s.run("h1", "docker info --format '{{.Name}}: Docker {{.ServerVersion}}, swarm {{.Swarm.LocalNodeState}}'", has("h1", "inactive"))
}

func (s *show) dockerNetwork() error {
	s.page.title("A network for all of them")
	s.page.why("It is made on one host, as any network of Docker's; -d meshd makes it one of the mesh.")
	if err := s.run("h1", "docker network create -d meshd appnet", has("")); err != nil {
		return err
	}
	s.page.why("The other engines have it too:")
	for _, h := range []string{"h2", "h3"} {
		if err := s.run(h, "docker network ls --filter driver=meshd", has("appnet", "meshd")); err != nil {
			return err
		}
	}
	s.checked("a network that was made on h1 is a network of h2's and of h3's engine")
	return nil
}

func (s *show) containers() error {
	s.page.title("Containers find each other")
	s.page.why(`A database on h3, and a client on h1. The client looks the name up the moment it starts.`)
	if err := s.run("h3", "docker run -d --name db --network appnet meshd-example/db", has("")); err != nil {
		return err
	}
	if err := s.run("h1", "docker run -d --name web --network appnet meshd-example/app", has("")); err != nil {
		return err
	}
	if err := s.run("h1", "docker exec web /web -get http://127.0.0.1", has("visit ", "answered by")); err != nil {
		return err
	}
	s.checked("a container on h1 counts its visits in a redis on h3, which it knows by its name, db")
	return s.run("h1", "docker rm -f web", has("web"))
}

func (s *show) replicas() error {
	s.page.title("One service, three containers")
	s.page.why(`A label gives containers a service name in common. That makes them replicas, behind one virtual IP.
		Docker Compose's service names do the same. -p opens port 8080: on every host of the mesh.`)
	for _, h := range s.members() {
		if err := s.run(h, appContainer("old"), has("")); err != nil {
			return err
		}
	}
	if err := s.rotation(3); err != nil {
		return err
	}
	if err := s.run("h2", "meshd service inspect app", func(out string) error { return count(out, " healthy", 3) }); err != nil {
		return err
	}
	s.checked("three containers of three engines are one service")
	return nil
}

// appContainer is the command that starts a replica of app.
func appContainer(name string) string {
	return "docker run -d --name " + name + " --network appnet --label meshd.service=app -p 8080:80 meshd-example/app"
}

// rotation waits until every host sees n healthy replicas of app.
func (s *show) rotation(n int) error {
	for _, h := range s.members() {
		if _, err := s.until(h, "meshd service inspect app", func(out string) error { return count(out, " healthy", n) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *show) dockerPublished() error {
	s.page.title("The published port")
	s.page.why("Every host answers, and passes each request on to a replica on any host, which sees the client's own address.")
	all := func(out string) error {
		return errors.Join(count(out, "answered by", 3), count(out, "asked by 10.77.0.100", 3))
	}
	if err := s.run("outside", "for host in 10.77.0.1 10.77.0.2 10.77.0.3; do curl -sm5 http://$host:8080; done", all); err != nil {
		return err
	}
	s.checked("port 8080 answers on every host, and the replicas see the client's own address")
	return nil
}

func (s *show) healthcheck() error {
	s.page.title("HEALTHCHECK decides who gets requests")
	s.page.why("The image of the application has a HEALTHCHECK. A container that is frozen fails it, and gets no more requests.")
	if err := s.run("h2", "docker pause old", has("old")); err != nil {
		return err
	}
	if err := s.rotation(2); err != nil {
		return err
	}
	if err := s.run("h1", "meshd service inspect app", func(out string) error { return count(out, " healthy", 2) }); err != nil {
		return err
	}
	if err := s.run("h2", "docker unpause old", has("old")); err != nil {
		return err
	}
	if err := s.rotation(3); err != nil {
		return err
	}
	s.checked("a frozen container left rotation, and came back when it was thawed")
	return nil
}

func (s *show) rolling() error {
	s.page.title("All replicas are replaced, under load")
	s.page.why("From outside, wrk sends requests to h1 as fast as it can, while every replica is replaced by a new one.")
	const load = "wrk -t1 -c2 -d60 --timeout 10s http://10.77.0.1:8080/"
	s.page.typed("outside", load+" &")
	var output strings.Builder
	wrk := s.shell(context.WithoutCancel(s.ctx), "outside", "exec "+load) // it ends with its host
	wrk.Stdout = &output
	if err := wrk.Start(); err != nil {
		return err
	}
	for _, h := range s.members() {
		if err := s.run(h, appContainer("new"), has("")); err != nil {
			return err
		}
		if err := s.rotation(4); err != nil {
			return err
		}
		if err := s.run(h, "docker stop old && docker rm old", has("old")); err != nil {
			return err
		}
		if err := s.rotation(3); err != nil {
			return err
		}
	}
	if _, err := s.quiet("outside", "kill -INT $(pidof wrk)"); err != nil {
		return err
	}
	if err := wrk.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", load, err, output.String())
	}
	s.page.why("wrk is told to stop and says what it has seen:")
	s.page.printed(output.String())
	if out := output.String(); strings.Contains(out, "errors") || strings.Contains(out, "Non-2xx") || !strings.Contains(out, " requests in ") {
		return fmt.Errorf("requests were lost: %s", out)
	}
	s.checked("three replicas were replaced, and not one request was lost")
	return nil
}

func (s *show) agentDies() error {
	s.page.title("The agent is killed")
	s.page.why(`Packets do not go through the agent: what is connected goes on without it, and so do published ports. Only looking up a
		name on another host has to wait until it is back; names on this host are answered by Docker meanwhile.`)
	if err := s.run("h1", "kill -9 $(pidof meshd | tr ' ' '\\n' | sort -n | head -n 1)", has("")); err != nil {
		return err
	}
	const port = `for i in 1 2 3; do curl -sm5 -o /dev/null -w '%{http_code}\n' http://10.77.0.1:8080/healthz; done`
	if err := s.run("outside", port, func(out string) error { return count(out, "200", 3) }); err != nil {
		return err
	}
	if err := s.mesh.StartAgent(s.ctx, s.host("h1")); err != nil {
		return err
	}
	if err := s.run("h1", "meshd status", has("health     good")); err != nil {
		return err
	}
	s.checked("with the agent of h1 dead its containers go on; it is back and finds everything as it was")
	return nil
}

func (s *show) composed() error {
	s.page.title("Docker Compose")
	for _, h := range s.members() {
		if _, err := s.quiet(h, "docker rm -f new db 2>&1"); err != nil && h == "h3" {
			return err
		}
	}
	s.page.why(`A compose file with a proxy, an application and a database. Nothing in it but "driver: meshd" is special. The same file
		is on every host; each host starts its share.`)
	s.page.typed("h1", "cat compose.yaml")
	file, err := os.ReadFile(filepath.Join(compose, "compose.yaml"))
	if err != nil {
		return err
	}
	s.page.printed(string(file[strings.Index(string(file), "services:"):]))
	began := time.Now()
	for i, services := range []string{"proxy app", "app", "app db"} {
		if err := s.compose(s.members()[i], "docker-compose up -d "+services); err != nil {
			return err
		}
	}
	s.page.why("After %.0f seconds the shop answers at every host's port, through the proxy on h1:", time.Since(began).Seconds())
	three := func(out string) error { return count(out, "answered by", 3) }
	if err := s.run("outside", "for host in 10.77.0.1 10.77.0.2 10.77.0.3; do curl -sm5 http://$host:8080; done", three); err != nil {
		return err
	}
	for _, h := range s.members() {
		if err := s.compose(h, "docker-compose down"); err != nil {
			return err
		}
	}
	s.checked("a compose file of three services works across three hosts")
	return nil
}

// compose runs docker-compose in the example's directory, and shows what it has done; what it is doing is left out.
func (s *show) compose(host, command string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	out, err := s.quiet(host, "cd '"+filepath.Join(here, compose)+"' && "+command+" 2>&1")
	s.page.typed(host, command)
	if err != nil {
		return err
	}
	var done []string
	for line := range strings.SplitSeq(out, "\n") {
		if !strings.HasSuffix(line, "... ") {
			done = append(done, line)
		}
	}
	s.page.printed(strings.Join(done, "\n"))
	return nil
}

func (s *show) removed() error {
	s.page.title("Nothing is left")
	if err := s.run("h2", "docker network rm appnet", has("appnet")); err != nil {
		return err
	}
	for _, h := range s.members() {
		if _, err := s.until(h, "docker ps -aq; docker network ls -q --filter driver=meshd; meshd endpoint ls -o json", has("[]")); err != nil {
			return err
		}
		if _, err := s.until(h, "docker network ls -q --filter driver=meshd | wc -l", has("0")); err != nil {
			return err
		}
	}
	s.checked("the network that was removed on h2 is gone from all engines, and no endpoint is left")
	return nil
}
