//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// login is an uplink of TestUplinkLogins.
type login struct {
	name  string
	user  string // that is granted what it needs; empty: nobody
	kafka string // the rest of its section, after brokers, topic and tls
	says  string // in its last error; empty: everything arrives
}

// TestUplinkLogins sends to one broker, with ACLs, in every way to log in at once,
// while certificates and tokens change and the broker asks for each login again
// after 8 s.
func TestUplinkLogins(t *testing.T) {
	const total, perSecond = 3600, 200
	dir := t.TempDir()
	tokens := startTokenServer(t, 10*time.Second)
	k := startSecureKafka(t, dir, tokens.jwks())
	k.user(t, "gw-256", kadm.ScramSha256, "right")
	k.user(t, "gw-512", kadm.ScramSha512, "right")
	writeFile(t, filepath.Join(dir, "token"), tokens.token(t, "gw-file", time.Hour))
	k.ca.issue(t, dir, "gw-old")
	k.ca.issue(t, dir, "gw-new")
	use := func(name string) { // as whoever renews certificates: each file is exchanged at once
		for _, ext := range []string{".key", ".pem"} {
			pointTo(t, filepath.Join(dir, name+ext), filepath.Join(dir, "gw"+ext))
		}
	}
	use("gw-old")
	logins := []login{
		{"scram-256", "gw-256", "sasl: { mechanism: scram-sha-256, username: gw-256, password: right }", ""},
		{"scram-512", "gw-512", "delivery: exactly_once, sasl: { mechanism: scram-sha-512, username: gw-512, password: right }", ""},
		{"plain", "gw-plain", "sasl: { mechanism: plain, username: gw-plain, password: right }", ""},
		{"oauth", "gw-oauth", fmt.Sprintf("sasl: { mechanism: oauthbearer, token_url: %q, client_id: gw, client_secret: right }", tokens.URL+"/token"), ""},
		{"oauth-file", "gw-file", fmt.Sprintf(`sasl: { mechanism: oauthbearer, token: "${file:%s/token}" }`, dir), ""},
		{"mutual", "CN=gw-old", "", ""},
		{"wrong-password", "", "sasl: { mechanism: scram-sha-512, username: gw-512, password: wrong }", "the broker refused the login: check sasl.username/password"},
		{"wrong-client", "", fmt.Sprintf("sasl: { mechanism: oauthbearer, token_url: %q, client_id: gw, client_secret: wrong }", tokens.URL+"/token"), "refused this client: check sasl.client_id and sasl.client_secret"},
		{"no-permission", "", "sasl: { mechanism: plain, username: gw-plain, password: right }", `no permission to write topic "login.no-permission"`},
	}
	for _, l := range logins {
		k.createTopic(t, "login."+l.name)
		if l.user != "" {
			k.grant(t, l.user, "login."+l.name, strings.Contains(l.kafka, "exactly_once"))
		}
	}
	k.grant(t, "CN=gw-new", "login.mutual", false)
	broker := startMosquitto(t, dir)
	a := newAgent(t, dir, func(dataDir, http string) string { return k.loginConfig(dataDir, http, broker.url(), logins) })
	a.startReady(t)
	pub := startPublisher(t, broker, total, perSecond)
	waitFor(t, "records over the first certificate", func() bool { return k.count(t, "login.mutual") > perSecond }, a.proc)
	k.dropACLs(t, "CN=gw-old")
	use("gw-new")
	k.link.set(t, refuse)
	k.link.set(t, pass)
	pub.waitAcked(t, total)
	k.checkLogins(t, a, logins, total)
	for _, args := range [][]string{{"-c", a.config, "--uplink", "oauth"},
		{"--brokers", k.addr, "--topic", "login.oauth-file", "--tls-ca", filepath.Join(dir, "ca.pem"), "--sasl-mechanism", "oauthbearer", "--token-file", filepath.Join(dir, "token")}} {
		if v := runAudit(t, 0, args...); v.Totals.Delivered < total || v.Totals.Unexplained > 0 {
			t.Errorf("audit %v: %+v", args, v.Totals)
		}
	}
	if n := tokens.asked.Load(); n < 2 {
		t.Errorf("the token server was asked %d times", n)
	}
	fmt.Printf("E2E logins uplinks=%d tokens=%d\n", len(logins), tokens.asked.Load())
	for _, secret := range []string{"right", "wrong"} {
		if strings.Contains(strings.ReplaceAll(a.proc.log(), "wrong-", ""), secret) {
			t.Errorf("a password is in the log")
		}
	}
}

