package lab

import (
	"slices"
	"testing"
)

func TestEnviron(t *testing.T) {
	got := environ([]string{"PATH=/bin", "http_proxy=http://proxy:3128", "HTTPS_PROXY=x", "no_proxy=", "MESHD_SOCKET=/x", "PROXY=y", "EMPTY="})
	if want := []string{"PATH=/bin", "PROXY=y", "EMPTY="}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
