// Package oauth gets the tokens that a login with OAUTHBEARER needs, by the grant
// for programs: client credentials (RFC 6749 §4.4).
package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	askTimeout = 10 * time.Second
	maxAnswer  = 1 << 20 // bytes of an answer that are read
	maxWords   = 200     // of what a server says that are shown
	retryMin   = time.Second
	retryMax   = 5 * time.Second

	// usedUp is the part of its life after which a token is replaced. A Kafka client
	// logs in again after 95 % of what is left at its login, so that it gets a new one then.
	usedUp = 0.8
)

// Config says where tokens come from. URL, ClientID and Secret are needed.
type Config struct {
	URL      string                 // of the token endpoint, http:// or https://
	ClientID string                 // name of this client
	Secret   func() (string, error) // called for each token, so that a changed secret is picked up; never logged
	Scope    string                 // words with spaces between; empty: what the server gives by itself

	// TLS returns the settings for one connection to URL; nil: those of the system.
	TLS func() (*tls.Config, error)

	Log *slog.Logger // nil: discarded
}

// Source is a source of tokens. It keeps the last one until it is nearly used up.
// It may be used by many goroutines; one at a time asks the server.
type Source struct {
	cfg  Config
	at   string // the endpoint, for messages
	lock chan struct{}

	// Below lock.
	token    string
	replace  time.Time // when it is replaced; zero with a token: it is good for one login
	expires  time.Time
	failed   error // of the last question
	attempts int
	again    time.Time // not before
}

// New checks cfg, says every problem at once, and asks nothing.
func New(cfg Config) (*Source, error) {
	var errs []error
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		errs = append(errs, errors.New("token_url is not the URL of a token endpoint (https://host/path)"))
	case u.User != nil || u.Fragment != "":
		errs = append(errs, errors.New("token_url has a user or a fragment (https://host/path; the secret is client_secret)"))
	}
	if cfg.ClientID == "" {
		errs = append(errs, errors.New("client_id is missing"))
	}
	if cfg.Secret == nil {
		errs = append(errs, errors.New("client_secret is missing"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, at: u.Scheme + "://" + u.Host + u.Path, lock: make(chan struct{}, 1)}
	return s, nil
}

// Token returns a token that is good for a while yet. It asks the server where it
// has none, which takes 10 s at most, and returns in words why there is none. While
// the server does not answer, a token that is still valid is used.
func (s *Source) Token(ctx context.Context) (string, error) {
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	now := time.Now()
	if s.token != "" && now.Before(s.replace) {
		return s.token, nil
	}
	if now.After(s.again) {
		s.renew(ctx)
	}
	switch {
	case s.failed == nil:
		return s.token, nil
	case s.token != "" && time.Now().Before(s.expires):
		return s.token, nil
	}
	return "", s.failed
}

// renew asks for a token. Servers that fail are asked less often, since all
// gateways of a plant do.
func (s *Source) renew(ctx context.Context) {
	token, life, err := s.ask(ctx)
	if err != nil {
		if s.failed == nil || s.failed.Error() != err.Error() {
			s.cfg.Log.Warn("no new token", "error", err)
		}
		wait := min(retryMax, retryMin<<min(s.attempts, 8))
		s.failed, s.attempts = err, s.attempts+1
		s.again = time.Now().Add(wait/2 + rand.N(wait/2+1))
		return
	}
	now := time.Now()
	s.token, s.failed, s.attempts, s.again = token, nil, 0, time.Time{}
	s.replace, s.expires = now.Add(time.Duration(usedUp*float64(life))), now.Add(life)
}

// answer is that of a token endpoint (RFC 6749 §5.1 and §5.2).
type answer struct {
	Token       string      `json:"access_token"`
	Type        string      `json:"token_type"`
	Expires     json.Number `json:"expires_in"`
	Error       string      `json:"error"`
	Description string      `json:"error_description"`
}

// ask asks the server for a token; life is 0 where it does not say how long.
func (s *Source) ask(ctx context.Context) (token string, life time.Duration, err error) {
	secret, err := s.cfg.Secret()
	if err != nil {
		return "", 0, fmt.Errorf("read sasl.client_secret: %w", err)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if s.cfg.TLS != nil {
		if transport.TLSClientConfig, err = s.cfg.TLS(); err != nil {
			s.cfg.Log.Warn("sasl.tls", "error", err)
		}
	}
	client := http.Client{Transport: transport, Timeout: askTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }} // the secret is for this server
	form := url.Values{"grant_type": {"client_credentials"}}
	if s.cfg.Scope != "" {
		form.Set("scope", s.cfg.Scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, fmt.Errorf("ask %s for a token: %w", s.at, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(s.cfg.ClientID), url.QueryEscape(secret)) // RFC 6749 §2.3.1
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, s.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", 0, fmt.Errorf("read the answer of %s: %w", s.at, err)
	}
	return s.judge(resp, body, secret)
}

// unreachable says why there is no answer. The URL that the library adds is left
// out: its query may be secret.
func (s *Source) unreachable(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	var names *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("cannot connect to the token server %s: connection refused: is it running there?", s.at)
	case errors.As(err, &names):
		return fmt.Errorf("the token server's name %q cannot be resolved: check sasl.token_url", names.Name)
	case isCertificate(err):
		return fmt.Errorf("the certificate of the token server %s was not accepted: check sasl.tls (%w)", s.at, err)
	}
	return fmt.Errorf("cannot reach the token server %s: %w", s.at, err)
}

func isCertificate(err error) bool {
	_, invalid := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	return invalid || unknown
}

var bearer = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// Check returns an error unless text can be a token (RFC 6750 §2.1).
func Check(text string) error {
	if !bearer.MatchString(text) {
		return errors.New("it is no token: a token is one word of A-Z a-z 0-9 . _ ~ + / -")
	}
	return nil
}

// judge reads the answer.
func (s *Source) judge(resp *http.Response, body []byte, secret string) (string, time.Duration, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil && a.Error == "" && a.Token == "" {
		return "", 0, fmt.Errorf("the token server %s answers %s, and not as one would: is sasl.token_url its token endpoint?", s.at, resp.Status)
	}
	if resp.StatusCode != http.StatusOK || a.Error != "" {
		what := "the request"
		switch a.Error {
		case "invalid_client", "unauthorized_client":
			what = "this client: check sasl.client_id and sasl.client_secret"
		case "invalid_scope":
			what = "the scope: check sasl.scope"
		}
		return "", 0, fmt.Errorf("the token server %s refused %s (%s)", s.at, what, plain(strings.Join([]string{resp.Status, a.Error, a.Description}, " "), secret))
	}
	if a.Type != "" && !strings.EqualFold(a.Type, "bearer") {
		return "", 0, fmt.Errorf("the token server %s gave a token of type %q; Kafka takes bearer tokens", s.at, plain(a.Type, secret))
	}
	if err := Check(a.Token); err != nil {
		return "", 0, fmt.Errorf("the token server %s gave none: %w", s.at, err)
	}
	seconds, err := a.Expires.Float64()
	if err != nil || !(seconds > 0) {
		seconds = 0 // unknown: asked for at each login
	}
	return a.Token, time.Duration(min(seconds, 1e8) * float64(time.Second)), nil
}

// plain is what may be shown of a text that somebody else wrote.
func plain(text, secret string) string {
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "***")
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == ' ' }), " ")
	return string([]rune(text)[:min(len([]rune(text)), maxWords)])
}
