// Command meshd is the daemon and its client.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/meshd/meshd/peers/wireguard"
)

// The main goroutine stays on the process's first thread: what a child inherits of a
// thread (its parent-death signal, prctl(2)) must not depend on the scheduler.
func init() { runtime.LockOSThread() }

func main() {
	args := os.Args[1:]
	ctx, stop := context.Background(), func() {}
	// What becomes another program must not swallow the signals that are meant for that, and the
	// tunnel's process decides for itself.
	if len(args) == 0 || args[0] != childName && args[0] != wireguard.UserspaceCommand {
		// The first signal asks commands to end, a second one ends them.
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
	}
	code := execute(ctx, newApp(), args)
	stop()
	os.Exit(code)
}
