package identity_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/peers/identity"
)

func open(t *testing.T, path string) *identity.Dir {
	t.Helper()
	dir, err := identity.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return dir
}

func create(t *testing.T, dir *identity.Dir) *identity.Identity {
	t.Helper()
	id, err := dir.Create()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func stateDir(t *testing.T) string { return filepath.Join(t.TempDir(), "state") }

func TestCreateLoad(t *testing.T) {
	path := stateDir(t)
	dir := open(t, path)
	if _, err := dir.Load(); !errors.Is(err, identity.ErrNone) {
		t.Fatalf("loading from an empty directory: %v, want ErrNone", err)
	}
	made := create(t, dir)
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	dir = open(t, path)
	loaded, err := dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !made.Key().Equal(loaded.Key()) || made.WireGuardKey() != loaded.WireGuardKey() ||
		made.ID() != loaded.ID() || made.WireGuardPublic() != loaded.WireGuardPublic() {
		t.Error("the identity changed on its way to disk and back")
	}
	if secret := made.WireGuardKey(); secret[0]&7 != 0 || secret[31]&0xc0 != 0x40 {
		t.Error("the WireGuard key is not clamped")
	}
	if _, err := dir.Create(); err == nil || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("creating a second identity: %v", err)
	}
	if _, err := dir.Membership(loaded); !errors.Is(err, identity.ErrNone) {
		t.Errorf("membership of a node that is none: %v, want ErrNone", err)
	}
	checkModes(t, path)
}

func checkModes(t *testing.T, path string) {
	t.Helper()
	err := filepath.Walk(path, func(name string, info os.FileInfo, err error) error {
		want := os.FileMode(0o600)
		if err == nil && info.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", name, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	id := create(t, open(t, stateDir(t)))
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", id)
	for _, text := range []string{fmt.Sprintf("%v", id), fmt.Sprintf("%+v", id), fmt.Sprintf("%#v", id), log.String()} {
		if !strings.Contains(text, "node "+string(id.ID())) || len(text) > 150 {
			t.Errorf("printed as %q", text)
		}
	}
}

func TestMembershipAndEpoch(t *testing.T) {
	path := stateDir(t)
	dir := open(t, path)
	id := create(t, dir)
	founding, err := id.Found(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.SaveMembership(id, founding.Membership); err != nil {
		t.Fatal(err)
	}
	for i, seen := range []uint64{0, 0, 41, 3} {
		want := []uint64{1, 2, 42, 43}[i]
		if got, err := dir.NextEpoch(seen); err != nil || got != want {
			t.Errorf("NextEpoch(%d) = %d, %v; want %d", seen, got, err, want)
		}
	}
	got, err := dir.Membership(id)
	if err != nil || got.Mesh != founding.Mesh || string(got.Certificate.Body) != string(founding.Certificate.Body) {
		t.Errorf("membership %+v, %v", got, err)
	}
	checkModes(t, path)

	if err := os.WriteFile(filepath.Join(path, "catalog"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := dir.Wipe(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != 2 || entries[0].Name() != "catalog" || entries[1].Name() != "lock" {
		t.Errorf("Wipe left %v, %v; want what is not its own, and the lock", entries, err)
	}
	if epoch, err := dir.NextEpoch(0); err != nil || epoch != 1 {
		t.Errorf("after Wipe epoch %d, %v; want 1", epoch, err)
	}
}

func TestForeignMembershipIsRefused(t *testing.T) {
	dir := open(t, stateDir(t))
	id := create(t, dir)
	other := create(t, open(t, stateDir(t)))
	founding, err := other.Found(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.SaveMembership(id, founding.Membership); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("saving another node's membership: %v", err)
	}
}

// damage is what can have happened to a state file, and what the error must say.
func TestDamagedFiles(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		harm func(t *testing.T, path string)
		kind error
		want []string
	}{
		"identity empty":      {"identity.json", overwrite(""), identity.ErrCorrupt, []string{"ends after 0 bytes", "join again"}},
		"identity cut":        {"identity.json", truncate(40), identity.ErrCorrupt, []string{"ends after 40 bytes"}},
		"identity garbage":    {"identity.json", overwrite("\x00\x00\x00\x00"), identity.ErrCorrupt, []string{"not what meshd writes"}},
		"identity other":      {"identity.json", overwrite(`{"format":1,"seed":"AAAA"}`), identity.ErrCorrupt, []string{"3 bytes, not 32"}},
		"identity newer":      {"identity.json", overwrite(`{"format":2,"keys":[]}`), identity.ErrCorrupt, []string{"newer meshd"}},
		"identity appended":   {"identity.json", appendTo("{}"), identity.ErrCorrupt, []string{"follows after its end"}},
		"identity huge":       {"identity.json", overwrite(strings.Repeat(" ", 2<<20)), identity.ErrCorrupt, []string{"larger than"}},
		"identity key":        {"identity.json", change(`"public":"`, `"public":"AAAA`), identity.ErrCorrupt, nil},
		"identity missing":    {"identity.json", func(t *testing.T, path string) { must(t, os.Remove(path)) }, identity.ErrCorrupt, []string{"missing"}},
		"identity open":       {"identity.json", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o644)) }, identity.ErrUnsafe, []string{"chmod 600", "0644"}},
		"membership link":     {"membership.json", link, identity.ErrUnsafe, []string{"move it away"}},
		"membership cut":      {"membership.json", truncate(100), identity.ErrCorrupt, []string{"ends after 100 bytes"}},
		"membership other":    {"membership.json", change(`"mesh":"`, `"mesh":"x`), identity.ErrCorrupt, []string{"of mesh"}},
		"membership record":   {"membership.json", change(`"signature":"`, `"signature":"AAAA`), identity.ErrCorrupt, nil},
		"epoch empty":         {"epoch", overwrite(""), identity.ErrCorrupt, []string{"instead of a number"}},
		"epoch cut":           {"epoch", overwrite("12"), identity.ErrCorrupt, []string{`"12"`}},
		"epoch negative":      {"epoch", overwrite("-1\n"), identity.ErrCorrupt, nil},
		"epoch of others":     {"epoch", func(t *testing.T, path string) { needRoot(t); must(t, os.Chown(path, 12345, 0)) }, identity.ErrUnsafe, []string{"chown", "12345"}},
		"epochs have run out": {"epoch", overwrite("18446744073709551615\n"), nil, []string{"run out"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := stateDir(t)
			dir := open(t, path)
			id := create(t, dir)
			founding, err := id.Found(now)
			must(t, err)
			must(t, dir.SaveMembership(id, founding.Membership))
			_, err = dir.NextEpoch(0)
			must(t, err)

			test.harm(t, filepath.Join(path, test.file))
			_, err = dir.Load()
			if err == nil {
				_, err = dir.Membership(id)
			}
			if err == nil {
				_, err = dir.NextEpoch(0)
			}
			if err == nil || test.kind != nil && !errors.Is(err, test.kind) {
				t.Fatalf("error %v, want %v", err, test.kind)
			}
			if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q does not name the file in one line", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
}

func truncate(size int64) func(*testing.T, string) {
	return func(t *testing.T, path string) { must(t, os.Truncate(path, size)) }
}

func appendTo(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, append(data, text...), 0o600))
	}
}

func change(from, to string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o600))
	}
}

