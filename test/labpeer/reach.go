package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	reachPause = 2 * time.Millisecond // between two tries
	reachLimit = 20 * time.Second
)

// reach looks a name up and asks what is there over TCP, until both work. Before it begins it says so on a line of its own;
// then it prints when the name was resolvable and when it was reachable, in nanoseconds since 1970.
func reach(name, port, request string) error {
	fmt.Println("looking")
	resolver := &net.Resolver{PreferGo: true}
	ctx, cancel := context.WithTimeout(context.Background(), reachLimit)
	defer cancel()
	ticker := time.NewTicker(reachPause)
	defer ticker.Stop()
	var resolved time.Time
	for ; ctx.Err() == nil; <-ticker.C {
		addresses, err := resolver.LookupNetIP(ctx, "ip4", name)
		if err != nil {
			continue
		}
		if resolved.IsZero() {
			resolved = time.Now()
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(addresses[0].String(), port), reachLimit/10)
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(reachLimit / 10)) // of a connection that is open
		_, _ = fmt.Fprint(conn, request)                      // what fails here fails to answer
		_, err = bufio.NewReader(conn).ReadString('\n')
		_ = conn.Close() // the answer is read
		if err == nil {
			fmt.Println(resolved.UnixNano(), time.Now().UnixNano())
			return nil
		}
	}
	fmt.Fprintln(os.Stderr, name, "was resolvable:", !resolved.IsZero())
	return fmt.Errorf("%s was not reachable within %s", name, reachLimit)
}
