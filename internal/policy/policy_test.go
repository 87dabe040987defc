package policy

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/meshd/meshd"

// source is one Go file.
type source struct {
	name   string // with the folder, from the root
	folder string
	test   bool
	syntax *ast.File
}

var (
	root    = filepath.Join("..", "..")
	fileSet = token.NewFileSet()
)

// walk calls visit with every file of the code base, named from the root.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.Type().IsRegular():
			visit(filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var parsed []source

func sources(t *testing.T) []source {
	t.Helper()
	if parsed != nil {
		return parsed
	}
	var all []source
	walk(t, func(name string) {
		if path.Ext(name) != ".go" {
			return
		}
		syntax, err := parser.ParseFile(fileSet, filepath.Join(root, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{
			name: name, folder: path.Dir(name), syntax: syntax,
			test: strings.HasSuffix(name, "_test.go") || under(name, "test"),
		})
	})
	if len(all) < 100 {
		t.Fatalf("only %d files found: the tests look in the wrong place", len(all))
	}
	parsed = all
	return all
}

func (s source) imports() []string {
	var paths []string
	for _, i := range s.syntax.Imports {
		p, _ := strconv.Unquote(i.Path.Value) // the parser has checked it
		paths = append(paths, p)
	}
	return paths
}

func under(name, folder string) bool { return name == folder || strings.HasPrefix(name, folder+"/") }

func underAny(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return under(name, f) })
}

// TestOwnImports keeps the layers apart.
func TestOwnImports(t *testing.T) {
	for _, rule := range []struct {
		folder string
		may    []string // of our own folders
		why    string
	}{
		{"overlay", []string{"internal"}, "a leaf is told what should be, and knows neither who decides nor the other leaves"},
		{"dns", []string{"internal"}, "a leaf is told what should be, and knows neither who decides nor the other leaves"},
		{"ingress", []string{"internal"}, "a leaf is told what should be, and knows neither who decides nor the other leaves"},
		{"gateway", []string{"internal"}, "a leaf is told what should be, and knows neither who decides nor the other leaves"},
		{"catalog", nil, "a simulator runs it as it is"},
		{"internal", []string{"internal"}, "what everybody may use uses nobody"},
		{"api", []string{"api", "internal"}, "clients are built from it, without the agent"},
		{"configs", []string{"configs", "internal"}, "programs read their settings before anything else is there"},
		{"claims", []string{"catalog"}, "a simulator runs it as it is"},
		{"peers", []string{"peers", "catalog", "claims", "internal"}, "hosts meet without knowing what is built upon that"},
		{"metrics", []string{"metrics", "api", "internal"}, "it tells what the API tells"},
	} {
		for _, s := range sources(t) {
			if s.test || !under(s.folder, rule.folder) {
				continue
			}
			for _, p := range s.imports() {
				ours, found := strings.CutPrefix(p, module+"/")
				if found && !underAny(ours, rule.may) {
					t.Errorf("%s imports %s: %s", s.name, ours, rule.why)
				}
			}
		}
	}
	for _, s := range sources(t) {
		if !s.test && !under(s.folder, "cmd") && slices.Contains(s.imports(), module+"/agent") {
			t.Errorf("%s imports agent: only commands do; the agent knows the parts, not they the agent", s.name)
		}
	}
}

