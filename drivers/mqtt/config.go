package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"sluice/drivers"
)

// Values of Config.Decode.
const (
	DecodeRaw       = "raw"         // the payload is passed on as it is
	DecodeJSON      = "json"        // a payload that is not JSON is refused
	DecodeSparkplug = "sparkplug_b" // Sparkplug B becomes JSON; what is not Sparkplug is refused
)

// Defaults and bounds of Config.
const (
	defaultKeepAlive  = 30 * time.Second
	defaultMaxPayload = 1 << 20
	defaultQueueCount = 4096
	defaultQueueBytes = 4 << 20
	defaultRetryMin   = time.Second
	defaultRetryMax   = 30 * time.Second

	maxKeepAlive = 65535 * time.Second // 16 bits of seconds, MQTT 3.1.1 §3.1.2.10
	maxRemaining = 268_435_455         // largest remaining length, MQTT 3.1.1 §2.2.3
	maxString    = 65535               // longest string, MQTT 3.1.1 §1.5.3
)

// Config configures one source. Name, Servers, ClientID, Subscriptions and Sink
// are needed; every other zero value means the default.
type Config struct {
	// Name is the source's name in the config; it goes into Event.Source.
	Name string

	// Servers are tried in order at each connect: tcp://host:port,
	// ssl://host:port, ws://host[:port]/path or wss://host[:port]/path. User
	// names do not belong here, since servers are shown in logs and states.
	Servers []string

	// ClientID names the session at the broker, 1 to 65,535 bytes of UTF-8. It
	// must be stable, since un-acknowledged messages wait under it, and no
	// other client may use it, since the broker then throws one of them out.
	ClientID string

	// Username and Password are called at each connect, so that rotated files
	// are read again; nil: none. A Password needs a Username (MQTT 3.1.1
	// §3.1.2.9). Up to 65,535 bytes each, the user name in UTF-8 without NUL.
	Username, Password func() (string, error)

	// TLS is called at each connect with ssl:// and wss://, so that exchanged
	// files are used; nil: the system's roots. With settings and an error it
	// says what is wrong with the new ones and what to use meanwhile. It is
	// refused when no server uses it.
	TLS func() (*tls.Config, error)

	// SessionDir is a directory for a small file for each session, which
	// remembers its filters, so that those that are removed from the config can
	// be unsubscribed; made when needed. Empty: they stay subscribed.
	SessionDir string

	// KeepAlive is the longest silence before a ping, 1 s to 65,535 s, rounded
	// up to whole seconds; 0: 30 s.
	KeepAlive time.Duration

	// Subscriptions says what is read and which class it goes to. At least one.
	Subscriptions []Subscription

	// Decode is DecodeRaw, DecodeJSON or DecodeSparkplug; empty: DecodeRaw.
	Decode string

	// NoRebirth keeps the source from asking Sparkplug edge nodes for their
	// births; it publishes nothing then. Only with DecodeSparkplug.
	NoRebirth bool

	// NameBytes is about how much memory the metrics' names of all Sparkplug
	// edge nodes may take; 0: 8 MiB. Only with DecodeSparkplug.
	NameBytes int

	// MaxPayload is the largest payload in bytes that is taken, 1 to
	// 268,435,455; 0: 1 MiB. A larger one is skipped while it is read off the
	// wire, counted as too-large and acknowledged.
	MaxPayload int64

	// QueueCount and QueueBytes bound the messages that wait for the sink, 1 or
	// more and MaxPayload or more; 0: 4096 messages, and 4 MiB or twice
	// MaxPayload if that is more. When one of them is reached QoS 0 is dropped
	// and for QoS 1 and 2 the socket is no longer read.
	QueueCount int
	QueueBytes int64

	// RetryMin and RetryMax bound the wait before a new connect; it doubles
	// from one to the other with each failure and a random half is taken off.
	// 0: 1 s and 30 s.
	RetryMin, RetryMax time.Duration

	// OnRefused, if not nil, is told of messages and connections that are refused:
	// of the first of each reason at once, then at most once a minute with the
	// number of those since. One goroutine calls it, and no reader waits for it;
	// what is refused meanwhile is counted. Run waits for a call that is under way
	// when it ends, so it must not block for long after Run's ctx has ended.
	OnRefused func(Refusal)

	// Sink takes the events.
	Sink drivers.Sink

	// Log gets changes of state and refused messages (at most one a minute for
	// each reason), never payloads; nil: discarded.
	Log *slog.Logger
}

// Subscription is one filter. When several filters match a topic the most
// specific one decides its class: level by level a name comes before +, and +
// before #; among equals the first in the list.
type Subscription struct {
	Filter string // MQTT 3.1.1 §4.7, or $share/GROUP/FILTER
	QoS    byte   // 0, 1 or 2: the highest that the broker may use
	Class  string // the lane of its messages, never empty
}

