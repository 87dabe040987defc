package scale

import (
	"fmt"
	"math"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	panelWidth, panelHeight = 340, 230
	leftMargin, topMargin   = 64, 40
	plotWidth, plotHeight   = 250, 140
)

// panel is one plot: both axes are logarithmic.
type panel struct {
	title  string
	lines  []line
	goal   float64 // a dashed line; 0: none
	format func(float64) string
}

type line struct {
	name   string
	colour string
	value  func(row) float64
}

// picture is how all grows with the mesh, as SVG.
func (r report) picture() string {
	seconds := func(v float64) string { return unit(v, "s") }
	bytes := func(v float64) string { return unit(v, "B") }
	panels := []panel{
		{"A change is compiled everywhere (20 a second)", []line{
			{"half", "#2a9d8f", func(x row) float64 { return x.P50.Seconds() }},
			{"99 %", "#e9a23b", func(x row) float64 { return x.P99.Seconds() }},
			{"the last", "#d1495b", func(x row) float64 { return x.Max.Seconds() }},
		}, 2, seconds},
		{"Sent by a host in a second", []line{
			{"idle", "#2a9d8f", func(x row) float64 { return x.Gossip + x.Sync + x.Tunnels }},
			{"20 changes/s", "#d1495b", func(x row) float64 { return x.Gossip + x.BusySync + x.Tunnels }},
		}, 2000, bytes},
		{"Memory of a host", []line{
			{"records, view, desired state", "#2a9d8f", func(x row) float64 { return float64(x.Memory) }},
		}, 100e6, bytes},
		{"A newcomer", []line{
			{"has everything", "#2a9d8f", func(x row) float64 { return x.Joined.Seconds() }},
			{"is known to all", "#d1495b", func(x row) float64 { return x.JoinedAll.Seconds() }},
		}, 3, seconds},
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", 2*panelWidth, 2*panelHeight)
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	for i, p := range panels {
		p.draw(&b, r.rows(), i%2*panelWidth, i/2*panelHeight)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func unit(v float64, name string) string {
	for _, step := range []struct {
		factor float64
		prefix string
	}{{1e6, "M"}, {1e3, "k"}, {1, ""}, {1e-3, "m"}} {
		if v >= step.factor*0.999 {
			return fmt.Sprintf("%.3g %s%s", v/step.factor, step.prefix, name)
		}
	}
	return fmt.Sprintf("%.2g %s", v, name)
}

func (p panel) draw(b *strings.Builder, rows []row, left, top int) {
	low, high := p.goal, p.goal
	for _, x := range rows {
		for _, l := range p.lines {
			if v := l.value(x); v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	first, last := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high)+0.01)
	across := func(hosts int) float64 {
		return float64(left) + leftMargin + plotWidth*(math.Log10(float64(hosts))-1)/2
	}
	up := func(v float64) float64 {
		return float64(top) + topMargin + plotHeight*(last-math.Log10(v))/(last-first)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" font-size="12">%s</text>`+"\n", left+12, top+18, p.title)
	for e := first; e <= last; e++ {
		y := up(math.Pow(10, e))
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#555">%s</text>`+"\n",
			left+leftMargin, y, left+leftMargin+plotWidth, left+leftMargin-6, y+4, p.format(math.Pow(10, e)))
	}
	for _, x := range rows {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%s</text>`+"\n", across(x.Hosts), top+topMargin+plotHeight+16, count(x.Hosts))
	}
	fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#888" stroke-dasharray="4 3"/><text x="%d" y="%.1f" text-anchor="end" fill="#888">goal</text>`+"\n",
		left+leftMargin, up(p.goal), left+leftMargin+plotWidth, left+leftMargin+plotWidth, up(p.goal)-3)
	for i, l := range p.lines {
		var points []string
		for _, x := range rows {
			if v := l.value(x); v > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", across(x.Hosts), up(v)))
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", across(x.Hosts), up(v), l.colour)
			}
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.8"/>`+"\n", strings.Join(points, " "), l.colour)
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+leftMargin+i*86, top+topMargin-8, l.colour, l.name)
	}
}
