//go:build images

package test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// remote tells the runner in a test image what to do, and serves bundles.
type remote struct {
	mu      sync.Mutex
	next    string
	server  *httptest.Server
	stopped atomic.Int64 // bytes after which a bundle's connections break; 0: never
	served  atomic.Int64 // bytes of bundles
}

func newRemote(t testing.TB) *remote {
	t.Helper()
	r := &remote{}
	mux := http.NewServeMux()
	mux.HandleFunc("/next", func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, _ = io.WriteString(w, r.next)
		r.next = ""
	})
	mux.HandleFunc("/bundles/", func(w http.ResponseWriter, req *http.Request) {
		f, err := os.Open(filepath.Join(made(t), "bundles", filepath.Base(req.URL.Path)))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		defer f.Close()
		http.ServeContent(&metered{w, r}, req, "", time.Time{}, f)
	})
	r.server = httptest.NewServer(mux)
	t.Cleanup(r.server.Close)
	return r
}

// metered breaks the connection when the limit is reached.
type metered struct {
	http.ResponseWriter
	r *remote
}

func (m *metered) Write(b []byte) (int, error) {
	n := m.r.served.Add(int64(len(b)))
	if limit := m.r.stopped.Load(); limit > 0 && n > limit {
		panic(http.ErrAbortHandler)
	}
	return m.ResponseWriter.Write(b)
}

func (r *remote) port() string { return strconv.Itoa(r.server.Listener.Addr().(*net.TCPAddr).Port) }

// url is a bundle's in the guest.
func (r *remote) url(bundle string) string {
	return fmt.Sprintf("http://%s:%s/bundles/%s.raucb", hostInGuest, r.port(), bundle)
}

// tell hands a shell script to the runner; it does not wait.
func (r *remote) tell(script string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = script
}

// do waits until the runner has done the script, and returns what it said and
// its exit status.
func (r *remote) do(m *machine, script string) (said string, status int) {
	m.t.Helper()
	r.tell(script)
	m.wait(`test: begin`)
	from := m.seen
	groups := m.wait(`test: end (\d+)\s`)
	status, _ = strconv.Atoi(groups[1])
	return m.console()[from:m.seen], status
}

// made is the folder of variants.sh.
func made(t testing.TB) string { return filepath.Join(dist(t), ".image-test") }