// TestLibraries keeps each library behind the package that owns it, so that it can be
// replaced, and its bugs be looked for, in one place.
func TestLibraries(t *testing.T) {
	for library, owners := range map[string][]string{
		"github.com/hashicorp/serf":           {"peers/membership"},
		"github.com/hashicorp/memberlist":     {"peers/membership"},
		"golang.zx2c4.com/wireguard":          {"peers/wireguard"},
		"github.com/tailscale/wireguard-go":   {"peers/wireguard"},
		"github.com/miekg/dns":                {"dns"},
		"github.com/coreos/go-iptables":       {"gateway", "ingress"},
		"github.com/google/nftables":          {"ingress", "overlay", "dns", "internal"},
		"github.com/vishvananda/netlink":      {"gateway", "ingress", "overlay", "peers/wireguard", "internal"},
		"github.com/vishvananda/netns":        {"internal"},
		"github.com/spf13/viper":              {"configs"},
		"github.com/spf13/cobra":              {"cmd"},
		"github.com/moby/moby":                {"plugin/docker"},
		"github.com/containernetworking":      {"plugin/cni", "cmd/meshd-cni"},
		"github.com/prometheus/client_golang": {"metrics"},
		"github.com/coreos/go-systemd":        {"agent"},
		"pgregory.net/rapid":                  {}, // tests only
		"github.com/google/go-cmp":            {},
		"github.com/rogpeppe/go-internal":     {},
		"testing":                             {"internal/link/linktest", "internal/atomicfile/disktest"},
	} {
		for _, s := range sources(t) {
			if s.test || underAny(s.folder, owners) {
				continue
			}
			for _, p := range s.imports() {
				if under(p, library) {
					t.Errorf("%s imports %s, which only %q may: ask those for what you need", s.name, p, owners)
				}
			}
		}
	}
}

// TestCatalogIsPure: it knows no network, no file, no clock and no chance.
func TestCatalogIsPure(t *testing.T) {
	packages := []string{
		"os", "io/ioutil", "syscall", "golang.org/x/sys", "net/http", "log", "math/rand", "crypto/rand", "context", "sync",
	}
	names := map[string][]string{ // the ends of * are free
		"time": {"Now", "Since", "Until", "Sleep", "After*", "Tick", "New*"},
		"net":  {"Dial*", "Listen*", "Lookup*", "Resolve*", "Interface*", "File*"},
	}
	for _, s := range sources(t) {
		if s.test || s.folder != "catalog" && s.folder != "claims" {
			continue
		}
		for _, p := range s.imports() {
			if underAny(p, packages) {
				t.Errorf("%s imports %s: the catalog is pure, what it needs comes in as arguments", s.name, p)
			}
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			from, ok := selector.X.(*ast.Ident)
			if !ok {
				return true
			}
			for _, name := range names[from.Name] {
				start, free := strings.CutSuffix(name, "*")
				if selector.Sel.Name == name || free && strings.HasPrefix(selector.Sel.Name, start) {
					t.Errorf("%s: %s.%s: the catalog is pure, what it needs comes in as arguments", fileSet.Position(n.Pos()), from.Name, selector.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	documented := make(map[string]bool)
	for _, s := range sources(t) {
		documented[s.folder] = documented[s.folder] || s.syntax.Doc != nil && len(s.syntax.Doc.Text()) > 40
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment: say in it what the package is for", folder)
		}
	}
}

// TestNoSleepInTests: wait for a condition, never for a time. It costs nothing only where time is
// virtual, which a comment on the line says if testing/synctest is not in the same file.
func TestNoSleepInTests(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || slices.Contains(s.imports(), "testing/synctest") {
			continue
		}
		virtual := make(map[int]bool)
		for _, group := range s.syntax.Comments {
			for _, c := range group.List {
				virtual[fileSet.Position(c.Pos()).Line] = c.Text == "// virtual"
			}
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok && selector.Sel.Name == "Sleep" && !virtual[fileSet.Position(n.Pos()).Line] {
				if from, ok := selector.X.(*ast.Ident); ok && from.Name == "time" {
					t.Errorf("%s: a test sleeps: wait for what it wants to see", fileSet.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// TestNothingIsPutOff: what is missing is done, or told to the users, not left as a note.
func TestNothingIsPutOff(t *testing.T) {
	marks := [][]byte{[]byte("TO" + "DO"), []byte("FIX" + "ME"), []byte("XX" + "X:")}
	kinds := []string{".go", ".md", ".yml", ".yaml", ".sh", ".service", ".json", ".toml", ""}
	walk(t, func(name string) {
		if !slices.Contains(kinds, path.Ext(name)) {
			return
		}
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, mark := range marks {
			if i := bytes.Index(data, mark); i >= 0 {
				t.Errorf("%s:%d: %s", name, 1+bytes.Count(data[:i], []byte("\n")), mark)
			}
		}
	})
}
