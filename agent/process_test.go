package agent

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// startSleeper starts a process that ends when its standard input does.
func startSleeper(t *testing.T) (Process, *exec.Cmd, func()) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	p, err := findProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p, cmd, func() { _ = in.Close() }
}

func waiting(ctx context.Context, p Process) <-chan error {
	done := make(chan error, 1)
	go func() { done <- waitProcess(ctx, p) }()
	return done
}

func within(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("it still waits")
		return nil
	}
}

func TestEndOfAProcessIsSeen(t *testing.T) {
	p, _, end := startSleeper(t)
	done := waiting(t.Context(), p)
	select {
	case err := <-done:
		t.Fatalf("seen while it runs: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	end() // nobody has waited for it yet: a zombie has ended, too
	if err := within(t, done); err != nil {
		t.Fatal(err)
	}
	if !p.hasEnded() {
		t.Error("a zombie counts as running")
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	p, _, _ := startSleeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := waiting(ctx, p)
	cancel()
	if err := within(t, done); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v: an endpoint whose process runs would be removed", err)
	}
}

func TestAnIDThatIsUsedAgainIsAnotherProcess(t *testing.T) {
	p, _, _ := startSleeper(t)
	p.Start-- // as if one before had had the same ID
	if !p.hasEnded() {
		t.Error("the other process counts as the first")
	}
	if err := within(t, waiting(t.Context(), p)); err != nil {
		t.Fatal(err)
	}
}

func TestNoSuchProcess(t *testing.T) {
	p, cmd, end := startSleeper(t)
	end()
	_ = cmd.Wait()
	if err := within(t, waiting(t.Context(), p)); err != nil || !p.hasEnded() {
		t.Fatalf("%v", err)
	}
	_, err := findProcess(math.MaxInt32)
	if err == nil || !strings.Contains(err.Error(), "there is no process 2147483647") {
		t.Fatalf("%v", err)
	}
}

func TestWhatCannotBeKnownIsNoEnd(t *testing.T) {
	if err := waitProcess(t.Context(), Process{PID: -1}); err == nil {
		t.Fatal("an error of the kernel counts as the end of a process")
	}
	if (Process{PID: os.Getpid()}).hasEnded() {
		t.Log("the start differs: that is an end") // and no doubt
	} else {
		t.Fatal("a process with another start counts as the same")
	}
}
