package web

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// fixed is a View that never changes.
type fixed Status

func (f fixed) Status() Status                 { return Status(f) }
func (f fixed) Stream(Filter) (*Stream, error) { return nil, ErrBusy }
func (f fixed) Metrics(w io.Writer)            { _, _ = io.WriteString(w, "sluice_config_version 0\n") }

// get serves view and fetches a page.
func get(t *testing.T, view View, method, path string) (int, string, http.Header) {
	t.Helper()
	s, err := Listen("127.0.0.1:0", view, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func TestPages(t *testing.T) {
	well := Status{Agent: "gw-1", Healthy: true, Ready: true, Reasons: []string{},
		Sources: map[string]Source{"line": {Up: true, State: "connected", Taken: map[string]uint64{"process": 5}}},
		Uplinks: map[string]Uplink{"central": {State: "connecting", LastError: "<script>alert(1)</script>"}}}
	ill := Status{Agent: "gw-1", Unhealthy: []string{"class a: full", "class b: full"}, Unready: []string{"source line: connection refused"},
		Reasons: []string{"source line: connection refused", "uplink central: away"}}
	for name, c := range map[string]struct {
		view   Status
		method string
		path   string
		code   int
		holds  string
		lacks  string
	}{
		"healthy":            {well, "GET", "/healthz", 200, "ok\n", ""},
		"not healthy":        {ill, "GET", "/healthz", 503, "class a: full\nclass b: full\n", "source line"},
		"ready":              {well, "GET", "/readyz", 200, "ok\n", ""},
		"not ready":          {ill, "GET", "/readyz", 503, "source line", "uplink"},
		"status as JSON":     {well, "GET", "/api/v1/status", 200, `"agent": "gw-1"`, ""},
		"metrics":            {well, "GET", "/metrics", 200, "sluice_config_version 0", ""},
		"the page":           {well, "GET", "/", 200, "All well.", ""},
		"the page when ill":  {ill, "GET", "/", 200, "uplink central: away", "All well."},
		"errors are escaped": {well, "GET", "/", 200, "&lt;script&gt;", "<script>"},
		"nothing else":       {well, "GET", "/etc/passwd", 404, "", ""},
		"nothing is changed": {well, "POST", "/", 405, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, body, head := get(t, fixed(c.view), c.method, c.path)
			if code != c.code || !strings.Contains(body, c.holds) || c.lacks != "" && strings.Contains(body, c.lacks) {
				t.Errorf("%d %s", code, body)
			}
			if code == 200 && (head.Get("X-Content-Type-Options") != "nosniff" || head.Get("Cache-Control") != "no-store") {
				t.Errorf("headers %v", head)
			}
		})
	}
}

func TestAnAddressInUseSaysWhatToDo(t *testing.T) {
	s, err := Listen("127.0.0.1:0", fixed{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err = Listen(s.Addr(), fixed{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "set another address") {
		t.Fatalf("error %v", err)
	}
}
