package api_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/api/apitest"
)

// FuzzRequests is a local program that asks whatever it likes: it gets an answer, and never that of a
// daemon that is at fault.
func FuzzRequests(f *testing.F) {
	for _, seed := range [][3]string{
		{"POST", "/v1/init", "{}"},
		{"POST", "/v1/join", `{"addresses":["10.0.0.1"],"token":"meshd1.x"}`},
		{"POST", "/v1/tokens", `{"ttl":"24h","uses":-1}`},
		{"POST", "/v1/networks", `{"name":"appnet","subnets":["10.1.0.0/16"]}`},
		{"POST", "/v1/endpoints", `{"networks":["appnet"],"pid":1,"publish":[{"published":0,"target":70000}]}`},
		{"GET", "/v1/networks/%2e%2e", ""},
		{"DELETE", "/v1/endpoints/x", ""},
		{"PATCH", "//v1?x=%zz", "[[[["},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		backend := new(apitest.Backend)
		if _, err := backend.Init(context.Background(), api.InitRequest{}); err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(method, "http://meshd"+target, strings.NewReader(body))
		if err != nil {
			return // no HTTP
		}
		answer := httptest.NewRecorder()
		api.NewServer(backend, api.Options{}).ServeHTTP(answer, req)
		if answer.Code == http.StatusInternalServerError {
			t.Fatalf("%s %s %s: %d %s", method, target, body, answer.Code, answer.Body)
		}
	})
}
