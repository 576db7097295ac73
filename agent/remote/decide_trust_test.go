package remote

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
)

type rotation struct {
	number, epoch uint64
	threshold     int
	keys          []string
}

func (r rotation) signed(t testing.TB, by ...byte) []byte {
	t.Helper()
	text := fmt.Sprintf("number: %d\nepoch: %d\nissued: %s\nthreshold: %d\ntrust: [ '%s' ]\n", r.number, r.epoch, now.Format(time.RFC3339), r.threshold, strings.Join(r.keys, "', '"))
	return envelope(t, trust.TypeTrust, text, by...).Encode()
}

func TestTrustRotation(t *testing.T) {
	a := gateway(t) // trusts key 1
	m := adopt(t, floor.Memory{}, a, own, doc{version: 900}.signed(t))
	first := rotation{1, 0, 1, keys(2)}
	for name, tt := range map[string]struct {
		key    string
		value  []byte
		action Action
		code   trust.Code
	}{
		"by both":              {"trust:1", first.signed(t, 1, 2), Rotate, ""},
		"by the old keys":      {"trust:1", first.signed(t, 1), Refuse, trust.WrongKey},
		"by the new keys":      {"trust:1", first.signed(t, 2), Refuse, trust.WrongKey},
		"by nobody":            {"trust:1", first.signed(t), Refuse, trust.Unsigned},
		"under another number": {"trust:2", first.signed(t, 1, 2), Refuse, trust.WrongTarget},
		"out of turn":          {"trust:2", rotation{2, 0, 1, keys(2)}.signed(t, 1, 2), Refuse, trust.TrustGap},
		"a strange key":        {"trust:01", first.signed(t, 1, 2), Ignore, ""},
		"number 0":             {"trust:0", first.signed(t, 1, 2), Ignore, ""},
		"deleted":              {"trust:1", nil, Ignore, ""},
		"junk":                 {"trust:1", []byte("junk"), Refuse, trust.Malformed},
		"invalid":              {"trust:1", rotation{1, 0, 3, keys(2)}.signed(t, 1, 2), Refuse, trust.Invalid},
		"a config":             {"trust:1", doc{version: 1}.signed(t, 1), Refuse, trust.WrongType},
	} {
		t.Run(name, func(t *testing.T) { expect(t, Decide(m, a, tt.key, tt.value, now), tt.action, tt.code) })
	}

	m = expect(t, Decide(m, a, "trust:1", first.signed(t, 1, 2), now), Rotate, "").Memory
	expect(t, Decide(m, a, "trust:1", first.signed(t, 1, 2), now), Ignore, "")
	expect(t, Decide(m, a, own, doc{version: 901}.signed(t, 1), now), Refuse, trust.WrongKey)
	m = adopt(t, m, a, own, doc{version: 901}.signed(t, 2))
	if m.Applied.Trust != 1 {
		t.Errorf("%+v", m.Applied)
	}
	// The keys of the file were changed: they count alone again.
	b := a
	b.Trust = anchorOf(t, 1, keys(3)...)
	expect(t, Decide(m, b, own, doc{version: 902}.signed(t, 2), now), Refuse, trust.WrongKey)
	expect(t, Decide(m, b, own, doc{version: 902}.signed(t, 3), now), Adopt, "")
}

// A stolen key raised the version to where no other fits. A trust document drops
// the key and raises the epoch: versions begin anew, and what the old key signed
// stays out.
func TestEpochHealsAForgedVersion(t *testing.T) {
	a := gateway(t)
	m := adopt(t, floor.Memory{}, a, own, doc{version: MaxFirst}.signed(t))
	m.See(now.Add(10000 * time.Hour)) // and the clock was wrong once
	d := expect(t, Decide(m, a, "trust:1", rotation{1, 3, 1, keys(2)}.signed(t, 1, 2), now), Rotate, "")
	m = d.Memory
	if len(m.Documents) > 0 || !m.Highest.Equal(now) {
		t.Errorf("%+v", m)
	}
	expect(t, Decide(m, a, own, doc{version: MaxFirst}.signed(t, 2), now), Refuse, trust.Older)
	expect(t, Decide(m, a, own, doc{epoch: 2, version: 9}.signed(t, 2), now), Refuse, trust.Older)
	m = adopt(t, m, a, own, doc{epoch: 3, version: 1}.signed(t, 2))
	expect(t, Decide(m, a, own, doc{epoch: 3, version: 1 << 62}.signed(t, 2), now), Refuse, trust.VersionJump)
}

// The memory was lost after a rotation: until the trust documents are read again
// nothing that old keys signed is believed.
func TestOldKeysAreNotBelievedAfterALoss(t *testing.T) {
	a := gateway(t)
	m := floor.Memory{LeastTrust: 2}
	expect(t, Decide(m, a, own, doc{version: 1}.signed(t, 1), now), Refuse, trust.TrustGap)
	m = expect(t, Decide(m, a, "trust:1", rotation{1, 0, 1, keys(2)}.signed(t, 1, 2), now), Rotate, "").Memory
	expect(t, Decide(m, a, own, doc{version: 1}.signed(t, 2), now), Refuse, trust.TrustGap)
	m = expect(t, Decide(m, a, "trust:2", rotation{2, 0, 1, keys(3)}.signed(t, 2, 3), now), Rotate, "").Memory
	expect(t, Decide(m, a, own, doc{version: 1}.signed(t, 3), now), Adopt, "")
}

