package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// same asks several addresses from one local port, all connections standing at once, and prints for each
// address who answered and whom it saw. Each is asked twice more while the others stand: what one
// hears must be its own.
func same(network string, addrs []string) error {
	dialer := net.Dialer{Timeout: timeout, Control: shareAddress}
	var peers []*samePeer
	defer func() {
		for _, p := range peers {
			_ = p.conn.Close()
		}
	}()
	for i, addr := range addrs {
		conn, err := dialer.Dial(network, addr)
		if err != nil {
			return fmt.Errorf("%s, the %d. of %d: %w", addr, i+1, len(addrs), err)
		}
		dialer.LocalAddr = portOf(conn.LocalAddr(), addrs[min(i+1, len(addrs)-1)])
		p := &samePeer{addr: addr, conn: conn, in: bufio.NewReader(conn)}
		peers = append(peers, p)
		if err := p.begin(network); err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
		fmt.Println(addr, p.answer)
	}
	for round := range 2 {
		for _, p := range peers {
			if err := p.again(network, round); err != nil {
				return fmt.Errorf("%s, again: %w", p.addr, err)
			}
		}
	}
	return nil
}

// portOf is the same port, on any address of the family that the next destination has.
func portOf(local net.Addr, next string) net.Addr {
	ip := net.IPv4zero
	if strings.HasPrefix(next, "[") {
		ip = net.IPv6zero
	}
	if udp, ok := local.(*net.UDPAddr); ok {
		return &net.UDPAddr{IP: ip, Port: udp.Port}
	}
	return &net.TCPAddr{IP: ip, Port: local.(*net.TCPAddr).Port}
}

func shareAddress(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
	return errors.Join(err, failed)
}

type samePeer struct {
	addr, answer string
	conn         net.Conn
	in           *bufio.Reader
}

func (p *samePeer) begin(network string) (err error) {
	if err := p.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if network == "udp" {
		p.answer, err = p.askUDP()
		return err
	}
	line, err := p.in.ReadString('\n')
	p.answer = strings.TrimSpace(line)
	return err
}

func (p *samePeer) again(network string, round int) error {
	if err := p.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	want, heard := p.answer, ""
	var err error
	if network == "udp" {
		heard, err = p.askUDP()
	} else {
		want = fmt.Sprintf("%s %d", p.addr, round)
		if _, err := fmt.Fprintln(p.conn, want); err != nil {
			return err
		}
		heard, err = p.in.ReadString('\n')
		heard = strings.TrimSpace(heard)
	}
	if err == nil && heard != want {
		err = fmt.Errorf("heard %q, want %q", heard, want)
	}
	return err
}

func (p *samePeer) askUDP() (string, error) {
	if _, err := p.conn.Write([]byte("?")); err != nil {
		return "", err
	}
	buffer := make([]byte, 1024)
	n, err := p.conn.Read(buffer)
	return string(buffer[:n]), err
}
