//go:build e2e

package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// secureKafka is a broker whose clients log in: over SASL_SSL with SCRAM, PLAIN or a
// token, or, through link, by TLS with a certificate of their own. It has ACLs; the test's
// own listener is for a superuser.
type secureKafka struct {
	kafka
	addr string // of SASL_SSL
	ca   *authority
	dir  string // of its files and those of its clients
}

func startSecureKafka(t testing.TB, dir, jwks string) *secureKafka {
	t.Helper()
	internal, secure, mutual, controller := freePort(t), freePort(t), freePort(t), freePort(t)
	k := &secureKafka{addr: loopback(secure), ca: newAuthority(t), dir: dir}
	k.internal, k.link = loopback(internal), startProxy(t, loopback(mutual))
	writeFile(t, filepath.Join(dir, "ca.pem"), k.ca.pem)
	k.ca.issue(t, dir, "broker")
	store := ""
	for _, name := range []string{"broker.key", "broker.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		store += string(text)
	}
	writeFile(t, filepath.Join(dir, "store.pem"), store)
	jwksURL := "file://" + filepath.Join(dir, "jwks.json")
	writeFile(t, filepath.Join(dir, "jwks.json"), jwks)
	conf := filepath.Join(dir, "server.properties")
	writeFile(t, conf, secureNode(internal, secure, mutual, controller, k.link.addr, dir, jwksURL))
	classPath := installed(t, "kafka-4.1.0") + "/*"
	if out, err := exec.Command(javaPath(t), "-cp", classPath, "kafka.tools.StorageTool", "format",
		"-t", "c2x1aWNlLWUyZS1rYWZrYQ", "-c", conf).CombinedOutput(); err != nil {
		t.Fatalf("format the storage of Kafka: %v\n%s", err, out)
	}
	k.proc = startProcess(t, command{name: "kafka", dir: dir, args: []string{javaPath(t), "-Xms256m", "-Xmx512m",
		"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + jwksURL,
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "kafka.Kafka", conf}})
	waitFor(t, "kafka", k.answers, k.proc)
	k.admin = kadm.NewClient(k.client(t))
	return k
}

// secureNode is the config of the broker. Sessions last 8 s, so that clients have to
// log in again on open connections.
func secureNode(internal, secure, mutual, controller int, mutualLink, dir, jwksURL string) string {
	const module = "org.apache.kafka.common.security."
	const listener = "listener.name.secure."
	return fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[4]d
listeners=INTERNAL://127.0.0.1:%[1]d,SECURE://127.0.0.1:%[2]d,MUTUAL://127.0.0.1:%[3]d,CONTROLLER://127.0.0.1:%[4]d
advertised.listeners=INTERNAL://127.0.0.1:%[1]d,SECURE://127.0.0.1:%[2]d,MUTUAL://%[5]s
listener.security.protocol.map=INTERNAL:PLAINTEXT,SECURE:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs=%[6]s/kafka-data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
ssl.keystore.type=PEM
ssl.keystore.location=%[6]s/store.pem
ssl.truststore.type=PEM
ssl.truststore.location=%[6]s/ca.pem
listener.name.mutual.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
connections.max.reauth.ms=8000
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER
`, internal, secure, mutual, controller, mutualLink, dir) +
		listener + "scram-sha-256.sasl.jaas.config=" + module + "scram.ScramLoginModule required;\n" +
		listener + "scram-sha-512.sasl.jaas.config=" + module + "scram.ScramLoginModule required;\n" +
		listener + "plain.sasl.jaas.config=" + module + `plain.PlainLoginModule required user_gw-plain="right";` + "\n" +
		listener + "oauthbearer.sasl.jaas.config=" + module + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";` + "\n" +
		listener + "oauthbearer.sasl.server.callback.handler.class=" + module + "oauthbearer.OAuthBearerValidatorCallbackHandler\n" +
		listener + "oauthbearer.sasl.oauthbearer.jwks.endpoint.url=" + jwksURL + "\n" +
		listener + "oauthbearer.sasl.oauthbearer.expected.audience=kafka\n"
}

// user makes a login of SCRAM.
func (k *secureKafka) user(t testing.TB, name string, mechanism kadm.ScramMechanism, password string) {
	t.Helper()
	done, err := k.admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: name, Mechanism: mechanism, Iterations: 4096, Password: password}})
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		t.Fatalf("user %s: %v", name, err)
	}
}

// grant gives a user what docs/delivery.md says an uplink needs.
func (k *secureKafka) grant(t testing.TB, user, topic string, exact bool) {
	t.Helper()
	// READ is for the audit.
	allow := []*kadm.ACLBuilder{kadm.NewACLs().Topics(topic).Operations(kadm.OpWrite, kadm.OpDescribe, kadm.OpRead)}
	if exact {
		allow = append(allow,
			kadm.NewACLs().TransactionalIDs("sluice/").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite, kadm.OpDescribe),
			kadm.NewACLs().Topics("sluice.positions").Operations(kadm.OpRead, kadm.OpWrite, kadm.OpDescribe, kadm.OpCreate))
	}
	for _, b := range allow {
		if !exact || b == allow[0] {
			b = b.ResourcePatternType(kadm.ACLPatternLiteral)
		}
		done, err := k.admin.CreateACLs(t.Context(), b.Allow("User:"+user).AllowHosts())
		for _, r := range done {
			if err == nil {
				err = r.Err
			}
		}
		if err != nil {
			t.Fatalf("grant %s to %s: %v", topic, user, err)
		}
	}
}

// tokenServer gives out signed tokens that are good for a short while (RFC 7519,
// RS256), for the user gw-oauth.
type tokenServer struct {
	*httptest.Server
	key   *rsa.PrivateKey
	asked atomic.Int64
}

func startTokenServer(t testing.TB, life time.Duration) *tokenServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{key: key}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "gw" || secret != "right" || r.PostFormValue("grant_type") != "client_credentials" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		s.asked.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": s.token(t, "gw-oauth", life), "token_type": "Bearer", "expires_in": int(life.Seconds())})
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) token(t testing.TB, user string, life time.Duration) string {
	now := time.Now()
	text := part(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "k1"}) + "." +
		part(map[string]any{"sub": user, "aud": "kafka", "scope": "kafka", "iat": now.Unix() - 1, "exp": now.Add(life).Unix()})
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Error(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// jwks is the key that brokers check tokens with (RFC 7517).
func (s *tokenServer) jwks() string {
	text, _ := json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1",
		"n": base64.RawURLEncoding.EncodeToString(s.key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(s.key.E)).Bytes())}}})
	return string(text)
}

func part(claims map[string]any) string {
	text, _ := json.Marshal(claims) // strings and numbers: it can't fail
	return base64.RawURLEncoding.EncodeToString(text)
}
