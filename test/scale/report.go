package scale

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// report is what was measured, by size of the mesh; it is kept in a file, as the sizes may be measured one by one.
type report map[int]row

// row is one mesh. Bytes are what each host sends, a second; processor is a share of one.
type row struct {
	Hosts             int
	P50, P99, Max     time.Duration // from a change to its being compiled, of 20 a second
	Single            time.Duration // the same, the slowest of changes that come alone
	Gossip, Sync      float64       // bytes, idle
	Tunnels           float64       // bytes, idle: keepalives and handshakes, by calculation
	BusySync          float64       // bytes, under 20 changes a second
	Idle, Busy        float64       // processor
	Memory            int64         // bytes
	Joined, JoinedAll time.Duration // a newcomer has everything, everybody has the newcomer
	Merge, View       time.Duration // of one changed document
	Compile           time.Duration
	TakeAll           time.Duration // a newcomer takes in everything
	Records           int           // bytes of everything, as it is sent
}

func readReport(path string) (report, error) {
	r := report{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(data, &r)
}

func (r report) write(path string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func (r report) rows() []row {
	var rows []row
	for _, x := range r {
		rows = append(rows, x)
	}
	slices.SortFunc(rows, func(a, b row) int { return a.Hosts - b.Hosts })
	return rows
}

// document puts the tables and the picture into the documents.
func (r report) document(dir string) error {
	path := filepath.Join(dir, "scale.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	between := regexp.MustCompile(`(?s)(<!-- measured: begin -->\n).*(<!-- measured: end -->)`)
	if !between.Match(text) {
		return fmt.Errorf("%s has no place for the tables", path)
	}
	text = between.ReplaceAll(text, []byte("${1}\n"+r.tables()+"\n${2}"))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "img", "scale.svg"), []byte(r.picture()), 0o644)
}

func (r report) tables() string {
	var b strings.Builder
	b.WriteString("| hosts | a change is compiled: half | 99 % | the last | alone, the last | a newcomer has all | all have it |\n|---|---|---|---|---|---|---|\n")
	for _, x := range r.rows() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", count(x.Hosts), short(x.P50), short(x.P99), short(x.Max), short(x.Single), short(x.Joined), short(x.JoinedAll))
	}
	b.WriteString("\n| hosts | idle: sent a second | of it gossip | catalog | tunnels | 20 changes/s: catalog | processor, idle | 20 changes/s | memory |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.rows() {
		fmt.Fprintf(&b, "| %s | %.1f kB | %.1f | %.1f | %.1f | %.0f kB | %.2f %% | %.1f %% | %.0f MB |\n", count(x.Hosts),
			(x.Gossip+x.Sync+x.Tunnels)/1e3, x.Gossip/1e3, x.Sync/1e3, x.Tunnels/1e3, x.BusySync/1e3, 100*x.Idle, 100*x.Busy, float64(x.Memory)/1e6)
	}
	b.WriteString("\n| hosts | everything, as it is sent | taken in and seen by a newcomer | a changed document: merged | seen | compiled |\n|---|---|---|---|---|---|\n")
	for _, x := range r.rows() {
		fmt.Fprintf(&b, "| %s | %.1f MB | %s | %s | %s | %s |\n", count(x.Hosts), float64(x.Records)/1e6, short(x.TakeAll), short(x.Merge), short(x.View), short(x.Compile))
	}
	return b.String()
}

func count(n int) string {
	if n >= 1000 {
		return fmt.Sprintf("%d,%03d", n/1000, n%1000)
	}
	return fmt.Sprint(n)
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
