package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote/tree"
)

// rig is an updater with an installer that copies the bundle.
type rig struct {
	t         *testing.T
	dir       string
	installed string // where the installer puts it
	phases    chan Phase
	cfg       Config

	updater *Updater
	end     func()
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, dir: filepath.Join(dir, "update"), installed: filepath.Join(dir, "installed"), phases: make(chan Phase, 1000)}
	r.cfg = Config{Dir: r.dir, Install: []string{"cp", "{file}", r.installed}, Version: "1.0.0", Report: func(p Phase) { r.phases <- p }}
	if change != nil {
		change(&r.cfg)
	}
	r.start()
	t.Cleanup(func() { r.end() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	u, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	r.updater, r.end = u, func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		r.end = func() {}
	}
}

func (r *rig) update(args string) (any, error) {
	r.t.Helper()
	root, err := tree.Parse([]byte(args))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.updater.Update(r.t.Context(), root)
}

func (r *rig) accepted(args string) {
	r.t.Helper()
	got, err := r.update(args)
	if a, ok := got.(Accepted); err != nil || !ok || !a.Accepted {
		r.t.Fatalf("%+v, %v: not accepted", got, err)
	}
}

// until waits for one of the phases and returns it.
func (r *rig) until(phases ...string) Phase {
	r.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case p := <-r.phases:
			for _, want := range phases {
				if p.Phase == want {
					return p
				}
			}
		case <-limit:
			r.t.Fatalf("no phase %v", phases)
		}
	}
}

func (r *rig) holds(bundle []byte) {
	r.t.Helper()
	if got, err := os.ReadFile(r.installed); err != nil || !bytes.Equal(got, bundle) {
		r.t.Fatalf("%d bytes were installed, want %d (%v)", len(got), len(bundle), err)
	}
}

func aBundle(size int) []byte {
	b := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func argsOf(version, url string, bundle []byte) string {
	return fmt.Sprintf("{ version: %q, url: %q, size: %d, sha256: %s }", version, url, len(bundle), digest(bundle))
}

// flaky serves a bundle and breaks the first connections after some bytes.
type flaky struct {
	*httptest.Server
	asked  atomic.Int64
	sent   atomic.Int64
	breaks atomic.Int64 // how many connections still break
	after  int
}

func newFlaky(t *testing.T, bundle []byte, breaks, after int) *flaky {
	f := &flaky{after: after}
	f.breaks.Store(int64(breaks))
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		f.asked.Add(1)
		limit := len(bundle)
		if f.breaks.Add(-1) >= 0 {
			limit = f.after
		}
		http.ServeContent(&limited{w, f, limit}, req, "", time.Time{}, bytes.NewReader(bundle))
	}))
	t.Cleanup(f.Close)
	return f
}

type limited struct {
	http.ResponseWriter
	f    *flaky
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.left {
		n, _ := l.ResponseWriter.Write(b[:l.left])
		l.f.sent.Add(int64(n))
		_ = http.NewResponseController(l.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	l.left -= len(b)
	l.f.sent.Add(int64(len(b)))
	return l.ResponseWriter.Write(b)
}

func TestFetchGoesOnWhereTheConnectionBroke(t *testing.T) {
	t.Parallel()
	bundle := aBundle(3 << 20)
	server := newFlaky(t, bundle, 1, 1<<20)
	r := newRig(t, nil)
	r.accepted(argsOf("1.1.0", server.URL, bundle))
	if p := r.until(Waiting); p.Bytes == 0 || p.Detail == "" {
		t.Errorf("while it waits: %+v", p)
	}
	if p := r.until(Installed, Failed); p.Phase != Installed {
		t.Fatalf("%+v", p)
	}
	r.holds(bundle)
	if sent := server.sent.Load(); sent > int64(len(bundle))+128<<10 {
		t.Errorf("%d bytes were sent for a bundle of %d: it did not go on where it was", sent, len(bundle))
	}
}

func TestFetchGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	bundle := aBundle(9 << 20)
	server := newFlaky(t, bundle, 1, 8<<20)
	r := newRig(t, nil)
	r.accepted(argsOf("1.1.0", server.URL, bundle))
	r.until(Waiting)
	r.end()
	r.start()
	if p := r.until(Installed, Failed); p.Phase != Installed {
		t.Fatalf("%+v", p)
	}
	r.holds(bundle)
	if sent := server.sent.Load(); sent > int64(len(bundle))+128<<10 {
		t.Errorf("%d bytes were sent for a bundle of %d", sent, len(bundle))
	}
}

func TestServerWithoutRangesSendsAllAgain(t *testing.T) {
	t.Parallel()
	bundle := aBundle(2 << 20)
	first := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(bundle)))
		n := len(bundle)
		if first {
			n, first = n/2, false
		}
		_, _ = w.Write(bundle[:n])
	}))
	defer server.Close()
	r := newRig(t, nil)
	r.accepted(argsOf("1.1.0", server.URL, bundle))
	if p := r.until(Installed, Failed); p.Phase != Installed {
		t.Fatalf("%+v", p)
	}
	r.holds(bundle)
}

