package oauth

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const secret = "p/w:d &ü"

// server is a token endpoint that gives out tokens t1, t2, ….
type server struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[string] // in place of a token
	life   atomic.Int64           // seconds; 0: not told
}

func newServer(t *testing.T, start func(*httptest.Server)) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.asked.Add(1)
		if text := s.answer.Load(); text != nil {
			status, body, _ := strings.Cut(*text, " ")
			code := 0
			_, _ = fmt.Sscan(status, &code)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
			return
		}
		id, pw, _ := r.BasicAuth()
		id, _ = url.QueryUnescape(id)
		if pw, _ = url.QueryUnescape(pw); id != "gw" || pw != secret || r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("scope") != "kafka x" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"no such client, or ` + pw + `"}`))
			return
		}
		_, _ = fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":%d}`, n, s.life.Load())
	}))
	start(s.Server)
	t.Cleanup(s.Close)
	s.life.Store(3600)
	return s
}

func source(t *testing.T, cfg Config) *Source {
	t.Helper()
	if cfg.Secret == nil {
		cfg.Secret = func() (string, error) { return secret, nil }
	}
	cfg.ClientID, cfg.Scope = "gw", "kafka x"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestATokenIsKept(t *testing.T) {
	srv := newServer(t, (*httptest.Server).Start)
	s := source(t, Config{URL: srv.URL + "/token"})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := s.Token(t.Context()); got != "t1" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := srv.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestATokenWithoutALifeIsForOneLogin(t *testing.T) {
	srv := newServer(t, (*httptest.Server).Start)
	srv.life.Store(0)
	s := source(t, Config{URL: srv.URL})
	for _, want := range []string{"t1", "t2"} {
		if got, err := s.Token(t.Context()); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

// TestATokenIsReplacedInTime moves the times that the source has noted, not the clock.
func TestATokenIsReplacedInTime(t *testing.T) {
	srv := newServer(t, (*httptest.Server).Start)
	s := source(t, Config{URL: srv.URL})
	ask := func(want string, ok bool) {
		t.Helper()
		if got, err := s.Token(t.Context()); got != want || (err == nil) != ok {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	age := func(part float64) { // moves the token's life back
		d := time.Duration(part * float64(time.Hour))
		s.replace, s.expires, s.again = s.replace.Add(-d), s.expires.Add(-d), time.Time{}
	}
	ask("t1", true)
	age(0.79)
	ask("t1", true)
	age(0.02)
	ask("t2", true)
	broken := "503 busy"
	srv.answer.Store(&broken)
	age(0.9)
	ask("t2", true) // it is still valid
	age(0.11)
	ask("", false)
	srv.answer.Store(nil)
	s.again = time.Time{}
	ask("t5", true)
}

func TestAServerThatFailsIsAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := source(t, Config{URL: "http://127.0.0.1:1", Secret: func() (string, error) { asked++; return "", fmt.Errorf("no such file") }})
		for range 600 { // a minute
			if _, err := s.Token(t.Context()); err == nil || err.Error() != "read sasl.client_secret: no such file" {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if asked < 10 || asked > 30 {
			t.Errorf("asked %d times in a minute", asked)
		}
	})
}

func TestErrorsSayWhatToDoAndNoSecret(t *testing.T) {
	plain, secure := newServer(t, (*httptest.Server).Start), newServer(t, (*httptest.Server).StartTLS)
	gone := newServer(t, (*httptest.Server).Start)
	gone.Close()
	// One letter too many for a label (RFC 1035 §2.3.4): no name server is asked, which may be slow or not there.
	unknown := "no-such-host." + strings.Repeat("x", 64)
	none := func() (string, error) { return "wrong-" + secret, nil }
	for _, tt := range []struct {
		name, url, answer string
		secret            func() (string, error)
		want              string
	}{
		{"a wrong secret", plain.URL + "/t?key=hidden", "", none, "check sasl.client_id and sasl.client_secret (401 Unauthorized invalid_client no such client, or ***)"},
		{"a wrong scope", plain.URL, `400 {"error":"invalid_scope"}`, nil, "check sasl.scope"},
		{"another refusal", plain.URL, `500 {"error":"server_error","error_description":"a\u0001b"}`, nil, "refused the request (500 Internal Server Error server_error a b)"},
		{"a page", plain.URL, "200 <html>", nil, "is sasl.token_url its token endpoint?"},
		{"a redirect", plain.URL, "302 moved", nil, "answers 302 Found"},
		{"another type", plain.URL, `200 {"access_token":"x","token_type":"mac"}`, nil, `of type "mac"`},
		{"no token", plain.URL, `200 {"access_token":"two words"}`, nil, "it is no token"},
		{"nobody there", gone.URL, "", nil, "connection refused: is it running there?"},
		{"no such name", "http://" + unknown + "/t", "", nil, `"` + unknown + `" cannot be resolved`},
		{"an unknown authority", secure.URL, "", nil, "was not accepted: check sasl.tls"},
		{"no secret", plain.URL, "", func() (string, error) { return "", fmt.Errorf("${file:x}: gone") }, "read sasl.client_secret: ${file:x}: gone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plain.answer.Store(nil)
			if tt.answer != "" {
				plain.answer.Store(&tt.answer)
			}
			var log bytes.Buffer
			s := source(t, Config{URL: tt.url, Secret: tt.secret, Log: slog.New(slog.NewTextHandler(&log, nil))})
			_, err := s.Token(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v; want %q", err, tt.want)
			}
			for _, never := range []string{secret, "hidden", url.QueryEscape(secret)} {
				if strings.Contains(err.Error()+log.String(), never) {
					t.Errorf("%q is told: %v, %s", never, err, log.String())
				}
			}
		})
	}
}

func TestTLSOfTheTokenServer(t *testing.T) {
	srv := newServer(t, (*httptest.Server).StartTLS)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	s := source(t, Config{URL: srv.URL, TLS: func() (*tls.Config, error) { return &tls.Config{RootCAs: pool}, nil }})
	if got, err := s.Token(t.Context()); got != "t1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTheLastAskerDoesNotWaitForEver(t *testing.T) {
	s := source(t, Config{URL: "http://127.0.0.1:1"})
	s.lock <- struct{}{} // another one asks
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Token(ctx); err == nil {
		t.Error("no error")
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	for name, u := range map[string]string{"no scheme": "host/token", "another": "ftp://host/t", "a password": "https://u:p@host/t", "nothing": ""} {
		if _, err := New(Config{URL: u}); err == nil || !strings.Contains(err.Error(), "token_url") || !strings.Contains(err.Error(), "client_id") || !strings.Contains(err.Error(), "client_secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