// pointTo makes a name of the file another, atomically.
func pointTo(t *testing.T, file, name string) {
	t.Helper()
	if err := os.Symlink(file, name+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func (k *secureKafka) loginConfig(dataDir, http, mqttURL string, logins []login) string {
	var uplinks strings.Builder
	for _, l := range logins {
		addr, tls := k.addr, fmt.Sprintf("ca: %q", filepath.Join(k.dir, "ca.pem"))
		if l.name == "mutual" {
			addr = k.link.addr
			tls += fmt.Sprintf(", cert: %q, key: %q", filepath.Join(k.dir, "gw.pem"), filepath.Join(k.dir, "gw.key"))
		}
		fmt.Fprintf(&uplinks, "  %s: { kafka: { brokers: [ %q ], topic: \"login.%s\", tls: { %s }, %s } }\n", l.name, addr, l.name, tls, l.kafka)
	}
	text := mqttConfig(dataDir, http, mqttURL, "x:1", "x")
	before, _, _ := strings.Cut(text, "  central:")
	return before + strings.ReplaceAll(uplinks.String(), ",  }", " }") + fmt.Sprintf("observe: { http: %q }\n", http)
}

func (k *secureKafka) dropACLs(t *testing.T, user string) {
	t.Helper()
	if _, err := k.admin.DeleteACLs(t.Context(), kadm.NewACLs().AnyResource().Allow("User:"+user).AllowHosts().Operations(kadm.OpAny).ResourcePatternType(kadm.ACLPatternAny)); err != nil {
		t.Fatal(err)
	}
}

// checkLogins asks that everything came over the good logins, and that the others
// say what is wrong.
func (k *secureKafka) checkLogins(t *testing.T, a *agent, logins []login, total int) {
	t.Helper()
	for _, l := range logins {
		topic := "login." + l.name
		if l.says != "" {
			waitFor(t, l.name+" to say what is wrong", func() bool {
				u := a.uplink(t, l.name)
				return !u.Up && strings.Contains(u.LastError, l.says)
			}, a.proc)
			if n := k.count(t, topic); n > 0 {
				t.Errorf("%s: %d records", l.name, n)
			}
			continue
		}
		seen := newLedger(agentID, mqttName, className, total)
		exact := strings.Contains(l.kafka, "exactly_once")
		if exact {
			c := newCommittedConsumer(t, &k.kafka, topic, seen.add)
			if c.until(t, patience, func() bool { return seen.missing() == 0 }) {
				c.rest(t)
			}
		} else {
			c := newConsumer(t, &k.kafka, topic)
			if c.until(t, patience, seen.add, func() bool { return seen.missing() == 0 }) {
				c.rest(t, seen.add)
			}
		}
		if r := seen.report(); r.missing > 0 || r.duplicates > 0 || len(r.faults) > 0 {
			t.Errorf("%s: %s %v; %+v", l.name, r, r.faults, a.uplink(t, l.name))
		}
	}
}

// uplinkStatus is what /api/v1/status says of an uplink, as far as it is looked at.
type uplinkStatus struct {
	Up        bool
	State     string
	LastError string `json:"last_error"`
}

func (a *agent) uplink(t *testing.T, name string) uplinkStatus {
	t.Helper()
	resp, err := http.Get("http://" + a.http + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var st struct{ Uplinks map[string]uplinkStatus }
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		t.Fatal(err)
	}
	return st.Uplinks[name]
}
