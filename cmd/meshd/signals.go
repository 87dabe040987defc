package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// signals passes signals on to a child. Until the child has become the command, the first
// that would end it is kept instead.
type signals struct {
	channel chan os.Signal
	cancel  context.CancelFunc
	early   context.Context // ends when a signal was kept

	mu      sync.Mutex // guards what follows
	running bool       // the child is the command
	drain   func()     // before a SIGTERM is passed on; nil: nothing to do, or done already
	kept    syscall.Signal
}

// forwarded are the signals that are passed on.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}

// forwardSignals begins to pass signals on. With a terminal, the kernel itself sends what its keys
// make to us and to the child, as both are its foreground process group: those are not sent twice.
func forwardSignals(child *child, terminal bool) *signals {
	s := &signals{channel: make(chan os.Signal, 16)}
	s.early, s.cancel = context.WithCancel(context.Background())
	for _, sig := range forwarded {
		if !signal.Ignored(sig) { // such as HUP under nohup: the command inherits that
			signal.Notify(s.channel, sig)
		}
	}
	go func() {
		for sig := range s.channel {
			s.handle(child, sig.(syscall.Signal), terminal)
		}
	}()
	return s
}

func (s *signals) handle(child *child, sig syscall.Signal, terminal bool) {
	s.mu.Lock()
	running := s.running
	if !running && s.kept == 0 && ends(sig) {
		s.kept = sig
	}
	s.mu.Unlock()
	switch {
	case !running && ends(sig):
		s.cancel()
	case !running, terminal && fromKeyboard(sig) && inForeground():
	default:
		s.pass(child, sig)
	}
}

// pass passes a signal on: the first SIGTERM after nobody sends the command anything new. Others do not wait for that.
func (s *signals) pass(child *child, sig syscall.Signal) {
	s.mu.Lock()
	drain := s.drain
	if sig == syscall.SIGTERM {
		s.drain = nil
	}
	s.mu.Unlock()
	if sig != syscall.SIGTERM || drain == nil {
		child.signal(sig)
		return
	}
	go func() {
		drain()
		child.signal(sig)
	}()
}

// drainFirst has drain be called before the first SIGTERM is passed on.
func (s *signals) drainFirst(drain func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain = drain
}

// ends says whether a signal is meant to end a process.
func ends(sig syscall.Signal) bool { return sig != syscall.SIGWINCH }

func fromKeyboard(sig syscall.Signal) bool {
	return sig == syscall.SIGINT || sig == syscall.SIGQUIT || sig == syscall.SIGWINCH
}

// inForeground says whether the terminal's keys reach this process.
func inForeground() bool {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// until is a context that ends with ctx, or when a signal was kept.
func (s *signals) until(ctx context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithCancel(ctx)
	context.AfterFunc(s.early, cancel)
	return both, cancel
}

// caught is the signal that was kept, or 0.
func (s *signals) caught() syscall.Signal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

// deliver passes signals on from now on, unless one was kept: that is returned.
func (s *signals) deliver() syscall.Signal {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = s.kept == 0
	return s.kept
}

// stop ends passing signals on. Further ones are swallowed: the process is about to end, with
// the code of its command, and has yet to clean up.
func (s *signals) stop() { s.cancel() }
