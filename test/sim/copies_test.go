package sim

import "testing"

// TestCopiesOfAnIdentity runs schedules in which two machines have one identity.
func TestCopiesOfAnIdentity(t *testing.T) {
	stopped := 0
	n := *count / 4
	for seed := *first; seed < *first+n; seed++ {
		s := NewCopySchedule(seed)
		w, err := Run(s, none)
		for _, h := range w.hosts {
			if h.author.Rival() {
				stopped++
			}
		}
		if err != nil {
			report(t, s, err)
		}
	}
	t.Logf("%d schedules: %d hosts stopped because their identity was copied", n, stopped)
	if n >= 20 && stopped == 0 {
		t.Error("nobody noticed a copy: the schedules are too tame")
	}
}

func TestCopiesThatGoOnAreCaught(t *testing.T) {
	for seed := uint64(1); seed <= 300; seed++ {
		if _, err := Run(NewCopySchedule(seed), rivalsGoOn); broken(err) == "one of two" {
			t.Logf("seed %d: %v", seed, err)
			return
		}
	}
	t.Error("a host whose identity was copied goes on, and it does not show")
}
