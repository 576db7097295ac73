package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sluice/agent/config"
	"sluice/drivers"
	"sluice/drivers/modbus"
)

// The config names problems by line and column, the driver checks for itself:
// both must take the same connections.
func TestConfigAndDriverTakeTheSameConnections(t *testing.T) {
	connections := []string{
		"tcp://h", "tcp://h:502", "tcp://[::1]:502", "tcp://h:0", "tcp://h:65536", "tcp://", "tcp://h/x", "tcp://h?baud=9600", "TCP://h", "h:502", "udp://h",
		"tcp+tls://h", "tcp+tls://h:802", "tcp+tls://h/x", "rtu+tcp://h", "rtu+tcp://h:4001", "rtu+tcp://h?baud=9600",
		"rtu://ttyUSB0", "rtu:///dev/ttyUSB0", "rtu:///dev/ttyUSB0?", "ascii:///dev/ttyUSB0", "ascii:/dev/ttyUSB0", "rtu:///dev/ttyUSB0?baud", "rtu:///dev/ttyUSB0?=1",
		"rtu:///dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0?baud=9600", "rtu:///p?baud=%zz", "rtu:///p?a;b=1", "rtu:///p?baud=9600&baud=9600",
	}
	for _, scheme := range []string{"rtu", "ascii"} {
		for key, values := range map[string]string{
			"baud": "49 50 9600 4000000 4000001 -1 x 9600.0 +9600", "parity": "E O N e even", "data": "6 7 8 9", "stop": "0 1 1.5 2 3", "rs485": "true false 1 yes",
			"rts_high_during_send": "true false 1", "rts_high_after_send": "true false 0", "rts_delay_before": "0ms 1ms 100ms 101ms 1 1s -1ms", "rts_delay_after": "5ms 5",
			"rx_during_tx": "true false x", "terminate_bus": "true false x", "rts_delay": "1ms", "Baud": "9600",
		} {
			for _, value := range append(strings.Fields(values), "") {
				connections = append(connections, fmt.Sprintf("%s:///p?%s=%s", scheme, key, value), fmt.Sprintf("%s:///p?%s=%s&rs485=true", scheme, key, value))
			}
		}
		connections = append(connections, scheme+":///p?rs485=true&rts_high_during_send=true&rts_high_after_send=true",
			scheme+":///p?rs485=true&rts_high_during_send=false&rts_high_after_send=true&rts_delay_before=1ms&rts_delay_after=2ms&rx_during_tx=true&terminate_bus=true")
	}
	taken := 0
	for _, c := range connections {
		for unit := range 2 {
			text := fmt.Sprintf(`version: 1
sources: { b: { modbus: { connection: %q, devices: { d: { unit: %d, tags: { t: { read: coil, at: 1 } } } } } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
`, c, unit)
			_, wrong := config.Parse("c.yaml", []byte(text), config.Options{ReadFile: os.ReadFile, Env: os.LookupEnv, Hostname: os.Hostname})
			_, refused := modbus.New(modbus.Config{Name: "b", Connection: c, Sink: noSink{}, Devices: []modbus.Device{
				{Name: "d", Unit: unit, Tags: []modbus.Tag{{Name: "t", Read: "coil", At: 1}}},
			}})
			if (wrong == nil) != (refused == nil) {
				t.Errorf("%s, unit %d: the config says %v, the driver %v", c, unit, wrong, refused)
			}
			if wrong == nil {
				taken++
			}
		}
	}
	if taken < 60 {
		t.Errorf("only %d were taken", taken)
	}
}

type noSink struct{ drivers.Sink }
