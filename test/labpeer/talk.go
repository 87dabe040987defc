package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// talkPause is how long a talker waits after each answer.
const talkPause = 50 * time.Millisecond

// talk says a number on a connection and waits for its echo, then says the next. It fails if the
// connection breaks or the echo is another one; it waits for it as long as it takes.
func talk(addr, file string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil { // the server's name
		return err
	}
	ticker := time.NewTicker(talkPause)
	defer ticker.Stop()
	var longest time.Duration
	for n := 1; ; n++ {
		began := time.Now()
		if _, err := fmt.Fprintln(conn, n); err != nil {
			return fmt.Errorf("after %d answers: %w", n-1, err)
		}
		echo, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("after %d answers: %w", n-1, err)
		}
		if echo != strconv.Itoa(n)+"\n" {
			return fmt.Errorf("said %d and heard %q", n, echo)
		}
		longest = max(longest, time.Since(began))
		if err := os.WriteFile(file, []byte(echo), 0o644); err != nil {
			return err
		}
		select {
		case <-stop:
			fmt.Printf("%d answers, the longest wait %s\n", n, longest.Round(time.Millisecond))
			return nil
		case <-ticker.C:
		}
	}
}
