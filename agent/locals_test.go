package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/netns"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root: it makes network namespaces")
	}
	t.Skip("needs root: it makes network namespaces")
}

// newNamespace makes a namespace that goes with the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	needRoot(t)
	path := filepath.Join(t.TempDir(), "netns")
	h, err := netns.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = h.Close()
	t.Cleanup(func() { _ = netns.Delete(path) })
	return path
}

func block(network string, number uint32) catalog.Claim {
	return catalog.Claim{Network: network, Block: number, Stamp: testTime}
}

func newLocal(digit, namespace string, index uint32) Local {
	return Local{Namespace: namespace, Endpoint: catalog.Endpoint{
		ID: strings.Repeat(digit, 12), Name: "e" + digit, Created: testTime, Health: catalog.Healthy,
		Attachments: []catalog.Attachment{{Network: "appnet", Index: index, MAC: "02:00:00:00:00:01"}},
	}}
}

func TestLocalsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	l := openTestLocals(t, dir)
	kept, detached := newLocal("1", newNamespace(t), 8), newLocal("2", newNamespace(t), 9)
	for _, e := range []Local{detached, kept} {
		if err := l.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Confirm(block("appnet", 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(detached.ID, now()); err != nil {
		t.Fatal(err)
	}
	back := openTestLocals(t, dir)
	if diff := cmp.Diff([]Local{kept}, back.All()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !back.Confirmed(block("appnet", 1)) || back.Confirmed(block("appnet", 2)) || back.Confirmed(block("other", 1)) {
		t.Error("what was agreed to came back otherwise")
	}
	if err := back.Unconfirm(block("appnet", 1)); err != nil {
		t.Fatal(err)
	}
	if openTestLocals(t, dir).Confirmed(block("appnet", 1)) {
		t.Error("a lost claim came back as agreed to")
	}
}

func TestEndpointsThatAreNoMoreDoNotComeBack(t *testing.T) {
	dir := t.TempDir()
	l := openTestLocals(t, dir)
	process, cmd, end := startSleeper(t)
	ended, alive, vanished := newLocal("1", newNamespace(t), 8), newLocal("2", newNamespace(t), 9), newLocal("3", newNamespace(t), 10)
	ended.Process = process
	self, err := findProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	alive.Process = self
	for _, e := range []Local{ended, alive, vanished} {
		if err := l.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	end()
	_ = cmd.Wait()
	if err := netns.Delete(vanished.Namespace); err != nil {
		t.Fatal(err)
	}
	back := openTestLocals(t, dir)
	if all := back.All(); len(all) != 1 || all[0].ID != alive.ID {
		t.Errorf("%+v", all)
	}
	for _, index := range []uint32{8, 9, 10} {
		if !back.AddressBusy("appnet", index, now()) {
			t.Errorf("address %d may be given out at once", index)
		}
	}
}

func TestAddressesRest(t *testing.T) {
	l := openTestLocals(t, t.TempDir())
	e := newLocal("1", "/nowhere", 8)
	if err := l.Put(e); err != nil {
		t.Fatal(err)
	}
	if !l.AddressBusy("appnet", 8, testTime) || l.AddressBusy("appnet", 9, testTime) || l.AddressBusy("other", 8, testTime) {
		t.Error("not exactly the address of the endpoint is busy")
	}
	if err := l.Remove(e.ID, testTime); err != nil {
		t.Fatal(err)
	}
	if !l.AddressBusy("appnet", 8, testTime+addressRest-1) {
		t.Error("the address does not rest")
	}
	if !openTestLocals(t, filepath.Dir(l.path)).AddressBusy("appnet", 8, testTime+1) {
		t.Error("a restart wakes the address up")
	}
	if l.AddressBusy("appnet", 8, testTime-addressRest) != true || l.AddressBusy("appnet", 8, testTime) != false {
		t.Error("after the clock was put back the address rests for another time than its own")
	}
	if err := l.Put(e); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(e.ID, testTime); err != nil {
		t.Fatal(err)
	}
	if l.AddressBusy("appnet", 8, testTime+addressRest) {
		t.Error("the address rests for ever")
	}
}

func TestWhatIsHandedOutIsNobodyElses(t *testing.T) {
	l := openTestLocals(t, t.TempDir())
	e := newLocal("1", "/nowhere", 8)
	if err := l.Put(e); err != nil {
		t.Fatal(err)
	}
	e.Attachments[0].Index = 99
	l.All()[0].Attachments[0].Index = 99
	got, _ := l.Get(e.ID)
	got.Attachments[0].Index = 99
	if now, _ := l.Get(e.ID); now.Attachments[0].Index != 8 {
		t.Error("a caller changed what the loop reads")
	}
}

func TestMovedAndHealthyOnlyWhileItIsThere(t *testing.T) {
	l := openTestLocals(t, t.TempDir())
	e := newLocal("1", "/nowhere", 8)
	if err := l.Put(e); err != nil {
		t.Fatal(err)
	}
	if err := l.Move(e.ID, "appnet", 20); err != nil {
		t.Fatal(err)
	}
	if err := l.SetHealth(e.ID, catalog.Unhealthy, "broken"); err != nil {
		t.Fatal(err)
	}
	if got, _ := l.Get(e.ID); got.Attachments[0].Index != 20 || got.Health != catalog.Unhealthy {
		t.Errorf("%+v", got)
	}
	if err := l.Remove(e.ID, testTime); err != nil {
		t.Fatal(err)
	}
	_ = l.Move(e.ID, "appnet", 21)
	_ = l.SetHealth(e.ID, catalog.Healthy, "")
	if all := l.All(); len(all) != 0 {
		t.Errorf("a detached endpoint came back: %+v", all)
	}
}

func TestWithoutDiskNothingIsPromised(t *testing.T) {
	dir := t.TempDir()
	l := openTestLocals(t, dir)
	e := newLocal("1", "/nowhere", 8)
	if err := l.Put(e); err != nil {
		t.Fatal(err)
	}
	l.path = filepath.Join(dir, "no such directory", "endpoints")
	if err := l.Put(newLocal("2", "/nowhere", 9)); err == nil || len(l.All()) != 1 {
		t.Errorf("an endpoint that a crash would lose: %v, %+v", err, l.All())
	}
	if err := l.Confirm(block("appnet", 1)); err == nil || l.Confirmed(block("appnet", 1)) {
		t.Errorf("a claim that a crash would lose: %v", err)
	}
	if err := l.Remove(e.ID, testTime); err == nil || len(l.All()) != 0 {
		t.Errorf("detaching is not told of, or does not happen: %v, %+v", err, l.All())
	}
}

func TestDamagedEndpointsFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "endpoints")
	if err := os.WriteFile(path, []byte("[1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openLocals(dir)
	if err == nil || !strings.Contains(err.Error(), path+" is damaged") || !strings.Contains(err.Error(), "move it away") {
		t.Fatalf("%v", err)
	}
}

func TestGatewayIndexes(t *testing.T) {
	l := openTestLocals(t, t.TempDir())
	var got []uint32
	for _, digit := range []string{"1", "2", "3"} {
		index, ok := l.FreeGatewayIndex(4)
		if !ok {
			break
		}
		e := newLocal(digit, "/nowhere", 8)
		e.GatewayIndex = index
		if err := l.Put(e); err != nil {
			t.Fatal(err)
		}
		got = append(got, index)
	}
	if !slices.Equal(got, []uint32{2, 3}) {
		t.Errorf("%v: 0 and 1 are not endpoints', and there is none from 4 on", got)
	}
	if err := l.Remove(strings.Repeat("1", 12), testTime); err != nil {
		t.Fatal(err)
	}
	if index, ok := l.FreeGatewayIndex(4); !ok || index != 2 {
		t.Errorf("%d, %v after the first went", index, ok)
	}
}
