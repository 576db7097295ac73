package remote

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pair(n byte) (trust.Key, ed25519.PrivateKey) {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(n)), 32)))
	return trust.Key{Public: private.Public().(ed25519.PublicKey)}, private
}

func keys(by ...byte) (list []string) {
	for _, n := range by {
		k, _ := pair(n)
		list = append(list, k.String())
	}
	return list
}

func anchorOf(t testing.TB, threshold int, list ...string) trust.Anchor {
	t.Helper()
	a, err := trust.ParseAnchor(list, threshold)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func envelope(t testing.TB, typ, payload string, by ...byte) *trust.Envelope {
	t.Helper()
	e := &trust.Envelope{Type: typ, Payload: []byte(payload)}
	for _, n := range by {
		k, private := pair(n)
		if err := e.Sign(k, func(pae []byte) ([]byte, error) { return ed25519.Sign(private, pae), nil }); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// doc is the text of a config document; more replaces what is usual.
type doc struct {
	target  string
	epoch   uint64
	version uint64
	issued  time.Time
	expires time.Time
	percent int
	body    string
}

func (d doc) text() string {
	if d.target == "" {
		d.target = "agent:gw-1"
	}
	if d.issued.IsZero() {
		d.issued = now.Add(-time.Hour)
	}
	if d.expires.IsZero() {
		d.expires = d.issued.Add(30 * 24 * time.Hour)
	}
	if d.body == "" {
		d.body = fmt.Sprintf("config: { version: 1, observe: { http: \"\" }, log: { level: v%d } }", d.version)
	}
	s := fmt.Sprintf("target: %q\nepoch: %d\nversion: %d\nissued: %s\nexpires: %s\n", d.target, d.epoch, d.version, d.issued.Format(time.RFC3339), d.expires.Format(time.RFC3339))
	if strings.HasSuffix(d.target, "/canary") {
		s += fmt.Sprintf("percent: %d\n", d.percent)
	}
	return s + d.body + "\n"
}

func (d doc) signed(t testing.TB, by ...byte) []byte {
	t.Helper()
	if len(by) == 0 {
		by = []byte{1}
	}
	return envelope(t, trust.TypeConfig, d.text(), by...).Encode()
}

const local = `version: 1
agent: { id: gw-1, labels: { ring: a, site: p7 }, data_dir: /data }
sources: { bus-a: { modbus: { devices: { meter-2: { unit: 4, every: 5s } } } } }
remote: { uplink: central, trust: [ x ], threshold: 1, locked: [ agent.data_dir ] }
`

func gateway(t testing.TB) Agent {
	return Agent{ID: "gw-1", Labels: map[string]string{"ring": "a", "site": "p7"}, Trust: anchorOf(t, 1, keys(1)...),
		Running: []byte(local), Local: []byte(local), Locked: []string{"agent.data_dir"},
		Check: func(text []byte) error {
			if strings.Contains(string(text), "nonsense") {
				return errors.New("config:1:1: nonsense\nand another")
			}
			return nil
		}}
}

// expect checks the action and the code of a decision, and returns it.
func expect(t testing.TB, d Decision, action Action, code trust.Code) Decision {
	t.Helper()
	if d.Action != action || d.Code != code {
		t.Errorf("action %d code %q (%s), want action %d code %q", d.Action, d.Code, d.Reason, action, code)
	}
	if strings.ContainsAny(d.Reason, "\n\r") || d.Action == Refuse && (d.Reason == "" || d.Save && d.Command == nil) {
		t.Errorf("reason %q, save %t", d.Reason, d.Save)
	}
	return d
}

// adopt decides, and applies what is decided with success.
func adopt(t testing.TB, m floor.Memory, a Agent, key string, value []byte) floor.Memory {
	t.Helper()
	d := expect(t, Decide(m, a, key, value, now), Adopt, "")
	if d.Save {
		m = d.Memory
	}
	return Running(m, By(m, a, d))
}
