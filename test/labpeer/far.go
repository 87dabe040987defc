package main

import (
	"fmt"
	"net"
	"time"
)

// Of RFC 4443, sections 4.1 and 4.2.
const (
	echoRequest = 128
	echoReply   = 129
)

// far answers pings as a host does that is far away.
func far(delay string) error {
	wait, err := time.ParseDuration(delay)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	fmt.Println("answering")
	for {
		message := make([]byte, 1500)
		n, from, err := conn.ReadFrom(message)
		if err != nil {
			return err
		}
		if message[0] != echoRequest {
			continue
		}
		message[0] = echoReply
		time.AfterFunc(wait, func() { _, _ = conn.WriteTo(message[:n], from) }) // the kernel adds the checksum
	}
}
