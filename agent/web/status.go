package web

import (
	"fmt"
	"time"
)

// Status is what /api/v1/status shows, and all that the status page and
// "sluice status" know.
type Status struct {
	Agent         string            `json:"agent"`
	Version       string            `json:"version"`
	Labels        map[string]string `json:"labels,omitempty"`
	UptimeSeconds float64           `json:"uptime_seconds"`
	Healthy       bool              `json:"healthy"`   // every stage makes progress
	Ready         bool              `json:"ready"`     // the buffer is open and every source is connected and subscribed, or polling
	Unhealthy     []string          `json:"unhealthy"` // why it isn't healthy
	Unready       []string          `json:"unready"`   // why it isn't ready
	Reasons       []string          `json:"reasons"`   // all that people should look at: these, uplinks that are away, sources of which no device answers
	Stalled       bool              `json:"stalled"`   // something hangs that a restart would mend
	Incarnation   string            `json:"incarnation"`
	Config        Config            `json:"config"`
	Memory        Memory            `json:"memory"`
	Sources       map[string]Source `json:"sources"`
	Classes       map[string]Class  `json:"classes"`
	Uplinks       map[string]Uplink `json:"uplinks"`
}

// Config says which config runs.
type Config struct {
	File    string    `json:"file"`
	Version uint64    `json:"version"`           // of a config that came over the uplink; 0: the local file
	State   string    `json:"state"`             // applied, applying, trial, rolled_back, rejected
	Remote  bool      `json:"remote"`            // configs may come over an uplink
	Desired uint64    `json:"desired,omitempty"` // version that the config topic asks for; 0: none
	Target  string    `json:"target,omitempty"`  // of the document that runs
	Code    string    `json:"code,omitempty"`    // why it is as it is, in a stable word
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

// Text says in a line which config runs and how it stands with it; empty where
// there is only the file.
func (c Config) Text() string {
	if !c.Remote {
		return ""
	}
	s := "that of the file"
	if c.Version > 0 {
		s = fmt.Sprintf("version %d of %s", c.Version, c.Target)
	}
	if c.Desired > 0 && c.Desired != c.Version {
		s += fmt.Sprintf(" (desired: %d)", c.Desired)
	}
	s += ", " + c.State
	if !c.Since.IsZero() {
		s += " since " + c.Since.UTC().Format(time.RFC3339)
	}
	if c.Code != "" {
		s += ", " + c.Code // the reason stands among Status.Reasons
	}
	return s
}

// Memory is what the Go runtime holds.
type Memory struct {
	LimitBytes int64  `json:"limit_bytes"`
	HeapBytes  uint64 `json:"heap_bytes"`
}

// Source is one source.
type Source struct {
	Type      string            `json:"type"` // mqtt or modbus
	Up        bool              `json:"up"`
	State     string            `json:"state"`
	LastError string            `json:"last_error"`
	ErrorAge  float64           `json:"last_error_seconds"` // how long ago that was; 0: there was none
	Taken     map[string]uint64 `json:"taken"`              // by class
	Rejected  map[string]uint64 `json:"rejected"`           // by reason
	Devices   map[string]Device `json:"devices,omitempty"`  // of a source that polls
}

// Device is one polled device.
type Device struct {
	Up        bool              `json:"up"`
	LastError string            `json:"last_error"`
	ErrorAge  float64           `json:"last_error_seconds"` // as of a source
	Polls     map[string]uint64 `json:"polls"`              // by result
}

// Class is one lane of the buffer.
type Class struct {
	Committed     uint64            `json:"committed"`      // made durable since the start
	Events        uint64            `json:"events"`         // in the buffer and not delivered by every uplink
	Bytes         int64             `json:"bytes"`          // on disk
	OldestSeconds float64           `json:"oldest_seconds"` // age of the oldest undelivered event
	First         uint64            `json:"first"`          // oldest stored sequence number, 0: none
	Next          uint64            `json:"next"`           // number of the next event
	Queued        int               `json:"queued"`         // taken, not yet durable
	Blocked       bool              `json:"blocked"`        // full: sources wait
	Fault         string            `json:"fault"`          // why nothing can be written now
	Dropped       map[string]uint64 `json:"dropped"`        // accounted for by gap records, by reason
}

// Uplink is one destination.
type Uplink struct {
	Up        bool              `json:"up"`
	State     string            `json:"state"`
	Closed    bool              `json:"closed"`  // by its schedule or conditions; State says why
	Metered   bool              `json:"metered"` // it is paid for by the byte, or that is not known
	LastError string            `json:"last_error"`
	ErrorAge  float64           `json:"last_error_seconds"` // as of a source
	Delivered map[string]uint64 `json:"delivered"`          // by class, since the start
	Lag       map[string]uint64 `json:"lag"`                // by class: stored and not delivered
	InFlight  int               `json:"in_flight"`
	SentBytes uint64            `json:"sent_bytes"`
	Late      []string          `json:"late,omitempty"`          // classes whose backlog goes beside new events (live_share)
	Failover  *Failover         `json:"failover,omitempty"`      // nil: there is none
	StandsIn  []string          `json:"stands_in_for,omitempty"` // uplinks that it takes over from: it has no lag of its own
	Carries   []string          `json:"carries,omitempty"`       // those of them whose events go here now
}

// Failover says where the events of an uplink go.
type Failover struct {
	To    string    `json:"to"`             // the uplink that gets them now; this one: no failover is under way
	Since time.Time `json:"since,omitzero"` // of that; left out: the start
	Moves uint64    `json:"moves"`          // how often that changed, since the start
}
