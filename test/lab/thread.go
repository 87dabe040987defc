package lab

import (
	"os/exec"
	"runtime"
	"sync"
)

// starter is a thread that never ends. A child's parent-death signal is sent when the
// thread that started it ends (prctl(2), PR_SET_PDEATHSIG), not the process; Go may end any
// other thread.
var starter = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for fn := range work {
			fn()
		}
	}()
	return work
})

// startOnLastingThread starts a command from the thread that lives as long as the process.
func startOnLastingThread(cmd *exec.Cmd) error {
	done := make(chan error)
	starter() <- func() { done <- cmd.Start() }
	return <-done
}
