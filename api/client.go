package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
)

// Client asks a daemon over its socket. It implements [Backend]; errors are *Error, and
// each is one line that a person can act on. It may be used by several goroutines.
type Client struct {
	http    *http.Client
	explain func(context.Context, error) error // what to do about a daemon that cannot be asked
}

var _ Backend = (*Client)(nil)

// NewClient makes a client of the daemon at a socket. It does not connect yet.
func NewClient(socketPath string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socketPath)
	}
	return &Client{
		http:    &http.Client{Transport: &http.Transport{DialContext: dial}},
		explain: func(ctx context.Context, err error) error { return explainSocket(ctx, socketPath, err) },
	}
}

// Init implements Mesh.
func (c *Client) Init(ctx context.Context, req InitRequest) (InitResponse, error) {
	return call[InitResponse](ctx, c, "POST", "/v1/init", req)
}

// Join implements Mesh. It waits until this host is a member; ending ctx gives up.
func (c *Client) Join(ctx context.Context, req JoinRequest) (Status, error) {
	return call[Status](ctx, c, "POST", "/v1/join", req)
}

// Pair implements Mesh.
func (c *Client) Pair(ctx context.Context, req PairRequest) (Pairing, error) {
	return call[Pairing](ctx, c, "POST", "/v1/pair", req)
}

// Waiting implements Mesh.
func (c *Client) Waiting(ctx context.Context) ([]Waiting, error) {
	return call[[]Waiting](ctx, c, "GET", "/v1/waiting", nil)
}

// LetIn implements Mesh.
func (c *Client) LetIn(ctx context.Context, req LetInRequest) error {
	_, err := call[empty](ctx, c, "POST", "/v1/waiting", req)
	return err
}

// Ping implements Mesh.
func (c *Client) Ping(ctx context.Context, req PingRequest) (Ping, error) {
	return call[Ping](ctx, c, "POST", "/v1/ping", req)
}

// Resolve implements Endpoints.
func (c *Client) Resolve(ctx context.Context, req ResolveRequest) (Resolution, error) {
	return call[Resolution](ctx, c, "POST", "/v1/resolve", req)
}

// Leave implements Mesh.
func (c *Client) Leave(ctx context.Context) error {
	_, err := call[empty](ctx, c, "POST", "/v1/leave", nil)
	return err
}

// Evict implements Mesh.
func (c *Client) Evict(ctx context.Context, node string) error {
	_, err := call[empty](ctx, c, "POST", "/v1/evict", EvictRequest{node})
	return err
}

// Members implements Mesh.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	return call[[]Member](ctx, c, "GET", "/v1/members", nil)
}

// Status implements Mesh.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "GET", "/v1/status", nil)
}

// CreateToken implements Mesh.
func (c *Client) CreateToken(ctx context.Context, req TokenRequest) (TokenSecret, error) {
	return call[TokenSecret](ctx, c, "POST", "/v1/tokens", req)
}

// Tokens implements Mesh.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return call[[]Token](ctx, c, "GET", "/v1/tokens", nil)
}

// RevokeToken implements Mesh.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := call[empty](ctx, c, "DELETE", "/v1/tokens/"+url.PathEscape(id), nil)
	return err
}

// CreateNetwork implements Networks.
func (c *Client) CreateNetwork(ctx context.Context, req NetworkRequest) (Network, error) {
	return call[Network](ctx, c, "POST", "/v1/networks", req)
}

// GrowNetwork implements Networks.
func (c *Client) GrowNetwork(ctx context.Context, req GrowthRequest) (Network, error) {
	return call[Network](ctx, c, "POST", "/v1/grow", req)
}

// Networks implements Networks.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return call[[]Network](ctx, c, "GET", "/v1/networks", nil)
}

// Network implements Networks.
func (c *Client) Network(ctx context.Context, name string) (NetworkDetail, error) {
	return call[NetworkDetail](ctx, c, "GET", "/v1/networks/"+url.PathEscape(name), nil)
}

// RemoveNetwork implements Networks.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	_, err := call[empty](ctx, c, "DELETE", "/v1/networks/"+url.PathEscape(name), nil)
	return err
}

// Services implements Networks.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	return call[[]Service](ctx, c, "GET", "/v1/services", nil)
}

// Service implements Networks.
func (c *Client) Service(ctx context.Context, name string) (Service, error) {
	return call[Service](ctx, c, "GET", "/v1/services/"+url.PathEscape(name), nil)
}

