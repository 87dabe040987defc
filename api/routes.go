package api

import (
	"context"
	"net/http"
	"reflect"
)

// VersionInfo is the answer of /v1/version.
type VersionInfo struct {
	Version string `json:"version"`
}

// Health is the answer of /v1/healthz; the HTTP status is 200 if Healthy, else 503.
type Health struct {
	Healthy bool     `json:"healthy"`
	Health  []string `json:"health"` // what is wrong, as in Status
}

// EvictRequest shuts a host out.
type EvictRequest struct {
	Node string `json:"node"` // its name, its id, or an unambiguous start of one
}

// empty is the body of requests and answers that carry nothing.
type empty struct{}

// route is one call of the API.
type route struct {
	method, path string
	operation    string       // operationId in openapi.yaml
	request      reflect.Type // nil: it has no body
	response     reflect.Type // nil: it has no body
	change       bool         // it changes something: who asked is logged

	// completes: it goes on when its client goes away. The others are cancelled then:
	// those that read, and Join and Attach, which may wait long for others. These finish what
	// they cannot undo.
	completes bool
	status    func(result any) int
	call      func(ctx context.Context, s *Server, req *http.Request) (any, error)
}

// routes are all calls of the API. openapi.yaml describes the same; a test compares them.
func routes() []route {
	return []route{
		post("/v1/init", "init", Backend.Init).toTheEnd(),
		post("/v1/join", "join", Backend.Join),
		post("/v1/pair", "pair", Backend.Pair),
		post("/v1/ping", "ping", Backend.Ping).asking(),
		post("/v1/resolve", "resolve", Backend.Resolve).asking(),
		get("/v1/waiting", "waiting", Backend.Waiting),
		post("/v1/waiting", "letIn", func(b Backend, ctx context.Context, req LetInRequest) (empty, error) {
			return empty{}, b.LetIn(ctx, req)
		}).toTheEnd(),
		action("POST", "/v1/leave", "leave", func(ctx context.Context, b Backend, _ *http.Request) error { return b.Leave(ctx) }),
		post("/v1/evict", "evict", func(b Backend, ctx context.Context, req EvictRequest) (empty, error) {
			return empty{}, b.Evict(ctx, req.Node)
		}).toTheEnd(),
		get("/v1/members", "members", Backend.Members),
		get("/v1/status", "status", Backend.Status),
		post("/v1/doctor", "doctor", Backend.Doctor),
		post("/v1/events", "events", Backend.Events).asking(),
		get("/v1/tokens", "tokens", Backend.Tokens),
		post("/v1/tokens", "createToken", Backend.CreateToken).toTheEnd(),
		action("DELETE", "/v1/tokens/{id}", "revokeToken", func(ctx context.Context, b Backend, r *http.Request) error {
			return b.RevokeToken(ctx, r.PathValue("id"))
		}),
		get("/v1/networks", "networks", Backend.Networks),
		post("/v1/networks", "createNetwork", Backend.CreateNetwork).toTheEnd(),
		post("/v1/grow", "growNetwork", Backend.GrowNetwork).toTheEnd(),
		getOne("/v1/networks/{name}", "network", Backend.Network),
		action("DELETE", "/v1/networks/{name}", "removeNetwork", func(ctx context.Context, b Backend, r *http.Request) error {
			return b.RemoveNetwork(ctx, r.PathValue("name"))
		}),
		get("/v1/services", "services", Backend.Services),
		getOne("/v1/services/{name}", "service", Backend.Service),
		patch("/v1/services/{name}", "updateService", Backend.UpdateService).toTheEnd(),
		get("/v1/endpoints", "endpoints", Backend.Endpoints),
		post("/v1/endpoints", "attach", Backend.Attach),
		action("DELETE", "/v1/endpoints/{endpoint}", "detach", func(ctx context.Context, b Backend, r *http.Request) error {
			return b.Detach(ctx, r.PathValue("endpoint"))
		}),
		post("/v1/detach", "detachKey", func(b Backend, ctx context.Context, req DetachRequest) (empty, error) {
			return empty{}, b.DetachKey(ctx, req)
		}).toTheEnd(),
		post("/v1/drain", "drain", func(b Backend, ctx context.Context, req DrainRequest) (empty, error) {
			return empty{}, b.Drain(ctx, req)
		}),
		versionRoute(),
		healthRoute(),
	}
}

