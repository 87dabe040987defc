package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"
)

// garbage sends nonsense of many sizes. Half of it begins as messages of programs do: with a small number,
// or with a length; so that it comes further than the first byte.
func garbage(network, address, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2))
	sent := 0
	for i := range n {
		data := make([]byte, 1+random.IntN(1400))
		for j := range data {
			data[j] = byte(random.Uint32())
		}
		switch i % 4 {
		case 1:
			data[0] = byte(i / 4 % 24)
		case 2:
			if len(data) > 4 {
				binary.BigEndian.PutUint32(data, uint32(1)<<random.IntN(32))
			}
		}
		conn, err := net.DialTimeout(network, address, timeout)
		if err != nil {
			continue // too many at once
		}
		if _, err := conn.Write(data); err == nil {
			sent++
		}
		if network != "udp" && i%8 == 0 {
			_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, _ = conn.Read(data) // whatever it says
		}
		_ = conn.Close()
	}
	if sent < n/2 {
		return fmt.Errorf("%d of %d pieces were sent", sent, n)
	}
	return nil
}

// squat takes places and does not use them.
func squat(address, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var held []net.Conn
	for range n {
		if conn, err := net.DialTimeout("tcp", address, timeout); err == nil {
			held = append(held, conn)
		}
	}
	fmt.Println("squatting", len(held))
	select {}
}