// UpdateService implements Networks.
func (c *Client) UpdateService(ctx context.Context, name string, req ServiceRequest) (Service, error) {
	return call[Service](ctx, c, "PATCH", "/v1/services/"+url.PathEscape(name), req)
}

// Attach implements Endpoints.
func (c *Client) Attach(ctx context.Context, req AttachRequest) (Attached, error) {
	return call[Attached](ctx, c, "POST", "/v1/endpoints", req)
}

// Detach implements Endpoints.
func (c *Client) Detach(ctx context.Context, endpoint string) error {
	_, err := call[empty](ctx, c, "DELETE", "/v1/endpoints/"+url.PathEscape(endpoint), nil)
	return err
}

// DetachKey implements Endpoints.
func (c *Client) DetachKey(ctx context.Context, req DetachRequest) error {
	_, err := call[empty](ctx, c, "POST", "/v1/detach", req)
	return err
}

// Events implements Mesh.
func (c *Client) Events(ctx context.Context, req EventsRequest) (Events, error) {
	return call[Events](ctx, c, "POST", "/v1/events", req)
}

// Doctor implements Mesh.
func (c *Client) Doctor(ctx context.Context, req DoctorRequest) (Diagnosis, error) {
	return call[Diagnosis](ctx, c, "POST", "/v1/doctor", req)
}

// Drain implements Endpoints.
func (c *Client) Drain(ctx context.Context, req DrainRequest) error {
	_, err := call[empty](ctx, c, "POST", "/v1/drain", req)
	return err
}

// Endpoints implements Endpoints.
func (c *Client) Endpoints(ctx context.Context) ([]Endpoint, error) {
	return call[[]Endpoint](ctx, c, "GET", "/v1/endpoints", nil)
}

// Version is the daemon's.
func (c *Client) Version(ctx context.Context) (VersionInfo, error) {
	return call[VersionInfo](ctx, c, "GET", "/v1/version", nil)
}

// call makes one call. A nil body sends none.
func call[Resp any](ctx context.Context, c *Client, method, path string, body any) (Resp, error) {
	var answer Resp
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return answer, fmt.Errorf("encoding %s %s: %w", method, path, err)
		}
		text = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://meshd"+path, text)
	if err != nil {
		return answer, fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer, c.explain(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode >= 300 {
		return answer, refusal(resp)
	}
	if resp.StatusCode == http.StatusNoContent {
		return answer, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return answer, c.explain(ctx, err)
	}
	return answer, nil
}

func refusal(resp *http.Response) error {
	var refused Error
	if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil || refused.Message == "" {
		return &Error{CodeInternal, fmt.Sprintf("the daemon answered %s, which this client does not understand: use a client of its own version", resp.Status)}
	}
	return &refused
}

// isOther says whether there is something at path that is no socket.
func isOther(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() != os.ModeSocket
}

// explainSocket says what to do about the daemon at a socket, if it cannot be reached.
func explainSocket(ctx context.Context, socket string, err error) error {
	switch {
	case ctx.Err() != nil:
		return &Error{CodeUnavailable, "given up before the daemon answered: " + context.Cause(ctx).Error() + ": try again"}
	case len(socket) > maxSocketPath:
		return &Error{CodeUnavailable, fmt.Sprintf("cannot reach the meshd daemon at %s: no socket has so long a path: name the daemon's with --socket or MESHD_SOCKET", socket)}
	case isOther(socket):
		return &Error{CodeUnavailable, fmt.Sprintf("cannot reach the meshd daemon at %s: that is no socket: name the daemon's with --socket or MESHD_SOCKET", socket)}
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &Error{CodeUnavailable, fmt.Sprintf("cannot reach the meshd daemon at %s: it is not running: start it with `systemctl start meshd` or `sudo meshd agent`, or name another daemon's socket with --socket or MESHD_SOCKET", socket)}
	case errors.Is(err, os.ErrPermission):
		return &Error{CodeDenied, fmt.Sprintf("cannot reach the meshd daemon at %s: permission denied: use sudo, or join the group %s (`sudo usermod -aG %s $USER`, then log in again)", socket, Group, Group)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &Error{CodeUnavailable, fmt.Sprintf("the meshd daemon at %s went away before it answered: see why with `journalctl -u meshd`, then try again", socket)}
	}
	return &Error{CodeUnavailable, fmt.Sprintf("cannot reach the meshd daemon at %s: %v: check that --socket or MESHD_SOCKET names a daemon's socket", socket, err)}
}
