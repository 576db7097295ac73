package agent

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/agent/config"
)

// loginOf is the login of the uplink "all" with the sasl of the text.
func loginOf(t *testing.T, sasl string) (token func() (string, error)) {
	t.Helper()
	text := strings.Replace(wiredConfig, "kafka: {", "kafka: { sasl: { mechanism: oauthbearer, "+sasl+" },", 1)
	cfg, err := config.Parse("c.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := uplinkConfig(cfg, cfg.Uplink("all"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if c.SASL.Mechanism != "oauthbearer" || c.SASL.Extensions["pool"] != "p1" {
		t.Errorf("got %+v", c.SASL)
	}
	return func() (string, error) { return c.SASL.Token(t.Context()) }
}

func TestATokenFileIsReadAtEachLogin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	token := loginOf(t, `token: "${file:`+file+`}", extensions: { pool: p1 }`)
	for _, want := range []string{"first", "second.part"} {
		write(want + "\n")
		if got, err := token(); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	write("-----BEGIN KEY-----\nsecret words")
	if _, err := token(); err == nil || !strings.Contains(err.Error(), "sasl.token: it is no token") || strings.Contains(err.Error(), "secret words") {
		t.Errorf("rubbish: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := token(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("no file: %v", err)
	}
}

func TestATokenServerIsAskedAsTheConfigSays(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "gw" || secret != "s" || r.PostFormValue("scope") != "kafka" {
			t.Errorf("%s %s asks for %v", id, secret, r.PostForm)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "abc", "expires_in": 60})
	}))
	defer srv.Close()
	token := loginOf(t, `token_url: "`+srv.URL+`", client_id: gw, client_secret: s, scope: kafka, extensions: { pool: p1 }, tls: { insecure_skip_verify: true }`)
	if got, err := token(); got != "abc" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
