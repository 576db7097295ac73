//go:build e2e

package e2e

import (
	"fmt"
	"strings"
)

// Names that all agent configs of the rig share.
const (
	agentID   = "gw-e2e"
	mqttName  = "line"
	busName   = "bus"
	className = "process"
)

// mqttConfig is an agent that forwards everything below factory/ to topic.
func mqttConfig(dataDir, http, mqttURL, broker, topic string) string {
	return strings.Join([]string{
		"version: 1",
		fmt.Sprintf("agent: { id: %s, data_dir: %q }", agentID, dataDir),
		"sources:",
		"  " + mqttName + ":",
		"    mqtt:",
		fmt.Sprintf("      servers: [ %q ]", mqttURL),
		"      subscribe:",
		`        - { filter: "factory/#", qos: 1, class: process }`,
		"classes:",
		"  process: { when_full: block }",
		"uplinks:",
		"  central:",
		fmt.Sprintf("    kafka: { brokers: [ %q ], topic: %q }", broker, topic),
		fmt.Sprintf("observe: { http: %q }", http),
		"",
	}, "\n")
}

// modbusConfig is an agent that polls units 3 and 4 of modbus_server.py over a
// connection; more are further lines of its section. The tag ghost asks for a
// register that the server does not have.
func modbusConfig(dataDir, http, connection, more, broker, topic string) string {
	return strings.Join([]string{
		"version: 1",
		fmt.Sprintf("agent: { id: %s, data_dir: %q }", agentID, dataDir),
		"sources:",
		"  " + busName + ":",
		"    modbus:",
		fmt.Sprintf("      connection: %q", connection),
		more,
		"      timeout: 500ms",
		"      breaker: { open_after: 2, retry: 1s, max: 2s }",
		"      profiles:",
		"        meter:",
		"          tags:",
		"            power:   { read: holding, at: 3059, type: float32, unit: kW }",
		"            energy:  { read: input, at: 100, type: uint64, scale: 0.001, unit: kWh }",
		"            running: { read: coil, at: 1, type: bool }",
		"            door:    { read: discrete, at: 12, type: bool }",
		"            label:   { read: holding, at: 500, type: string, length: 8 }",
		"            ghost:   { read: holding, at: 9000, type: uint16 }",
		"      devices:",
		"        meter-1: { unit: 3, profile: meter, every: 200ms }",
		"        probe-1: { unit: 4, every: 200ms, tags: { t: { read: input, at: 0, type: int16, scale: 0.1, offset: -40 } } }",
		"uplinks:",
		"  central:",
		fmt.Sprintf("    kafka: { brokers: [ %q ], topic: %q }", broker, topic),
		fmt.Sprintf("observe: { http: %q }", http),
		"",
	}, "\n")
}
