package remote

import (
	"encoding/json"
	"time"

	"sluice/agent/remote/trust"
)

// State is what an agent does with its config.
type State string

// The states.
const (
	StateApplied    State = "applied"     // running, proven
	StateApplying   State = "applying"    // parts are being started
	StateTrial      State = "trial"       // running, to be proven
	StateRolledBack State = "rolled_back" // the desired one failed; the one before runs
	StateRejected   State = "rejected"    // the last document was refused; Code says why
)

// Codes of what an agent says of its own doing, beside those of a refusal.
const (
	StartFailed trust.Code = "start-failed"  // the parts could not be started
	TrialFailed trust.Code = "trial-failed"  // it has not proven itself in time, or a part ended
	Crashed     trust.Code = "crashed"       // the agent was started with it again and again
	NotStored   trust.Code = "not-stored"    // the disk does not take it
	StoredBad   trust.Code = "stored-bad"    // the stored config cannot be used: that of the file runs
	TopicPolicy trust.Code = "topic-policy"  // the config topic is not compacted
	TopicEmpty  trust.Code = "topic-emptied" // records are gone from the config topic
	TopicNew    trust.Code = "topic-new"     // the config topic was made anew
	TopicAway   trust.Code = "topic-away"    // the config topic cannot be read
)

// StatusRecord is the value of a record on the status topic; its key is the
// agent's id.
type StatusRecord struct {
	Agent   string            `json:"agent"`
	Version string            `json:"version"` // of sluice
	Labels  map[string]string `json:"labels,omitempty"`
	Boot    string            `json:"boot"` // id of this life of the process
	Time    time.Time         `json:"time"`
	Config  ConfigStatus      `json:"config"`

	Buffer   map[string]ClassStatus  `json:"buffer"`  // by class
	Sources  map[string]SourceStatus `json:"sources"` // by name
	Uplinks  map[string]UplinkStatus `json:"uplinks"` // by name
	Commands []CommandStatus         `json:"commands"`
	Update   *UpdateStatus           `json:"update,omitempty"` // the last one of this life, or what the last life left
}

// UpdateStatus is how far an update of the machine has come.
type UpdateStatus struct {
	Phase   string    `json:"phase"` // fetching, waiting, checking, installing, installed, failed
	Version string    `json:"version"`
	Bytes   int64     `json:"bytes"` // fetched
	Size    int64     `json:"size"`
	Detail  string    `json:"detail,omitempty"` // why it waits or has failed; what the installer said
	Time    time.Time `json:"time"`
}

// ConfigStatus is desired against running.
type ConfigStatus struct {
	Desired uint64     `json:"desired"`          // version that the topic asks for; 0: none
	Running uint64     `json:"running"`          // version that runs; 0: the config of the file
	Target  string     `json:"target,omitempty"` // of the document that runs
	Epoch   uint64     `json:"epoch,omitempty"`
	Hash    string     `json:"hash"` // SHA-256 of the running document's payload, hex
	State   State      `json:"state"`
	Code    trust.Code `json:"code"`
	Reason  string     `json:"reason"`
	Since   time.Time  `json:"since"`
	Refused uint64     `json:"refused,omitempty"` // documents and commands that were refused in this life, told or not
}

// ClassStatus is a class of the buffer.
type ClassStatus struct {
	Events        uint64  `json:"events"`         // not yet delivered by every uplink
	Bytes         int64   `json:"bytes"`          // on disk
	OldestSeconds float64 `json:"oldest_seconds"` // age of the oldest undelivered event
	Blocked       bool    `json:"blocked,omitempty"`
	Fault         string  `json:"fault,omitempty"`
}

// SourceStatus is a source.
type SourceStatus struct {
	Type    string `json:"type"`
	Up      bool   `json:"up"`
	State   string `json:"state,omitempty"`
	Devices int    `json:"devices,omitempty"` // of a source that polls
	Silent  int    `json:"silent,omitempty"`  // devices that do not answer
}

// UplinkStatus is an uplink.
type UplinkStatus struct {
	Up        bool   `json:"up"`
	State     string `json:"state,omitempty"`
	Lag       uint64 `json:"lag"`       // events that it has not got
	Delivered uint64 `json:"delivered"` // since the start
}

// CommandState is what became of a command.
type CommandState string

// The states of a command.
const (
	CommandRunning CommandState = "running"
	CommandDone    CommandState = "done"
	CommandFailed  CommandState = "failed"
	CommandRefused CommandState = "refused"
)

// CommandStatus is a command that was taken or refused.
type CommandStatus struct {
	ID     string          `json:"id,omitempty"` // empty: it could not be read
	Kind   string          `json:"kind,omitempty"`
	State  CommandState    `json:"state"`
	Code   trust.Code      `json:"code,omitempty"`
	Reason string          `json:"reason,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Time   time.Time       `json:"time"`
}