// withDefaults fills in what was left zero.
func (c Config) withDefaults() Config {
	c.Servers = append([]string(nil), c.Servers...)
	c.Subscriptions = append([]Subscription(nil), c.Subscriptions...)
	orDefault(&c.KeepAlive, defaultKeepAlive)
	if rest := c.KeepAlive % time.Second; rest > 0 {
		c.KeepAlive += time.Second - rest
	}
	orDefault(&c.Decode, DecodeRaw)
	orDefault(&c.MaxPayload, defaultMaxPayload)
	orDefault(&c.QueueCount, defaultQueueCount)
	orDefault(&c.QueueBytes, max(defaultQueueBytes, 2*c.MaxPayload))
	orDefault(&c.RetryMin, defaultRetryMin)
	orDefault(&c.RetryMax, max(defaultRetryMax, c.RetryMin))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate returns every problem of c, which has its defaults, joined.
func (c Config) validate() error {
	return errors.Join(c.validateSession(), c.validateLimits(), c.validateSubscriptions())
}

func (c Config) validateSession() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		bad("name: is empty (needs the source's name)")
	}
	if c.Sink == nil {
		bad("sink: is nil")
	}
	if len(c.ClientID) < 1 || len(c.ClientID) > maxString || !cleanString(c.ClientID) {
		bad("client_id: %d bytes (1 to %d bytes of UTF-8 without NUL)", len(c.ClientID), maxString)
	}
	if c.Password != nil && c.Username == nil {
		bad("password: needs a username as well (MQTT 3.1.1 has no password without one)")
	}
	if len(c.Servers) == 0 {
		bad("servers: is empty (at least one, for example tcp://10.0.0.5:1883)")
	}
	encrypted := false
	for i, server := range c.Servers {
		u, err := parseServer(server)
		if err != nil {
			bad("servers[%d]: %w", i, err)
			continue
		}
		encrypted = encrypted || secure(u)
	}
	if c.TLS != nil && !encrypted {
		bad("tls: is set, but no server uses it (ssl:// or wss://)")
	}
	return errors.Join(errs...)
}

func (c Config) validateLimits() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.KeepAlive < time.Second || c.KeepAlive > maxKeepAlive {
		bad("keep_alive: %s is out of range (1s to %s)", c.KeepAlive, maxKeepAlive)
	}
	if c.MaxPayload < 1 || c.MaxPayload > maxRemaining {
		bad("max_payload: %d bytes is out of range (1 to %d)", c.MaxPayload, maxRemaining)
	}
	if c.QueueCount < 1 {
		bad("queue count: %d is out of range (1 or more)", c.QueueCount)
	}
	if c.QueueBytes < c.MaxPayload {
		bad("queue bytes: %d is less than max_payload, %d", c.QueueBytes, c.MaxPayload)
	}
	if c.RetryMin < 0 || c.RetryMax < c.RetryMin {
		bad("retry: %s to %s is not a range", c.RetryMin, c.RetryMax)
	}
	switch c.Decode {
	case DecodeRaw, DecodeJSON, DecodeSparkplug:
	default:
		bad("decode: %q is unknown (raw, json, sparkplug_b)", c.Decode)
	}
	if c.NameBytes < 0 {
		bad("name bytes: %d is out of range (0 or more)", c.NameBytes)
	}
	return errors.Join(errs...)
}

func (c Config) validateSubscriptions() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Subscriptions) == 0 {
		bad("subscribe: is empty (at least one filter)")
	}
	seen := make(map[string]int)
	for i, sub := range c.Subscriptions {
		if err := checkFilter(sub.Filter); err != nil {
			bad("subscribe[%d].filter: %w", i, err)
		}
		if c.Decode == DecodeSparkplug && strings.HasPrefix(sub.Filter, "$share/") {
			bad("subscribe[%d].filter: %q is shared, so other clients get a part of each edge node's messages (sparkplug_b needs all of them)", i, sub.Filter)
		}
		if sub.QoS > 2 {
			bad("subscribe[%d].qos: %d is out of range (0, 1, 2)", i, sub.QoS)
		}
		if sub.Class == "" {
			bad("subscribe[%d].class: is empty", i)
		}
		if first, ok := seen[sub.Filter]; ok {
			bad("subscribe[%d].filter: %q is subscribe[%d] again (each filter once)", i, sub.Filter, first)
		}
		seen[sub.Filter] = i
	}
	return errors.Join(errs...)
}

// credentials reads user name and password for one connect; empty: none.
func (c Config) credentials() (user, password string, err error) {
	if c.Username != nil {
		if user, err = c.Username(); err != nil {
			return "", "", fmt.Errorf("read the user name: %w", err)
		}
	}
	if c.Password != nil {
		if password, err = c.Password(); err != nil {
			return "", "", fmt.Errorf("read the password: %w", err)
		}
	}
	switch {
	case len(user) > maxString || !cleanString(user):
		return "", "", fmt.Errorf("username: %d bytes (up to %d bytes of UTF-8 without NUL)", len(user), maxString)
	case len(password) > maxString:
		return "", "", fmt.Errorf("password: %d bytes (up to %d)", len(password), maxString)
	case password != "" && user == "":
		return "", "", errors.New("username: is empty, and the password needs one")
	}
	return user, password, nil
}

// parseServer reads one of Config.Servers. Its errors never show the text, since
// somebody may have put a password into it.
func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, errors.New("is not a URL (for example tcp://10.0.0.5:1883)")
	}
	switch u.Scheme {
	case "tcp", "ssl", "ws", "wss":
	default:
		return nil, fmt.Errorf("scheme %q is unknown (tcp, ssl, ws, wss)", u.Scheme)
	}
	plain := u.Scheme == "tcp" || u.Scheme == "ssl"
	switch {
	case u.User != nil:
		return nil, errors.New("holds a user name (username and password have fields of their own)")
	case u.Hostname() == "":
		return nil, errors.New("has no host (for example tcp://10.0.0.5:1883)")
	case plain && u.Port() == "":
		return nil, errors.New("has no port (usually 1883, with ssl 8883)")
	case plain && strings.Trim(u.Path, "/") != "":
		return nil, errors.New("has a path, which only ws:// and wss:// can have")
	}
	return u, nil
}

// cleanString says whether s may stand in a packet, MQTT 3.1.1 §1.5.3.
func cleanString(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}
