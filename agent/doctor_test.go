package agent

import (
	"os"
	"strings"
	"testing"

	"github.com/meshd/meshd/internal/link/linktest"
)

// The kernel that the tests run on has what meshd needs, and the doctor's own trials leave nothing.
func TestDoctorTriesTheKernel(t *testing.T) {
	linktest.RequireRoot(t)
	dir := t.TempDir()
	for _, c := range checkKernel(t.Context(), dir) {
		if c.State != checkOK {
			t.Errorf("%s: %s: %s", c.State, c.Name, c.Detail)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Without a member of it a doctor has no mesh to look at, and says how to get one.
func TestDoctorOfAnIdleHost(t *testing.T) {
	checks := (&Agent{}).checkIdle()
	if len(checks) == 0 || checks[0].State != checkOK || !strings.Contains(checks[0].Detail, "meshd init") {
		t.Errorf("%+v", checks)
	}
}
