package simulate

import (
	"fmt"
	"strings"
)

// Names in the configs that this package writes.
const (
	mqttSource   = "line-mqtt"
	uplinkName   = "central"
	classProcess = "process"
	classAlarm   = "alarm"
)

// busName is the source that polls the i-th meter, counted from 0: each meter
// has a connection of its own.
func busName(i int) string { return fmt.Sprintf("bus-%d", i+1) }

// agentConfig is what a written config depends on.
type agentConfig struct {
	comment string // first lines, without "# "
	agent   string
	dataDir string
	mqtt    string   // host:port; empty: no MQTT source
	meters  []*Meter // none: no Modbus sources
	kafka   string   // host:port
	topic   string   // before ".{class}"
	http    string   // host:port
}

// yaml renders a config that the agent runs as it is. Quoting with %q is YAML
// too: a double-quoted scalar has the same escapes for what can occur here.
func (c agentConfig) yaml() string {
	var b strings.Builder
	for line := range strings.Lines(c.comment) {
		b.WriteString("# " + line)
	}
	fmt.Fprintf(&b, "\nversion: 1\nagent: { id: %s, data_dir: %q }\nsources:\n", c.agent, c.dataDir)
	if c.mqtt != "" {
		fmt.Fprintf(&b, mqttYAML, mqttSource, c.mqtt, classProcess, classAlarm)
	}
	for i, m := range c.meters {
		fmt.Fprintf(&b, modbusYAML, busName(i), m.Addr(),
			regPower, regAnswer, regEnergy, bitRunning, regLabel, labelWords, m.Name(), meterUnit, classProcess)
	}
	fmt.Fprintf(&b, restYAML, classAlarm, classProcess, uplinkName, c.kafka, c.topic, c.http)
	return b.String()
}

const mqttYAML = `  %s:
    mqtt:
      servers: [ "tcp://%s" ]
      subscribe:
        - { filter: "factory/+/+/telemetry", qos: 1, class: %s }
        - { filter: "factory/+/+/alarm", qos: 1, class: %s }
      decode: json
`

// The answer's number changes each time and has no deadband, so every poll
// gives a reading. The long timeout keeps a machine that is busy with other
// things from losing an answer that the meter has counted.
const modbusYAML = `  %s:
    modbus:
      connection: "tcp://%s"
      timeout: 3s
      profiles:
        meter:
          tags:
            power:   { read: holding, at: %d, type: float32, unit: kW }
            answer:  { read: holding, at: %d, type: uint32 }
            energy:  { read: input, at: %d, type: uint64, scale: 0.001, unit: kWh }
            running: { read: coil, at: %d, type: bool }
            label:   { read: holding, at: %d, type: string, length: %d }
      devices:
        %s: { unit: %d, profile: meter, every: 250ms, class: %s }
`

const restYAML = `classes:
  %s: { priority: 100, keep: { bytes: 16MiB, age: 720h }, when_full: block }
  %s: { priority: 10, keep: { bytes: 256MiB, age: 72h }, when_full: block }
uplinks:
  %s:
    kafka:
      brokers: [ "%s" ]
      topic: "%s.{class}"
observe: { http: "%s" }
`
