package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/configs"
)

func TestSessionEndsAfterItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		ctx, done, ok := c.begin(t.Context())
		if !ok {
			t.Fatal("a new session takes no calls")
		}
		closed := make(chan struct{})
		go func() {
			c.close()
			close(closed)
		}()
		synctest.Wait()
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Error("the call is not told that the session ends")
		}
		select {
		case <-closed:
			t.Error("the session ended under a call")
		default:
		}
		if _, _, ok := c.begin(t.Context()); ok {
			t.Error("a session that ends takes another call")
		}
		done()
		<-closed
		c.close() // again
	})
}

// memberAgent is an agent with a session that does nothing by itself.
func memberAgent() (*Agent, *session) {
	s := &session{}
	return &Agent{log: silent, session: s, up: true}, s
}

func TestCallsEndWithTheirSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s := memberAgent()
		got := make(chan error, 1)
		go func() {
			got <- tellMesh(t.Context(), a, func(ctx context.Context, _ *session) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		synctest.Wait()
		s.calls.close()
		wantCode(t, <-got, api.CodeUnavailable, "leaves the mesh", "try again")
		wantCode(t, tellMesh(t.Context(), a, func(context.Context, *session) error { return nil }), api.CodeUnavailable, "leaves the mesh")
	})
}

func TestCallsEndWithTheirCaller(t *testing.T) {
	a, _ := memberAgent()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := tellMesh(ctx, a, func(ctx context.Context, _ *session) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
}

func TestWithoutAMesh(t *testing.T) {
	a, err := New(configs.Config{}, silent, "1")
	if err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() error{
		"members":  func() error { _, err := a.Members(t.Context()); return err },
		"networks": func() error { _, err := a.Networks(t.Context()); return err },
		"attach":   func() error { _, err := a.Attach(t.Context(), api.AttachRequest{}); return err },
		"evict":    func() error { return a.Evict(t.Context(), "b") },
		"leave":    func() error { return a.Leave(t.Context()) },
	} {
		t.Run(what, func(t *testing.T) {
			wantCode(t, call(), api.CodeNoMesh, "meshd init", "meshd join ADDRESS --token TOKEN")
		})
	}
	status, err := a.Status(t.Context())
	if err != nil || status.State != "idle" || !status.Healthy {
		t.Errorf("%+v, %v", status, err)
	}
	if c := a.credentials(); c.Mesh != "" || len(c.Key) == 0 {
		t.Errorf("the door of an idle host shows %+v", c)
	}
}
