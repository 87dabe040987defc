package api

import (
	"slices"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for spec, want := range map[string][]Publish{
		"80":                    {{80, 80, "tcp"}},
		"8080:80":               {{8080, 80, "tcp"}},
		"53/udp":                {{53, 53, "udp"}},
		"8080:80/tcp":           {{8080, 80, "tcp"}},
		"65535:1/udp":           {{65535, 1, "udp"}},
		"80-82":                 {{80, 80, "tcp"}, {81, 81, "tcp"}, {82, 82, "tcp"}},
		"8000-8001:9000-9001":   {{8000, 9000, "tcp"}, {8001, 9001, "tcp"}},
		"65534-65535:1-2/udp":   {{65534, 1, "udp"}, {65535, 2, "udp"}},
		"7-7:8":                 {{7, 8, "tcp"}},
		"":                      nil,
		"0":                     nil,
		"080":                   nil,
		"+80":                   nil,
		"65536":                 nil,
		"80:":                   nil,
		":80":                   nil,
		"80/":                   nil,
		"80/sctp":               nil,
		"1:2:3":                 nil,
		"1.2.3.4:1:2":           nil,
		"8080:80/tcp ":          nil,
		"80/TCP":                nil,
		"80-":                   nil,
		"-80":                   nil,
		"82-80":                 nil,
		"80-82:80-81":           nil,
		"8000-8010:80":          nil,
		"80-90-100":             nil,
		"1-129":                 nil,
		"1-65535":               nil,
		"60000-65536:1000-6536": nil,
	} {
		got, err := ParsePublish(spec)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v, want %v", spec, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "use [HOST_PORT:]PORT") && !strings.Contains(err.Error(), "at most 128") {
			t.Errorf("%q: %v", spec, err)
		}
	}
	for _, spec := range []string{"1-128", "8000-8127:1-128/udp"} {
		if got, err := ParsePublish(spec); err != nil || len(got) != MaxPorts {
			t.Errorf("%q: %d, %v", spec, len(got), err)
		}
	}
}

func TestParsePorts(t *testing.T) {
	for spec, want := range map[string][]Port{
		"80":        {{80, ""}},
		"53/udp":    {{53, "udp"}},
		"80-81/tcp": {{80, "tcp"}, {81, "tcp"}},
		"":          nil,
		"8080:80":   nil,
		"0":         nil,
		"80/icmp":   nil,
		"1-999":     nil,
	} {
		if got, err := ParsePorts(spec); !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v, want %v", spec, got, err, want)
		}
	}
}

func TestFormatPublishIsReadAgain(t *testing.T) {
	for want, list := range map[string][]Publish{
		"8000-8010:9000-9010/udp":             parsed(t, "8000-8010:9000-9010/udp"),
		"80:80/tcp, 82:82/tcp":                parsed(t, "80", "82"),
		"80:80/tcp, 81:81/udp":                parsed(t, "80", "81/udp"),
		"80:80/tcp, 81:90/tcp, 82-83:1-2/tcp": parsed(t, "80", "81:90", "82-83:1-2"),
		"":                                    nil,
	} {
		texts := FormatPublish(list)
		if got := strings.Join(texts, ", "); got != want {
			t.Errorf("%v: %q, want %q", list, got, want)
		}
		if again := parsed(t, texts...); !slices.Equal(again, list) {
			t.Errorf("%v: read again %v", list, again)
		}
	}
}

func parsed(t *testing.T, specs ...string) (list []Publish) {
	t.Helper()
	for _, spec := range specs {
		some, err := ParsePublish(spec)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, some...)
	}
	return list
}