func link(t *testing.T, path string) {
	must(t, os.Rename(path, path+".real"))
	must(t, os.Symlink(path+".real", path))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root, and CI is set")
	}
	t.Skip("needs root")
}

func TestDirectoryOpenToOthers(t *testing.T) {
	path := stateDir(t)
	must(t, os.Mkdir(path, 0o755))
	dir := open(t, path) // empty: nothing can have been read, so it is closed to others
	checkModes(t, path)
	must(t, dir.Close())
	must(t, os.Chmod(path, 0o755))
	_, err := identity.Open(path)
	if !errors.Is(err, identity.ErrUnsafe) || !strings.Contains(err.Error(), "chmod 700 "+path) {
		t.Errorf("opening a directory that others may read: %v", err)
	}
}

// A second process is turned away, and what a crash left is swept by the next one.
func TestLock(t *testing.T) {
	path := stateDir(t)
	if os.Getenv("IDENTITY_TEST_OPEN") != "" {
		_, err := identity.Open(os.Getenv("IDENTITY_TEST_OPEN"))
		fmt.Println("opened:", err)
		return
	}
	dir := open(t, path)
	half := filepath.Join(path, ".identity.json.meshd-tmp-1")
	must(t, os.WriteFile(half, []byte("{"), 0o600))
	second := func() string {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLock$", "-test.v")
		cmd.Env = append(os.Environ(), "IDENTITY_TEST_OPEN="+path)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	out := second()
	if !strings.Contains(out, fmt.Sprintf("pid %d, identity.test", os.Getpid())) || !strings.Contains(out, "state_dir") {
		t.Errorf("the second process said %q", out)
	}
	must(t, dir.Close())
	if out := second(); !strings.Contains(out, "opened: <nil>") {
		t.Errorf("after the first ended the second said %q", out)
	}
	if _, err := os.Lstat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a half-written file is still there: %v", err)
	}
}

// A full disk leaves no identity, or the one that was.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	path := stateDir(t)
	must(t, os.Mkdir(path, 0o700))
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its mount with it
		done <- errors.Join(
			unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", path, "tmpfs", 0, "size=16k,mode=700"),
			fillAndCreate(path),
		)
	}()
	must(t, <-done)
}

func fillAndCreate(path string) error {
	dir, err := identity.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	fill := filepath.Join(path, "fill")
	if err := os.WriteFile(fill, make([]byte, 64<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("filling the disk: %w", err)
	}
	if _, err := dir.Create(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "identity.json") {
		return fmt.Errorf("creating an identity on a full disk: %w", err)
	}
	if _, err := dir.Load(); !errors.Is(err, identity.ErrNone) {
		return fmt.Errorf("after that: %w, want ErrNone", err)
	}
	if err := os.Remove(fill); err != nil {
		return err
	}
	_, err = dir.Create()
	return err
}
