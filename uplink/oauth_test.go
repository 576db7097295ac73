package uplink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// bearers is the side of a broker that takes tokens: kfake has no OAUTHBEARER. A real
// broker takes them in the end-to-end tests.
type bearers struct {
	mu     sync.Mutex
	good   string
	life   time.Duration // of a session; 0: no limit
	logins []string      // tokens that were taken
}

// initialResponse is what a client says first (RFC 7628 §3.1).
func initialResponse(token string) string {
	return "n,,\x01auth=Bearer " + token + "\x01logicalCluster=lkc-1\x01\x01"
}

func (b *bearers) listen(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.SASLHandshake), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := r.ResponseKind().(*kmsg.SASLHandshakeResponse)
		if resp.SupportedMechanisms = []string{"OAUTHBEARER"}; r.(*kmsg.SASLHandshakeRequest).Mechanism != "OAUTHBEARER" {
			resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		}
		return resp, nil, true
	})
	c.ControlKey(int16(kmsg.SASLAuthenticate), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		b.mu.Lock()
		defer b.mu.Unlock()
		if said := string(r.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes); said != initialResponse(b.good) {
			resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("invalid_token")
			return resp, nil, true
		}
		b.logins = append(b.logins, b.good)
		resp.SessionLifetimeMillis = b.life.Milliseconds()
		return resp, nil, true
	})
}

func (b *bearers) took(token string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.logins {
		if t == token {
			n++
		}
	}
	return n
}

// TestTokens logs in with tokens: none at first, then one that the broker does not
// take, then good ones that the broker wants to see again while events flow.
func TestTokens(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(3, "sluice.process"))
	b := &bearers{good: "first", life: 1500 * time.Millisecond}
	b.listen(c)
	var mu sync.Mutex
	token, failure := "", errors.New("the token server is away")
	set := func(text string, err error) {
		mu.Lock()
		token, failure = text, err
		mu.Unlock()
	}
	log := newMemLog()
	log.put(messages("process", 0, 100, 5)...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, SASL: SASL{Mechanism: "oauthbearer", Extensions: map[string]string{"logicalCluster": "lkc-1"},
		Token: func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return token, failure
		}}})
	waitFor(t, "the missing token to be said", func() bool {
		s := k.Stats()
		return !s.Up && s.State == "not connected: cannot log in: the token server is away"
	})
	set("bad-token", nil)
	waitFor(t, "the refusal to be said", func() bool {
		s := k.Stats()
		return !s.Up && strings.Contains(s.LastError, "the broker refused the login") && !strings.Contains(fmt.Sprint(s), "bad-token")
	})
	set("first", nil)
	log.waitCursor(t, "process", 100)
	waitFor(t, "a login of a connection that was open", func() bool {
		last := log.cursor("process")
		log.put(messages("process", int(last), 10, 5)...)
		log.waitCursor(t, "process", last+10)
		return b.took("first") > 6
	})
	b.mu.Lock()
	b.good = "second"
	b.mu.Unlock()
	set("second", nil)
	waitFor(t, "a login with the new token", func() bool {
		last := log.cursor("process")
		log.put(messages("process", int(last), 10, 5)...)
		log.waitCursor(t, "process", last+10)
		return b.took("second") > 0
	})
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), log.cursor("process"))
}
