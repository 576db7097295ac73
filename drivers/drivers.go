// Package drivers holds the small types that every source shares: the Event it
// takes, the Sink it hands events to (some are Roomy), and the Driver that runs it.
//
// The drivers themselves live in sub-packages (mqtt, modbus). A driver imports
// this package, packages of its own below it (mqtt/sparkplug), and nothing else
// of Sluice.
package drivers

import (
	"context"
	"time"
)

// CloudEvents types of the events that drivers make.
const (
	TypeMQTTMessage   = "sluice.mqtt.message.v1"
	TypeModbusReading = "sluice.modbus.reading.v1"
)

// TypeSecurity is the CloudEvents type of a security event, "mqtt-refused" for
// example.
func TypeSecurity(what string) string { return "sluice.security." + what + ".v1" }

// Content types of a payload.
const (
	ContentJSON   = "application/json"
	ContentBinary = "application/octet-stream"
)

// Event is one message or reading as a source took it. Once handed to a Sink
// it is immutable: neither side may change Payload.
type Event struct {
	Class       string    // the lane it travels in, never empty
	Source      string    // the source's name in the config
	Device      string    // the Modbus device's name; empty for MQTT but Sparkplug, where it is NODE or NODE/DEVICE
	Subject     string    // the MQTT topic, or the device's name
	Type        string    // CloudEvents type, TypeMQTTMessage for example
	ContentType string    // ContentJSON or ContentBinary
	Time        time.Time // when it was taken, or when the poll ended
	Payload     []byte    // byte for byte; empty is a value of its own, not nothing
}

// Sink takes events in. It is the only way from a driver into the buffer.
type Sink interface {
	// Append queues e for the next commit of its class and returns. It blocks
	// while the class has no room (back-pressure) until there is some or ctx
	// ends, and then returns ctx's error; the event is not taken then and done
	// is never called.
	//
	// After a nil return done is called exactly once, in the order of the
	// Append calls of that class: with nil when the event is durable (only then
	// may the source be acknowledged), with an error when the sink closed
	// before that. done is called from the writer's goroutine, so it must not
	// block. A nil done is allowed.
	//
	// Append may be called by many goroutines at once.
	Append(ctx context.Context, e Event, done func(error)) error
}

// Roomy is a Sink that can say beforehand whether it would take an event now, for
// sources that can do without reading one.
type Roomy interface {
	// Room reports whether the class is not full. It does not block and may be
	// called by many goroutines at once. It promises nothing: an Append that
	// follows may block all the same.
	Room(class string) bool
}

// Driver reads one source and hands what it takes to its Sink.
type Driver interface {
	// Run connects and reads until ctx ends, reconnecting by itself whatever
	// breaks; it returns when all its goroutines have ended. An error while ctx
	// lives means that the source can never work as configured.
	Run(ctx context.Context) error

	// Stats returns the counters so far. It may be called at any time, from
	// any goroutine, and does not block on the source.
	Stats() Stats
}

// Stats is what a driver knows of itself. Counters start at 0 with the process.
type Stats struct {
	Ready     bool              // connected and subscribed, or polling, if no device answers yet
	Up        bool              // Ready, and where devices are polled one of them answers
	State     string            // a few words for people: "connected to tcp://…, 2 filters"
	LastError string            // the last thing that went wrong, without secrets; empty if nothing did
	LastErrAt time.Time         // when that was
	Taken     map[string]uint64 // by class: events that the sink took
	Rejected  map[string]uint64 // by reason ("too-large", "invalid-topic", …): refused, acknowledged, not stored
	Devices   []DeviceStats     // sorted by name; only drivers that poll devices have any
}

// DeviceStats is one polled device.
type DeviceStats struct {
	Name      string
	Up        bool              // it answers, if only with exceptions
	LastError string            // as in Stats
	LastErrAt time.Time         // when that was
	Polls     map[string]uint64 // by result ("ok", "timeout", "exception-2", …)
}