func TestBundlesThatAreNotInstalled(t *testing.T) {
	t.Parallel()
	bundle := aBundle(200 << 10)
	server := newFlaky(t, bundle, 0, 0)
	longer := newFlaky(t, append(aBundle(200<<10), 'x'), 0, 0)
	for name, tc := range map[string]struct{ args, want string }{
		"another content":      {strings.Replace(argsOf("1.1.0", server.URL, bundle), digest(bundle), digest(nil), 1), "SHA-256"},
		"longer than it says":  {argsOf("1.1.0", longer.URL, bundle), "bytes"},
		"shorter than it says": {strings.Replace(argsOf("1.1.0", server.URL, bundle), "size: 204800", "size: 204801", 1), "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.accepted(tc.args)
			if p := r.until(Installed, Failed); p.Phase != Failed || !strings.Contains(p.Detail, tc.want) {
				t.Fatalf("%+v, want a failure with %q", p, tc.want)
			}
			if _, err := os.Stat(r.installed); err == nil {
				t.Error("it was installed")
			}
			if left, _ := os.ReadDir(r.dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestVersionsNeverGoBack(t *testing.T) {
	t.Parallel()
	bundle := aBundle(1000)
	r := newRig(t, nil)
	for _, older := range []string{"0.9.9", "1.0.0-rc1"} {
		if _, err := r.update(argsOf(older, "http://127.0.0.1:9/", bundle)); !errors.Is(err, ErrOlder) {
			t.Errorf("%s over 1.0.0: %v", older, err)
		}
	}
	got, err := r.update(argsOf("1.0.0", "http://127.0.0.1:9/", bundle))
	if a, ok := got.(Accepted); err != nil || !ok || a.Accepted {
		t.Errorf("the running version: %+v, %v", got, err)
	}
}

func TestInstallerThatFails(t *testing.T) {
	t.Parallel()
	bundle := aBundle(1000)
	server := newFlaky(t, bundle, 0, 0)
	r := newRig(t, func(c *Config) { c.Install = []string{"sh", "-c", "echo signed by somebody else >&2; exit 1"} })
	r.accepted(argsOf("1.1.0", server.URL, bundle))
	if p := r.until(Installed, Failed); p.Phase != Failed || !strings.Contains(p.Detail, "signed by somebody else") {
		t.Fatalf("%+v", p)
	}
	r.accepted(argsOf("1.1.0", server.URL, bundle)) // it may be tried again
}

// After the restart either the new version runs, and all is well, or the old one
// does, and says so once.
func TestWhatTheNextStartFinds(t *testing.T) {
	t.Parallel()
	bundle := aBundle(1000)
	server := newFlaky(t, bundle, 0, 0)
	for _, runs := range []string{"1.1.0", "1.0.0"} {
		t.Run(runs, func(t *testing.T) {
			r := newRig(t, nil)
			r.accepted(argsOf("1.1.0", server.URL, bundle))
			r.until(Installed)
			r.end()
			r.cfg.Version = runs
			asked := server.asked.Load()
			r.start()
			if runs == "1.0.0" {
				if p := r.until(Failed); !strings.Contains(p.Detail, "rolled back") {
					t.Errorf("%+v", p)
				}
			}
			waitFor(t, "the job is gone", func() bool { left, _ := os.ReadDir(r.dir); return len(left) == 0 })
			if server.asked.Load() != asked {
				t.Error("it was fetched again")
			}
		})
	}
}

func TestMeteredLinkIsLeftAlone(t *testing.T) {
	t.Parallel()
	bundle := aBundle(5000)
	server := newFlaky(t, bundle, 0, 0)
	var free atomic.Bool
	r := newRig(t, func(c *Config) {
		c.MayFetch = func() error {
			if !free.Load() {
				return errors.New("the link is metered")
			}
			return nil
		}
	})
	r.accepted(argsOf("1.1.0", server.URL, bundle))
	if p := r.until(Waiting); !strings.Contains(p.Detail, "metered") {
		t.Errorf("%+v", p)
	}
	if server.asked.Load() != 0 {
		t.Error("the link was used")
	}
	free.Store(true)
	r.until(Installed)
	r.holds(bundle)
}

func TestRateIsKept(t *testing.T) {
	t.Parallel()
	bundle := aBundle(256 << 10)
	server := newFlaky(t, bundle, 0, 0)
	r := newRig(t, func(c *Config) { c.MaxRate = 512 << 10 })
	began := time.Now()
	r.accepted(argsOf("1.1.0", server.URL, bundle))
	r.until(Installed)
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("256 KiB at 512 KiB/s took %s", took)
	}
}

// In chunks over a topic, with other records in between, a part that was put
// twice, and a restart in the middle.
func TestFetchFromATopic(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "updates"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	bundle, other := aBundle(9<<20+17), aBundle(700 << 10)[1:]
	if _, err := Put(t.Context(), client, "updates", "9.9.9", bytes.NewReader(other)); err != nil {
		t.Fatal(err)
	}
	b, err := Put(t.Context(), client, "updates", "1.1.0", bytes.NewReader(bundle))
	if err != nil {
		t.Fatal(err)
	}
	if b.Offset != 2 {
		t.Errorf("the bundle begins at offset %d, want 2", b.Offset)
	}
	var fetched atomic.Int64 // bytes that the cluster has sent
	r := newRig(t, func(c *Config) {
		c.MaxRate = 6 << 20
		c.Kafka = func() ([]kgo.Opt, error) {
			return []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.WithHooks(&readHook{&fetched})}, nil
		}
	})
	r.accepted(fmt.Sprintf("{ version: 1.1.0, topic: updates, offset: %d, size: %d, sha256: %s }", b.Offset, b.Size, b.SHA256))
	waitFor(t, "a part is stored", func() bool {
		j := r.updater.job()
		r.updater.mu.Lock()
		defer r.updater.mu.Unlock()
		return j != nil && j.Fetched > 0
	})
	r.end()
	r.start()
	if p := r.until(Installed, Failed); p.Phase != Installed {
		t.Fatalf("%+v", p)
	}
	r.holds(bundle)
	if got := fetched.Load(); got > int64(len(bundle))+6<<20 {
		t.Errorf("%d bytes were read for a bundle of %d: it did not go on where it was", got, len(bundle))
	}
}

// readHook counts what a client reads.
type readHook struct{ n *atomic.Int64 }

func (h *readHook) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, bytesRead int, _, _ time.Duration, _ error) {
	h.n.Add(int64(bytesRead))
}

func TestArgs(t *testing.T) {
	t.Parallel()
	sum := digest(nil)
	for name, tc := range map[string]struct{ args, want string }{
		"an address":            {"{ version: 1.2.3, url: 'https://example.com/b', size: 10, sha256: " + sum + " }", ""},
		"a topic":               {"{ version: 1.2.3-rc1, topic: updates, partition: 0, offset: 5, size: 10, sha256: " + sum + " }", ""},
		"neither":               {"{ version: 1.2.3, size: 10, sha256: " + sum + " }", "url or topic"},
		"both":                  {"{ version: 1.2.3, url: 'http://h/b', topic: t, size: 10, sha256: " + sum + " }", "url or topic"},
		"a file":                {"{ version: 1.2.3, url: 'file:///etc/passwd', size: 10, sha256: " + sum + " }", "http"},
		"no version":            {"{ url: 'http://h/b', size: 10, sha256: " + sum + " }", "version"},
		"too many numbers":      {"{ version: 1.2.3.4, url: 'http://h/b', size: 10, sha256: " + sum + " }", "version"},
		"no size":               {"{ version: 1.2.3, url: 'http://h/b', sha256: " + sum + " }", "size"},
		"a negative size":       {"{ version: 1.2.3, url: 'http://h/b', size: -1, sha256: " + sum + " }", "size"},
		"a short digest":        {"{ version: 1.2.3, url: 'http://h/b', size: 10, sha256: abcd }", "sha256"},
		"a key that is unknown": {"{ version: 1.2.3, url: 'http://h/b', size: 10, sha256: " + sum + ", when: now }", "when"},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := tree.Parse([]byte(tc.args))
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseArgs(root)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
		})
	}
	if _, err := ParseArgs(nil); err == nil {
		t.Error("no arguments pass")
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	inOrder := []string{"0.1", "0.1.1-alpha", "0.1.1-rc1", "0.1.1", "0.2.0+build5", "0.10.0", "1"}
	for i, a := range inOrder {
		for j, b := range inOrder {
			v, err := parseVersion(a)
			w, err2 := parseVersion(b)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := v.compare(w); got != want {
				t.Errorf("%s to %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

// A job file that is damaged is given up, not believed.
func TestDamagedJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.end()
	for _, text := range []string{"{", `{"bundle":{"version":"1.1.0","size":5,"sha256":"zz","url":"http://h/"}}`} {
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.dir, jobFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
		waitFor(t, "the job is gone", func() bool { _, err := os.Stat(filepath.Join(r.dir, jobFile)); return err != nil })
		r.end()
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
