package config

import (
	"net/url"
	"regexp"
	"strings"
)

// saslPart is a key of a login that is for some mechanisms only.
type saslPart struct {
	key   string
	given bool
	oauth bool // for oauthbearer, else for the others
}

func (s *SASL) parts() []saslPart {
	return []saslPart{
		{"username", s.Username != "", false}, {"password", s.Password.IsSet(), false},
		{"token", s.Token.IsSet(), true}, {"token_url", s.TokenURL != "", true}, {"client_id", s.ClientID != "", true},
		{"client_secret", s.ClientSecret.IsSet(), true}, {"scope", s.Scope != "", true}, {"extensions", len(s.Extensions) > 0, true}, {"tls", s.TLS != nil, true},
	}
}

func (d *decoder) checkSASL(s *SASL, path string) {
	d.checkTLS(s.TLS, path+".tls")
	if s.Mechanism == "" || d.bad[path+".mechanism"] {
		return
	}
	oauth := s.Mechanism == "oauthbearer"
	for _, p := range s.parts() {
		if p.given && p.oauth != oauth {
			d.wrong(join(path, p.key), "does not go together with "+s.Mechanism, "leave it out")
		}
	}
	if oauth {
		d.checkOAuth(s, path)
		return
	}
	if s.Username == "" {
		d.wrong(path+".username", "is missing", s.Mechanism+" needs a username")
	}
	if !s.Password.IsSet() {
		d.wrong(path+".password", "is missing", s.Mechanism+" needs a password")
	}
}

func (d *decoder) checkOAuth(s *SASL, path string) {
	switch {
	case !s.Token.IsSet() && s.TokenURL == "" && !d.bad[path+".token_url"] && !d.bad[path+".token"]:
		d.wrong(path+".token_url", "is missing", "oauthbearer needs token_url, client_id and client_secret, or token: ${file:…}")
	case s.Token.IsSet() && s.TokenURL != "":
		d.wrong(path+".token", "does not go together with token_url", "one of them")
	case s.TokenURL != "":
		d.checkTokenURL(s, path)
	}
	d.checkExtensions(s, path+".extensions")
}

func (d *decoder) checkTokenURL(s *SASL, path string) {
	u, err := url.Parse(s.TokenURL)
	switch at := path + ".token_url"; {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		d.wrong(at, d.show(at, s.TokenURL)+" is not the URL of a token endpoint", "https://host/path")
	case u.User != nil || u.Fragment != "":
		d.wrong(at, "has a user or a fragment", "https://host/path, and client_id and client_secret")
	case u.Scheme == "http" && s.TLS != nil:
		d.wrong(path+".tls", "is not for http://", "leave it out, or a token_url with https://")
	}
	if s.ClientID == "" {
		d.wrong(path+".client_id", "is missing", "token_url needs client_id and client_secret")
	}
	if !s.ClientSecret.IsSet() {
		d.wrong(path+".client_secret", "is missing", "token_url needs client_id and client_secret")
	}
}

// extensionName is that of RFC 7628 section 3.1; auth is the token itself.
var extensionName = regexp.MustCompile(`^[A-Za-z]+$`)

func (d *decoder) checkExtensions(s *SASL, path string) {
	for name, value := range s.Extensions {
		if !extensionName.MatchString(name) || name == "auth" {
			d.wrong(join(path, name), "is not the name of an extension", "letters; not auth")
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' && r != '\n' || r > '~' }) {
			d.wrong(join(path, name), "has characters that an extension cannot hold", "printable ASCII")
		}
	}
}