func versionRoute() route {
	return route{
		method: "GET", path: "/v1/version", operation: "version", response: reflect.TypeFor[VersionInfo](), status: always(http.StatusOK),
		call: func(_ context.Context, s *Server, _ *http.Request) (any, error) { return VersionInfo{s.version}, nil },
	}
}

func healthRoute() route {
	return route{
		method: "GET", path: "/v1/healthz", operation: "healthz", response: reflect.TypeFor[Health](),
		status: func(result any) int {
			if result.(Health).Healthy {
				return http.StatusOK
			}
			return http.StatusServiceUnavailable
		},
		call: func(ctx context.Context, s *Server, _ *http.Request) (any, error) {
			status, err := s.backend.Status(ctx)
			return Health{status.Healthy, status.Health}, err
		},
	}
}

func always(status int) func(any) int { return func(any) int { return status } }

func (r route) toTheEnd() route {
	r.completes = true
	return r
}

// asking is a route with a body that changes nothing.
func (r route) asking() route {
	r.change = false
	return r
}

// get is a route that reads; fn is a method of Backend.
func get[Resp any](path, operation string, fn func(Backend, context.Context) (Resp, error)) route {
	return route{
		method: "GET", path: path, operation: operation, response: reflect.TypeFor[Resp](), status: always(http.StatusOK),
		call: func(ctx context.Context, s *Server, _ *http.Request) (any, error) { return fn(s.backend, ctx) },
	}
}

// getOne is a route that reads what {name} names.
func getOne[Resp any](path, operation string, fn func(Backend, context.Context, string) (Resp, error)) route {
	return route{
		method: "GET", path: path, operation: operation, response: reflect.TypeFor[Resp](), status: always(http.StatusOK),
		call: func(ctx context.Context, s *Server, req *http.Request) (any, error) {
			return fn(s.backend, ctx, req.PathValue("name"))
		},
	}
}

// post is a route that changes something, as its body says.
func post[Req, Resp any](path, operation string, fn func(Backend, context.Context, Req) (Resp, error)) route {
	r := route{
		method: "POST", path: path, operation: operation, request: reflect.TypeFor[Req](), change: true, status: always(http.StatusOK),
		call: func(ctx context.Context, s *Server, req *http.Request) (any, error) {
			var body Req
			if err := decode(req.Body, &body); err != nil {
				return nil, err
			}
			resp, err := fn(s.backend, ctx, body)
			if _, nothing := any(resp).(empty); nothing {
				return nil, err
			}
			return resp, err
		},
	}
	if reflect.TypeFor[Resp]() == reflect.TypeFor[empty]() {
		r.status = always(http.StatusNoContent)
	} else {
		r.response = reflect.TypeFor[Resp]()
	}
	return r
}

// patch is a route that changes what {name} names, as its body says.
func patch[Req, Resp any](path, operation string, fn func(Backend, context.Context, string, Req) (Resp, error)) route {
	return route{
		method: "PATCH", path: path, operation: operation, request: reflect.TypeFor[Req](), response: reflect.TypeFor[Resp](),
		change: true, status: always(http.StatusOK),
		call: func(ctx context.Context, s *Server, req *http.Request) (any, error) {
			var body Req
			if err := decode(req.Body, &body); err != nil {
				return nil, err
			}
			return fn(s.backend, ctx, req.PathValue("name"), body)
		},
	}
}

// action is a route that changes something and answers nothing; it is done to the end.
func action(method, path, operation string, fn func(context.Context, Backend, *http.Request) error) route {
	return route{
		method: method, path: path, operation: operation, change: true, completes: true, status: always(http.StatusNoContent),
		call: func(ctx context.Context, s *Server, req *http.Request) (any, error) {
			return nil, fn(ctx, s.backend, req)
		},
	}
}