// A gateway that is installed after rotations has the newest keys and their
// number in its file, and goes on from there.
func TestAnchorWithANumber(t *testing.T) {
	a := gateway(t)
	a.Trust = anchorOf(t, 1, append(keys(3), "trust:2")...)
	m := floor.Memory{}
	expect(t, Decide(m, a, "trust:1", rotation{1, 0, 1, keys(2)}.signed(t, 1, 2), now), Ignore, "")
	expect(t, Decide(m, a, "trust:3", rotation{3, 0, 1, keys(4)}.signed(t, 3, 4), now), Rotate, "")
}

type command struct {
	id, target, kind, typ string
	issued, expires       time.Time
}

func (c command) signed(t testing.TB, by ...byte) []byte {
	t.Helper()
	set := func(s *string, to string) {
		if *s == "" {
			*s = to
		}
	}
	set(&c.id, "c-1")
	set(&c.target, "all")
	set(&c.kind, "diagnostics")
	set(&c.typ, trust.TypeCommand)
	if c.issued.IsZero() {
		c.issued = now
	}
	if c.expires.IsZero() {
		c.expires = c.issued.Add(time.Hour)
	}
	if len(by) == 0 {
		by = []byte{1}
	}
	return envelope(t, c.typ, fmt.Sprintf("id: %s\ntarget: %s\nissued: %s\nexpires: %s\nkind: %s\n", c.id, c.target, c.issued.Format(time.RFC3339), c.expires.Format(time.RFC3339), c.kind), by...).Encode()
}

func TestDecideCommand(t *testing.T) {
	a := gateway(t)
	a.Trust = anchorOf(t, 1, keys(1)[0], keys(2)[0]+" command", keys(3)[0]+" update")
	m := floor.Memory{Born: now.Add(-time.Hour), Highest: now}
	m = expect(t, DecideCommand(m, a, command{}.signed(t), now), Run, "").Memory
	for name, tt := range map[string]struct {
		value  []byte
		clock  time.Time
		action Action
		code   trust.Code
	}{
		"another":                {command{id: "c-2"}.signed(t), now, Run, ""},
		"for this agent":         {command{id: "c-2", target: own}.signed(t), now, Run, ""},
		"for another":            {command{id: "c-2", target: "agent:gw-2"}.signed(t), now, Ignore, ""},
		"again":                  {command{}.signed(t), now, Ignore, trust.Replayed},
		"again, clock set back":  {command{}.signed(t), now.Add(-9 * time.Hour), Ignore, trust.Replayed},
		"its id with other text": {command{target: own}.signed(t), now, Refuse, trust.Replayed},
		"expired":                {command{id: "c-2", issued: now.Add(-30 * time.Minute), expires: now}.signed(t), now, Refuse, trust.Expired},
		"expired, clock back":    {command{id: "c-2", issued: now.Add(-30 * time.Minute), expires: now}.signed(t), now.Add(-20 * time.Minute), Refuse, trust.Expired},
		"from the future":        {command{id: "c-2", issued: now.Add(25 * time.Hour)}.signed(t), now, Refuse, trust.NotYet},
		"from before the memory": {command{id: "c-2", issued: now.Add(-2 * time.Hour), expires: now.Add(time.Hour)}.signed(t), now, Refuse, trust.Older},
		"unsigned":               {envelope(t, trust.TypeCommand, "x: 1").Encode(), now, Refuse, trust.Unsigned},
		"by a stranger":          {command{id: "c-2"}.signed(t, 9), now, Refuse, trust.WrongKey},
		"by a key for commands":  {command{id: "c-2"}.signed(t, 2), now, Run, ""},
		"by a key for updates":   {command{id: "c-2"}.signed(t, 3), now, Refuse, trust.WrongPurpose},
		"an update":              {command{id: "c-2", kind: "update", typ: trust.TypeUpdate}.signed(t, 3), now, Run, ""},
		"an update as command":   {command{id: "c-2", kind: "update"}.signed(t, 2), now, Refuse, trust.WrongType},
		"an update, wrong key":   {command{id: "c-2", kind: "update", typ: trust.TypeUpdate}.signed(t, 2), now, Refuse, trust.WrongPurpose},
		"a config":               {doc{version: 1}.signed(t), now, Refuse, trust.WrongType},
		"an unknown kind":        {command{id: "c-2", kind: "reboot"}.signed(t), now, Refuse, trust.Invalid},
		"junk":                   {[]byte("junk"), now, Refuse, trust.Malformed},
	} {
		t.Run(name, func(t *testing.T) { expect(t, DecideCommand(m, a, tt.value, tt.clock), tt.action, tt.code) })
	}
	late := command{id: "c-3", issued: now.Add(-30 * time.Minute), expires: now}.signed(t)
	told := DecideCommand(m, a, late, now)
	if !told.Save {
		t.Error("a command that came too late is not noted")
	}
	expect(t, DecideCommand(told.Memory, a, late, now.Add(time.Hour)), Ignore, trust.Replayed) // it is told once
	for i := range floor.MaxCommands - 1 {
		m.Commands[fmt.Sprintf("x-%d", i)] = floor.Ran{Expires: now.Add(time.Hour)}
	}
	expect(t, DecideCommand(m, a, command{id: "c-2"}.signed(t), now), Refuse, trust.Busy)
	later := now.Add(2*time.Hour + floor.KeepCommands)
	d := expect(t, DecideCommand(m, a, command{id: "c-2", issued: later}.signed(t), later), Run, "")
	if len(d.Memory.Commands) != 1 {
		t.Errorf("%d commands are remembered", len(d.Memory.Commands))
	}
}
