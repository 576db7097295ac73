// Package control is the way in for what changes something: HTTP over a Unix
// socket in the data directory, which only the agent's user (and root) can open.
// Nothing of it is ever served over TCP.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the socket's name in the data directory.
const SocketName = "control.sock"

const (
	stopGrace   = 500 * time.Millisecond
	requestSize = 64 << 10 // of a request's body
)

// Commands are what an agent can be told. They may be called by many goroutines
// at once.
type Commands interface {
	// Replay sends stored events again. It blocks until that is done, ctx ends, or
	// it fails; progress is called now and then with what was done so far.
	Replay(ctx context.Context, r ReplayRequest, progress func(ReplayProgress)) (ReplayProgress, error)
}

// ReplayRequest asks for the events of a class in a range of time.
type ReplayRequest struct {
	Class  string    `json:"class"`
	From   time.Time `json:"from"` // inclusive
	To     time.Time `json:"to"`   // exclusive
	Uplink string    `json:"uplink"`
	Topic  string    `json:"topic,omitempty"` // a template; empty: the uplink's
}

// ReplayProgress is how far a replay is, and in its last line how it ended.
type ReplayProgress struct {
	ID      string    `json:"id"`              // the value of the header sluice_replay
	Sent    uint64    `json:"sent"`            // records that the cluster acknowledged
	Refused uint64    `json:"refused"`         // records that it will never take
	Missing uint64    `json:"missing"`         // numbers within the range that are not stored any more
	At      time.Time `json:"at,omitzero"`     // the time of the newest event that was sent: where to go on
	Done    bool      `json:"done,omitempty"`  // in the last line
	Error   string    `json:"error,omitempty"` // in the last line: why it ended early
}

// Server serves the socket.
type Server struct {
	ln   net.Listener
	http *http.Server
}

// Listen makes the socket in dir with mode 0600, in place of one that an earlier
// process left; the caller holds the directory's lock. The path may be longer
// than a socket's address.
func Listen(dir string, commands Commands, log *slog.Logger) (*Server, error) {
	tmp, err := os.MkdirTemp(dir, ".control-*") // mode 0700: nobody connects before the mode is set
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer os.RemoveAll(tmp)
	var ln *net.UnixListener
	err = inside(tmp, func(short string) error {
		var err error
		ln, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(short, SocketName)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // under its first name it is gone
	path := filepath.Join(dir, SocketName)
	made := filepath.Join(tmp, SocketName)
	if err = errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		ln.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &Server{ln: ln, http: &http.Server{
		Handler: routes(commands), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// inside calls f with a short path of dir: a socket's address holds 107 bytes.
func inside(dir string, f func(short string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if short := fmt.Sprintf("/proc/self/fd/%d", d.Fd()); len(dir) > 80 {
		return f(short)
	}
	return f(dir)
}

// Close gives the socket up. Run does it, too.
func (s *Server) Close() error { return s.ln.Close() }

// Run serves until ctx ends. The socket's file stays: it is replaced at the next
// start, and a client that finds nobody behind it says so.
func (s *Server) Run(ctx context.Context) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the control socket: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	err := s.http.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func routes(commands Commands) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/replay", func(w http.ResponseWriter, r *http.Request) { serveReplay(w, r, commands) })
	return mux
}

// serveReplay answers with a line of JSON for each step, the last one with Done.
func serveReplay(w http.ResponseWriter, r *http.Request, commands Commands) {
	var req ReplayRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestSize))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		http.Error(w, fmt.Sprintf("read the request: %v", err), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	say := func(p ReplayProgress) {
		_ = errors.Join(out.Encode(p), flush.Flush()) // the reader went away: ctx ends
	}
	p, err := commands.Replay(r.Context(), req, say)
	p.Done = true
	if err != nil {
		p.Error = err.Error()
	}
	say(p)
}

// Client returns an HTTP client for the agent that runs on dir. Its requests go
// to http://agent/… .
func Client(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var conn net.Conn
		err := inside(dir, func(short string) (err error) {
			var d net.Dialer
			conn, err = d.DialContext(ctx, "unix", filepath.Join(short, SocketName))
			return err
		})
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = fmt.Errorf("no agent has run on %s: %w", dir, err)
		case errors.Is(err, fs.ErrPermission):
			err = fmt.Errorf("only the agent's user may do this: %w (try sudo)", err)
		case err != nil:
			err = fmt.Errorf("no agent runs on %s: %w", dir, err)
		}
		return conn, err
	}}}
}
