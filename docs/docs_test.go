// Package docs_test compares the documents with what they speak of.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/meshd/meshd/configs"
)

// documents are all that people read, by path from this directory.
func documents(t *testing.T) map[string]string {
	t.Helper()
	here, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, path := range append(here, "../README.md", "../CHANGELOG.md", "../CONTRIBUTING.md") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(data)
	}
	if len(texts) < 9 {
		t.Fatalf("only %d documents: are these tests in the right place?", len(texts))
	}
	return texts
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// Every link into the repository leads somewhere, to a heading if it names one.
func TestLinks(t *testing.T) {
	texts := documents(t)
	count := 0
	for path, text := range texts {
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			count++
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %s: %v", path, found[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(texts[file]), anchor) {
				t.Errorf("%s: %s: there is no such heading", path, found[1])
			}
		}
	}
	if count < 20 {
		t.Errorf("only %d links were found", count)
	}
}

// anchors are what a text's headings are called in links, as GitHub makes them.
func anchors(text string) []string {
	var out []string
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		anchor := strings.ToLower(h[1])
		anchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(anchor, "")
		out = append(out, strings.ReplaceAll(anchor, " ", "-"))
	}
	return out
}

// keys are the configuration's, as flags of the agent write them.
func keys() *pflag.FlagSet {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	configs.AddFlags(flags)
	return flags
}

func asFlag(key string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(key) }

var (
	span        = regexp.MustCompile("`((?:[^`\n]|\n[^`\n])+)`")
	keyLike     = regexp.MustCompile(`^([a-z]+)\.([a-z_]+)(: .*)?$`)
	environment = regexp.MustCompile(`\bMESHD_[A-Z_]+\b`)
)

// Every configuration key and environment variable that a document names exists.
func TestConfigurationKeys(t *testing.T) {
	flags := keys()
	sections := make(map[string]bool)
	flags.VisitAll(func(f *pflag.Flag) {
		section, _, _ := strings.Cut(f.Name, "-")
		sections[section] = true
	})
	own := []string{"MESHD_CONFIG", "MESHD_SOCKET", "MESHD_NAME", "MESHD_SERVICE"} // of the programs, not of the file
	count := 0
	for path, text := range documents(t) {
		for _, found := range span.FindAllStringSubmatch(text, -1) {
			key := keyLike.FindStringSubmatch(found[1])
			if key == nil || !sections[key[1]] || key[2] == "service" { // docker.service is systemd's
				continue
			}
			count++
			if flags.Lookup(asFlag(key[1]+"."+key[2])) == nil {
				t.Errorf("%s: there is no configuration key %s.%s", path, key[1], key[2])
			}
		}
		for _, name := range environment.FindAllString(text, -1) {
			key := strings.ToLower(strings.TrimPrefix(name, "MESHD_"))
			if flags.Lookup(asFlag(key)) == nil && !slices.Contains(own, name) {
				t.Errorf("%s: there is no environment variable %s", path, name)
			}
		}
	}
	if count < 8 {
		t.Errorf("only %d keys were found", count)
	}
}

var configBlock = regexp.MustCompile(`(?m)^ {4}[a-z]+:\n(?: {6}.*\n)+`)

// Every piece of configuration that a document shows is accepted.
func TestConfigurationExamples(t *testing.T) {
	count := 0
	for path, text := range documents(t) {
		for _, block := range configBlock.FindAllString(text, -1) {
			block = regexp.MustCompile(`(?m)^ {4}`).ReplaceAllString(block, "")
			if strings.HasPrefix(block, "services:") || strings.HasPrefix(block, "networks:") {
				continue // a compose file, which Docker's tests bring up
			}
			count++
			if _, err := configs.Parse(strings.NewReader(block), path, nil); err != nil {
				t.Errorf("%v in:\n%s", err, block)
			}
		}
	}
	if count < 2 {
		t.Errorf("only %d examples were found", count)
	}
}

// Every metric that a document names is exported, and the other way round.
func TestMetrics(t *testing.T) {
	source, err := os.ReadFile("../metrics/collector.go")
	if err != nil {
		t.Fatal(err)
	}
	exported := make(map[string]bool)
	for _, found := range regexp.MustCompile(`= desc\("(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		exported["meshd_"+found[1]] = false
	}
	if len(exported) < 10 {
		t.Fatalf("only %d metrics were found in the source", len(exported))
	}
	for path, text := range documents(t) {
		for _, name := range regexp.MustCompile(`\bmeshd_[a-z_]+`).FindAllString(text, -1) {
			if _, known := exported[name]; !known {
				t.Errorf("%s: there is no metric %s", path, name)
			}
			exported[name] = true
		}
	}
	for name, documented := range exported {
		if !documented {
			t.Errorf("no document mentions the metric %s", name)
		}
	}
}

// Every file that the installation copies is there.
func TestInstalledFiles(t *testing.T) {
	script, err := os.ReadFile("../scripts/install")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`\$here/([\w./-]+)`).FindAllStringSubmatch(string(script), -1)
	if len(files) < 4 {
		t.Fatalf("only %d files: %v", len(files), files)
	}
	for _, found := range files {
		if _, err := os.Stat(filepath.Join("..", found[1])); err != nil {
			t.Error(err)
		}
	}
}
