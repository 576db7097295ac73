// Package web is the HTTP side of the agent: status page, health, metrics. It
// only shows; nothing can be changed over it.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// View is where the pages get what they show. All may be called by many
// goroutines at once and must not block.
type View interface {
	Status() Status
	Metrics(w io.Writer)

	// Stream shows events as they pass. It returns ErrBusy, or an error that
	// lists what there is when the filter names what there isn't.
	Stream(f Filter) (*Stream, error)
}

// Server serves one agent.
type Server struct {
	ln   net.Listener
	http *http.Server
	stop chan struct{} // closed when Run ends: streams have no end of their own
}

// Listen takes the address, host:port. It returns an error that says what to do
// when the address is in use.
func Listen(addr string, view View, log *slog.Logger) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("observe.http: %w (stop what uses it, or set another address, or \"\" to do without)", err)
	}
	stop := make(chan struct{})
	s := &Server{ln: ln, stop: stop, http: &http.Server{
		Handler:           routes(view, stop),
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	return s, nil
}

// Addr is the address that is listened on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Close gives the address back. Run closes it, too.
func (s *Server) Close() error { return s.ln.Close() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve HTTP: %w", errors.Join(err, s.http.Close()))
	case <-ctx.Done():
	}
	close(s.stop)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
	defer cancel()
	err := s.http.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) { // someone reads slowly
		err = s.http.Close()
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func routes(view View, stop <-chan struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		head(w, "text/html; charset=utf-8")
		writePage(w, view.Status())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		st := view.Status()
		verdict(w, st.Healthy, st.Unhealthy)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		st := view.Status()
		verdict(w, st.Ready, st.Unready)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		head(w, "text/plain; version=0.0.4; charset=utf-8")
		view.Metrics(w)
	})
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		head(w, "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(view.Status()) // the reader went away: nobody to tell
	})
	mux.HandleFunc("GET /api/v1/stream", serveStream(view, stop))
	return mux
}

func head(w http.ResponseWriter, content string) {
	h := w.Header()
	h.Set("Content-Type", content)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
}

// verdict answers 200 "ok", or 503 with the reasons, one a line.
func verdict(w http.ResponseWriter, ok bool, reasons []string) {
	head(w, "text/plain; charset=utf-8")
	if ok {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, strings.Join(reasons, "\n")+"\n")
}
