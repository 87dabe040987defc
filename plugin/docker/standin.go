package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Docker asks a plugin that does not answer again and again, for up to 30 seconds a call, and nothing else goes on
// meanwhile. So its socket belongs to a small process that outlives the agent, the stand-in: it hands
// every call to the agent, and answers at once while there is none. What takes something away is done
// then, as the next agent compares everything with the Engine; what needs the mesh is refused.

// StandInCommand is the hidden command of meshd that [RunStandIn] implements.
const StandInCommand = "docker-standin"

const (
	pathWho   = "/Meshd.Who" // answers who it stands in for
	pathEnd   = "/Meshd.End" // ends it
	socketOwn = time.Second  // how often it looks whether its socket is still there
	startTime = 10 * time.Second
)

// who is what a stand-in says of itself.
type who struct {
	Agent   string // the agent's socket
	Version string // of meshd
}

// errAway is what the Engine's user reads while there is no agent.
var errAway = errors.New("the agent of meshd does not run on this host: start it (systemctl start meshd), then try again")

// errSlow is what they read when the agent took too long, or ended meanwhile.
var errSlow = errors.New("the agent of meshd did not answer in time: try again, and see meshd status")

// goesWithoutAgent is the calls that take something away: the next agent sees what has gone.
var goesWithoutAgent = map[string]bool{
	"/NetworkDriver.Leave": true, "/NetworkDriver.DeleteEndpoint": true, "/NetworkDriver.DeleteNetwork": true,
	"/IpamDriver.ReleaseAddress": true, "/IpamDriver.ReleasePool": true,
}

// standIn is the process's HTTP handler.
type standIn struct {
	who   who
	agent *http.Client
	fixed map[string]any
	end   context.CancelFunc
}

// dialing returns a client that reaches nothing but a Unix socket.
func dialing(socket string) *http.Client {
	return &http.Client{Timeout: callTimeout + 100*time.Millisecond, Transport: &http.Transport{
		DisableKeepAlives: true, // a connection of an earlier agent is none to this one
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", contentType)
	switch r.URL.Path {
	case pathWho:
		_ = json.NewEncoder(w).Encode(s.who)
		return
	case pathEnd:
		s.end()
		_ = json.NewEncoder(w).Encode(nothing{})
		return
	}
	if v, ok := s.fixed[r.URL.Path]; ok {
		_ = json.NewEncoder(w).Encode(v)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return // the Engine has gone
	}
	answer, err := s.ask(r.Context(), r.URL.Path, body)
	switch {
	case err == nil:
		_, _ = w.Write(answer)
	case goesWithoutAgent[r.URL.Path]:
		_ = json.NewEncoder(w).Encode(nothing{})
	default:
		why := errAway
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" {
			why = errSlow
		}
		_ = json.NewEncoder(w).Encode(refused{why.Error(), why.Error()})
	}
}

// ask hands a call to the agent.
func (s *standIn) ask(ctx context.Context, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := s.agent.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the agent answers %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// RunStandIn serves Docker's plugin socket from this process. args are what follows [StandInCommand] on the command
// line. It calls ready once Docker can ask. It returns nil when ctx ends, on SIGTERM, when it is told to, and when a successor
// has its socket.
func RunStandIn(ctx context.Context, version string, args []string, ready func() error) error {
	flags := flag.NewFlagSet(StandInCommand, flag.ContinueOnError)
	path := flags.String("listen", "", "path of the plugin's socket")
	agent := flags.String("agent", "", "path of the agent's socket")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *path == "" || *agent == "" || flags.NArg() > 0 {
		return fmt.Errorf("%s needs --listen and --agent, and nothing else: meshd agent starts it by itself", StandInCommand)
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	_ = os.WriteFile("/proc/self/comm", []byte("meshd-docker"), 0) // the name that ps shows: a nicety
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listener, mine, err := takeSocket(*path)
	if err != nil {
		return err
	}
	defer func() {
		if owns(*path, mine) {
			_ = os.Remove(*path)
		}
	}()
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: &standIn{
		who: who{Agent: *agent, Version: version}, agent: dialing(*agent), fixed: fixedAnswers(), end: cancel,
	}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := ready(); err != nil {
		return err
	}
	look := time.NewTicker(socketOwn)
	defer look.Stop()
	for {
		select {
		case err := <-served:
			return fmt.Errorf("answering Docker: %w", err)
		case <-look.C:
			if owns(*path, mine) {
				continue
			}
		case <-ctx.Done():
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = server.Shutdown(last) // what still runs is cut off
		return nil
	}
}

// takeSocket puts a socket at path, in the place of what is there: nobody finds none in between.
func takeSocket(path string) (net.Listener, os.FileInfo, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("making the folder of Docker's plugins: %w", err)
	}
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("opening the plugin's socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the plugin's socket: %w", err), listener.Close(), os.Remove(fresh))
	}
	mine, err := os.Lstat(path)
	return listener, mine, err
}

func owns(path string, mine os.FileInfo) bool {
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, now)
}

// EnsureStandIn makes sure that a stand-in of this version serves the plugin's socket for the agent that listens
// on agent. It returns once it answers.
func EnsureStandIn(ctx context.Context, path, agent, version string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	want := who{Agent: agent, Version: version}
	have, err := askWho(ctx, path)
	switch {
	case err == nil && have == want:
		return nil
	case err == nil && have.Agent != agent && answers(ctx, have.Agent):
		return fmt.Errorf("another agent of meshd serves Docker on this host, by %s: end that one, or set docker.enabled to false for one of both", have.Agent)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding meshd's own program: %w", err)
	}
	cmd := exec.Command(self, StandInCommand, "--listen", path, "--agent", agent)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	// What systemd is told, it is told by the agent.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the process that answers Docker: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		log.Debug("the process that answered Docker has ended", "err", err)
		ended <- err
	}()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if have, err := askWho(ctx, path); err == nil && have == want {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the process that answers Docker ended at once: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("the process that answers Docker did not come up in %s", startTime)
		case <-ticker.C:
		}
	}
}

// answers says whether somebody listens on a Unix socket.
func answers(ctx context.Context, socket string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close() // only looked for
	return true
}

// EndStandIn ends the stand-in of the agent that listens on agent, if there is one.
func EndStandIn(ctx context.Context, path, agent string) {
	if have, err := askWho(ctx, path); err != nil || have.Agent != agent {
		return
	}
	resp, err := dialing(path).Post("http://standin"+pathEnd, contentType, nil)
	if err == nil {
		_ = resp.Body.Close() // it ends
	}
}

func askWho(ctx context.Context, path string) (who, error) {
	var w who
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://standin"+pathWho, nil)
	if err != nil {
		return w, err
	}
	client := dialing(path)
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return w, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	return w, json.NewDecoder(resp.Body).Decode(&w)
}
