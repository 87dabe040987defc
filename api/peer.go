package api

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// peer is the process at the other end of a connection (SO_PEERCRED, unix(7)).
type peer struct {
	PID int32
	UID uint32
}

type peerKey struct{}

func peerOf(ctx context.Context) (peer, bool) {
	p, ok := ctx.Value(peerKey{}).(peer)
	return p, ok
}

// withPeer remembers who is at the other end, as the kernel says.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	control := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if control != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer{PID: cred.Pid, UID: cred.Uid})
}
