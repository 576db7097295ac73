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

// StatusRecord is the value of a record on the status topic; its key is the
// agent's id.
type StatusRecord struct {
	Agent   string       `json:"agent"`
	Version string       `json:"version"` // of sluice
	Boot    string       `json:"boot"`    // id of this life of the process
	Time    time.Time    `json:"time"`
	Config  ConfigStatus `json:"config"`

	Buffer   json.RawMessage `json:"buffer,omitempty"`
	Sources  json.RawMessage `json:"sources,omitempty"`
	Uplinks  json.RawMessage `json:"uplinks,omitempty"`
	Commands json.RawMessage `json:"commands,omitempty"`
}

// ConfigStatus is desired against running.
type ConfigStatus struct {
	Desired uint64     `json:"desired"`          // version that the topic asks for; 0: none
	Running uint64     `json:"running"`          // version that runs; 0: the config of the file
	Target  string     `json:"target,omitempty"` // of the document that runs
	Epoch   uint64     `json:"epoch,omitempty"`
	Hash    string     `json:"hash,omitempty"` // SHA-256 of the running document's payload, hex
	State   State      `json:"state"`
	Code    trust.Code `json:"code,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Since   time.Time  `json:"since"`
}
