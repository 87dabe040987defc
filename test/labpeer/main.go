// Command labpeer is both ends of the traffic that scenarios send: a server that says who
// it is and whom it sees, and the clients that ask it.
//
//	labpeer serve NAME PORT            answer TCP and UDP with "NAME REMOTE", then echo
//	labpeer ask tcp|udp ADDR [COUNT]   ask that often, each time anew; print the answers
//	labpeer web NAME PORT [keep]       answer HTTP with "NAME REMOTE"; /health fails while there is a file /tmp/ill;
//	                                   after SIGTERM it goes on until nobody has asked for three seconds
//	labpeer get URL                    print what it answers, with success
//	labpeer check URL                  fail unless it answers with success
//	labpeer hold ADDR                  one TCP connection: print the answer, then wait until it breaks
//	labpeer talk ADDR FILE             one TCP connection: say something and hear it again, many times a second, until
//	                                   SIGTERM; print how often, and the longest wait. FILE holds the count meanwhile
//	labpeer same tcp|udp ADDR...       ask all from one local port, at once; print "ADDR ANSWER" for each
//	labpeer requests FILE URL...       ask for each URL all the time, until SIGTERM; FILE tells who answered; no failure is forgiven
//	labpeer within ADDR NETNS CMD...   listen here, and run a command in another namespace with the socket as its file 3
//	labpeer hear PORT GROUP            print the first datagram to a broadcast or multicast address
//	labpeer shout ADDR TEXT            send datagrams until killed
//	labpeer lookup NAME...             the addresses of names, as this namespace resolves them
//	labpeer reach NAME PORT TEXT       look a name up and say TEXT to it until it answers; print when it was found and
//	                                   when it answered
//	labpeer lookups NAME COUNT|FILE    look a name up that often, or until there is FILE; say how often that failed
//	labpeer garbage udp|tcp|unix ADDR COUNT   send that many pieces of nonsense, the same ones every time
//	labpeer squat ADDR COUNT           hold that many TCP connections on which nothing is said, until killed
//	labpeer far DELAY                  answer pings by IPv6, for the kernel that does not, after so long
//	labpeer names ADDR NAME=IP...      a name server that knows just these
//	labpeer patient COMMAND...         ask, get, check or look up, with more time where the machine is overrun, and only there
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/meshd/meshd/test/lab"
)

const (
	// inTime is how long an answer may take.
	inTime = 3 * time.Second
	// patience is how long what should come is waited for on a machine that is overrun.
	patience = 30 * time.Second
)

// timeout is when one who asks gives up.
var timeout = inTime

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labpeer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: see the source")
	}
	switch args[0] {
	case "serve":
		return serve(args[1], args[2])
	case "ask":
		count := 1
		if len(args) > 3 {
			count, _ = strconv.Atoi(args[3])
		}
		return ask(args[1], args[2], count)
	case "web":
		return web(args[1], args[2], len(args) > 3 && args[3] == "keep")
	case "check":
		return get(io.Discard, args[1])
	case "get":
		return get(os.Stdout, args[1])
	case "hold":
		return hold(args[1])
	case "talk":
		return talk(args[1], args[2])
	case "requests":
		return requests(args[1], args[2:])
	case "within":
		return within(args[1], args[2], args[3:])
	case "same":
		return same(args[1], args[2:])
	case "hear":
		return hear(args[1], net.ParseIP(args[2]))
	case "shout":
		return shout(args[1], args[2])
	case "garbage":
		return garbage(args[1], args[2], args[3])
	case "squat":
		return squat(args[1], args[2])
	case "far":
		return far(args[1])
	case "names":
		return names(args[1], args[2:])
	case "reach":
		return reach(args[1], args[2], args[3])
	case "lookups":
		return lookups(args[1], args[2])
	case "lookup":
		return lookup(args[1:])
	case "patient":
		timeout = patience
		return run(args[1:])
	}
	return fmt.Errorf("no command %q", args[0])
}

func serve(name, port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go answerUDP(name, packets)
	fmt.Println("serving")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			fmt.Fprintf(conn, "%s %s\n", name, conn.RemoteAddr())
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// answerUDP answers from the address that was asked: on a host with several, the kernel
// would choose another.
func answerUDP(name string, packets net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		_, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo([]byte(fmt.Sprintf("%s %s", name, from)), from)
	}
}

func ask(network, addr string, count int) error {
	for range count {
		var answer string
		err := timely(func(context.Context) (err error) {
			answer, err = askOnce(network, addr)
			return err
		})
		if err != nil {
			return err
		}
		fmt.Println(answer)
	}
	return nil
}

// timely asks once. Who is patient waits longer, but wants the answer in time by the lab's clock: more of it is there only on
// a machine that is overrun.
func timely(ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if timeout != patience {
		return ask(ctx)
	}
	clock := lab.NewClock()
	err := ask(ctx)
	if took := clock.Elapsed(); err == nil && took > inTime {
		err = fmt.Errorf("the answer took %s by the lab's clock", took)
	}
	return err
}

func askOnce(network, addr string) (string, error) {
	conn, err := net.DialTimeout(network, addr, timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		buffer := make([]byte, 1024)
		n, err := conn.Read(buffer)
		return string(buffer[:n]), err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func hold(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func hear(port string, group net.IP) error {
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	var conn *net.UDPConn
	if group.IsMulticast() {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp", ifi, &net.UDPAddr{IP: group, Port: n})
		if err != nil {
			return err
		}
	} else if conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: n}); err != nil {
		return err
	}
	buffer := make([]byte, 1024)
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	size, _, err := conn.ReadFrom(buffer)
	fmt.Println(string(buffer[:size]))
	return err
}

func shout(addr, text string) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	for ticker := time.NewTicker(100 * time.Millisecond); ; <-ticker.C {
		if _, err := conn.Write([]byte(text)); err != nil {
			return err
		}
	}
}

func lookup(names []string) error {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range names {
		var addrs []string
		err := timely(func(ctx context.Context) (err error) {
			addrs, err = resolver.LookupHost(ctx, name)
			return err
		})
		if err != nil {
			return err
		}
		fmt.Println(name, strings.Join(addrs, " "))
	}
	return nil
}
