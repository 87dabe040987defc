package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// all is the demonstration, part by part.
func (s *show) all() error {
	for _, part := range []func() error{
		s.hosts, s.found, s.database, s.web, s.names, s.published, s.way, s.wire, s.status, s.stopped, s.leave,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (s *show) hosts() error {
	s.page.why(`This is a demonstration of meshd. It makes four hosts on this machine out of Linux
		namespaces: h1, h2 and h3, which are about to form a mesh, and one outside of it. Each has its own
		network, hostname, /run and /var/lib. What runs on them is real, and each command below has just
		been run as it stands there.`)
	s.page.printed(strings.Join([]string{
		"        h1               h2               h3             outside",
		"    10.77.0.1        10.77.0.2        10.77.0.3        10.77.0.100",
		"        └────────────────┴───────┬────────┴─────────────────┘",
		"                     a plain Ethernet switch",
	}, "\n"))
	for _, h := range s.mesh.Members() {
		if err := s.mesh.StartAgent(s.ctx, h); err != nil {
			return err
		}
	}
	s.page.why("On h1, h2 and h3 `meshd agent` is running, as its systemd unit would start it. It does nothing yet.")
	return nil
}

var joinCommand = regexp.MustCompile(`meshd join \S+ --token (\S+)`)

func (s *show) found() error {
	s.page.title("Three hosts become a mesh")
	s.page.why(`One host founds the mesh and prints the command for the others. The token in it is good for a
		day; it is shortened here.`)
	out, err := s.quiet("h1", "meshd init")
	if err != nil {
		return err
	}
	join := joinCommand.FindStringSubmatch(out)
	if join == nil {
		return fmt.Errorf("meshd init prints no join command: %s", out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	s.secrets = append(s.secrets, join[1], strings.TrimSpace(lines[len(lines)-1]))
	s.page.typed("h1", "meshd init")
	s.page.printed(s.shorten(out))
	for _, h := range []string{"h2", "h3"} {
		out, err := s.quiet(h, join[0])
		if err != nil {
			return err
		}
		s.page.typed(h, s.shorten(join[0]))
		s.page.printed(out)
	}
	s.page.why(`All hosts are equal now: any command works on any of them, and no server has to be
		kept alive. The address of each in the mesh follows from its key, so nobody can take another's.`)
	for _, h := range s.members() {
		if _, err := s.until(h, "meshd members", func(out string) error { return count(out, " alive ", 3) }); err != nil {
			return err
		}
	}
	if err := s.run("h3", "meshd members", func(out string) error { return count(out, " alive ", 3) }); err != nil {
		return err
	}
	s.checked("every host sees three hosts alive")
	return nil
}

// count expects a word some times.
func count(out, word string, n int) error {
	if got := strings.Count(out, word); got != n {
		return fmt.Errorf("%d times %q, not %d", got, strings.TrimSpace(word), n)
	}
	return nil
}

func (s *show) database() error {
	s.page.title("A network, and a database on it")
	s.page.why(`A network spans all hosts. What is on it gets an address of its own; what is not on it gets
		no way in. The command is given on h2, and every host knows the network.`)
	if err := s.run("h2", "meshd network create appnet", has("appnet")); err != nil {
		return err
	}
	for _, h := range s.members() {
		if _, err := s.until(h, "meshd network ls", has("appnet")); err != nil {
			return err
		}
	}
	s.page.why("`meshd run` starts any command on a network, here a redis on h1. --service is the name under which others find it.")
	if err := s.background("h1", "db-1", `meshd run --network appnet --service db --name db-1 -- redis-server --save "" --protected-mode no`); err != nil {
		return err
	}
	s.page.line("")
	s.page.why("From h3, through the mesh, by its name:")
	if err := s.run("h3", onNetwork("redis-cli -h db ping"), has("PONG")); err != nil {
		return err
	}
	s.checked("the database on h1 answers a client on h3 by the name db")
	return nil
}

func (s *show) web() error {
	s.page.title("A web service with three replicas")
	s.page.why(`The same web server on each host, under one service name: that makes them replicas. It counts its
		visits in the database, which it knows by the name "db" only. --publish opens port 8080 on
		every host of the mesh.`)
	for i, h := range s.members() {
		name := fmt.Sprintf("web-%d", i+1)
		if err := s.background(h, name, "meshd run --network appnet --service web --name "+name+" --publish 8080:80 -- web -name "+name); err != nil {
			return err
		}
	}
	s.page.line("")
	s.page.why(`Each replica has an address of its own. The service has one more, its virtual IP (VIP): who connects to
		that gets any of the replicas.`)
	if err := s.run("h1", "meshd service inspect web", has("web-1", "web-2", "web-3", "8080:80/tcp")); err != nil {
		return err
	}
	s.checked("the service web has three replicas on three hosts")
	return nil
}

func (s *show) names() error {
	s.page.title("Names and virtual IPs")
	s.page.why(`Inside a network each service has a name. It stands for the virtual IP; "tasks." before it for the
		replicas themselves. (On the host itself these names do not exist: they belong to the network.)`)
	web, err := s.service("h1", "web")
	if err != nil {
		return err
	}
	answered := regexp.MustCompile(`visit \d+: answered by web-\d on h\d`)
	try := onNetwork(`sh -c 'dig +short web; echo; dig +short tasks.web; echo; curl -sm5 http://web'`)
	good := func(out string) error {
		words := []string{web.VIP + "\n"}
		for _, e := range web.Endpoints {
			words = append(words, e.IP+"\n")
		}
		if !answered.MatchString(out) {
			return errors.New("no visit was counted")
		}
		return has(words...)(out)
	}
	if err := s.run("h1", try, good); err != nil {
		return err
	}
	for _, h := range []string{"h2", "h3"} {
		if _, err := s.until(h, try, good); err != nil {
			return err
		}
	}
	s.checked("the name web gives its virtual IP, tasks.web its three replicas, on h1, h2 and h3")
	s.page.line("")
	s.page.why("Connections to the virtual IP are spread over the replicas, wherever they run:")
	if err := s.run("h2", onNetwork(`sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -sm5 http://web; done'`), has("web-1", "web-2", "web-3")); err != nil {
		return err
	}
	s.checked("an endpoint on h2 reaches all three replicas through the virtual IP")
	return nil
}

func (s *show) published() error {
	s.page.title("The published port")
	s.page.why(`Port 8080 answers on every host, for everybody: also for a machine that knows nothing of the mesh,
		and also on a host where no replica runs. A load balancer or a DNS name may point at any of them.`)
	three := func(out string) error { return count(out, "answered by web-", 3) }
	if err := s.run("outside", "for host in 10.77.0.1 10.77.0.2 10.77.0.3; do curl -sm5 http://$host:8080; done", three); err != nil {
		return err
	}
	s.checked("from outside, port 8080 of h1, h2 and h3 answers")
	one := func(out string) error { return count(out, "answered by web-", 1) }
	for _, h := range s.mesh.Members() {
		for _, address := range []string{"localhost", h.IP, "[" + h.IP6 + "]"} {
			if _, err := s.until(h.Name, "curl -sm5 http://"+address+":8080", one); err != nil {
				return err
			}
		}
		if _, err := s.until("outside", "curl -sm5 http://["+h.IP6+"]:8080", one); err != nil {
			return err
		}
		if _, err := s.until(h.Name, onNetwork("curl -sm5 http://"+h.IP+":8080"), one); err != nil {
			return err
		}
	}
	s.checked("from each host itself too: localhost, its IPv4 and its IPv6 address")
	s.checked("from outside by IPv6, and from an endpoint on each host")
	return nil
}
