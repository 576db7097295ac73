// Package floor is what an agent must not forget, or old configs could be played
// back to it: the highest versions, the latest time, the commands that ran and
// the keys that are trusted now. It is written before anything is done because of
// it, and survives kills and power cuts.
package floor

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Bounds of a memory.
const (
	MaxTargets  = 256
	MaxCommands = 1000

	// KeepCommands is how long an id is remembered beyond its expiry: as long as
	// the record may still be read, so that it is told once that it came too late.
	KeepCommands = 8 * 24 * time.Hour
)

// Memory is the whole of it. The zero value is that of an agent that knows
// nothing yet.
type Memory struct {
	// When the memory began. What is older than it cannot be told from a replay.
	Born time.Time `json:"born"`
	// The latest time that was seen, by the clock or in a document: the clock is
	// never believed to be before it.
	Highest time.Time `json:"highest"`
	// Id of the config topic; another one means that it was made anew.
	Topic string `json:"topic,omitempty"`
	// The newest document of each target that means this agent.
	Documents map[string]Known `json:"documents,omitempty"`
	// The document whose config runs, proven; zero: the config of the file.
	Applied Applied `json:"applied,omitzero"`
	// Ids of commands, until KeepCommands after they expire.
	Commands map[string]Ran `json:"commands,omitempty"`
	// The keys that trust documents brought; nil: those of the config.
	Trust *Trust `json:"trust,omitempty"`
	// The trust document that must be known before others are believed.
	LeastTrust uint64 `json:"least_trust,omitempty"`
}

// Known is a document that was verified.
type Known struct {
	Epoch     uint64 `json:"epoch"`
	Version   uint64 `json:"version"`
	Digest    string `json:"digest"`              // SHA-256 of the payload, hex
	Withdrawn bool   `json:"withdrawn,omitempty"` // it has no config for this agent
	Failed    bool   `json:"failed,omitempty"`    // it was tried and rolled back
}

// Applied names the document that runs.
type Applied struct {
	Target  string `json:"target"`
	Epoch   uint64 `json:"epoch"`
	Version uint64 `json:"version"`
	Digest  string `json:"digest"`
	// When it was issued, and the keys that it was judged by: for Open, where all
	// else is lost.
	Issued time.Time `json:"issued"`
	Trust  uint64    `json:"trust,omitempty"` // number of the trust document
}

// Ran is a command that was taken.
type Ran struct {
	Digest  string    `json:"digest"`
	Expires time.Time `json:"expires"`
}

// Trust is a set of keys that came by a trust document.
type Trust struct {
	Base      string   `json:"base"` // digest of the config's keys that it began with
	Number    uint64   `json:"number"`
	Epoch     uint64   `json:"epoch"`
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
}

// Clone is a deep copy.
func (m Memory) Clone() Memory {
	m.Documents, m.Commands = maps.Clone(m.Documents), maps.Clone(m.Commands)
	if m.Trust != nil {
		t := *m.Trust
		t.Keys = slices.Clone(t.Keys)
		m.Trust = &t
	}
	return m
}

// Now is the time to judge expiry by: the clock, but not before what was seen.
func (m Memory) Now(clock time.Time) time.Time {
	if clock.Before(m.Highest) {
		return m.Highest
	}
	return clock
}

// See raises the latest time.
func (m *Memory) See(t time.Time) {
	if t.After(m.Highest) {
		m.Highest = t.UTC()
	}
}

// Forget drops the commands that had expired KeepCommands before the time.
func (m *Memory) Forget(now time.Time) {
	maps.DeleteFunc(m.Commands, func(_ string, r Ran) bool { return !now.Before(r.Expires.Add(KeepCommands)) })
}

// raise takes what a running config says of itself as the least there is.
func (m *Memory) raise(a Applied) {
	if a.Target == "" {
		return
	}
	if m.Documents == nil {
		m.Documents = map[string]Known{}
	}
	k, has := m.Documents[a.Target]
	epoch := uint64(0)
	if m.Trust != nil {
		epoch = m.Trust.Epoch
	}
	if a.Epoch >= epoch && (!has || a.Epoch > k.Epoch || a.Epoch == k.Epoch && a.Version > k.Version) {
		m.Documents[a.Target] = Known{Epoch: a.Epoch, Version: a.Version, Digest: a.Digest}
		m.Applied = a
	}
	m.LeastTrust = max(m.LeastTrust, a.Trust)
	m.See(a.Issued)
}

// follows says whether m may come after before: nothing that protects from a
// replay may get lost, unless a trust document raised the epoch.
func (m *Memory) follows(before *Memory) error {
	if len(m.Documents) > MaxTargets || len(m.Commands) > MaxCommands {
		return fmt.Errorf("%d documents and %d commands (at most %d and %d)", len(m.Documents), len(m.Commands), MaxTargets, MaxCommands)
	}
	// Other keys in the file begin anew, too.
	if m.epoch() > before.epoch() || before.base() != "" && m.base() != before.base() {
		return nil
	}
	if m.Highest.Before(before.Highest) {
		return fmt.Errorf("the latest time would go back to %s", m.Highest.Format(time.RFC3339))
	}
	for target, k := range before.Documents {
		if n, has := m.Documents[target]; !has || n.Epoch < k.Epoch || n.Epoch == k.Epoch && n.Version < k.Version {
			return fmt.Errorf("the version of %s would go back", target)
		}
	}
	for id, r := range before.Commands {
		if _, has := m.Commands[id]; !has && m.Highest.Before(r.Expires) {
			return fmt.Errorf("command %s would be forgotten before it expires", id)
		}
	}
	return nil
}

func (m *Memory) epoch() uint64 {
	if m.Trust == nil {
		return 0
	}
	return m.Trust.Epoch
}

func (m *Memory) base() string {
	if m.Trust == nil {
		return ""
	}
	return m.Trust.Base
}
