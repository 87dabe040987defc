package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// within listens on a TCP address here, and runs a command in another network namespace with the listening socket
// as its file 3: a proxy that takes connections on the host and passes them on inside. NGINX tells nginx of the socket.
func within(addr, netns string, command []string) error {
	listener, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // this thread becomes the command
	ns, err := os.Open(netns)
	if err != nil {
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", netns, err)
	}
	if file.Fd() != 3 {
		if err := unix.Dup3(int(file.Fd()), 3, 0); err != nil {
			return err
		}
	}
	if err := unix.SetNonblock(3, true); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(3, unix.F_SETFD, 0); err != nil {
		return err
	}
	return syscall.Exec(program, command, append(os.Environ(), "NGINX=3;"))
}
