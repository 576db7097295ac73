package agent

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"sluice/agent/config"
	"sluice/uplink"
)

// probed probes a config and returns its checks by "KIND NAME: WHAT".
func probed(t *testing.T, text string, names ...string) (map[string]uplink.Check, []Probed) {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	found, err := Probe(t.Context(), cfg, names)
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]uplink.Check{}
	for _, p := range found {
		for _, c := range p.Checks {
			checks[fmt.Sprintf("%s %s: %s", p.Kind, p.Name, c.What)] = c
		}
	}
	return checks, found
}

// plc is a Modbus TCP server whose input registers are 0 to 9.
func plc(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var request [12]byte
				for {
					if n, err := conn.Read(request[:]); n != 12 || err != nil {
						return
					}
					at, count := int(request[8])<<8|int(request[9]), int(request[10])<<8|int(request[11])
					answer := append([]byte{}, request[:8]...)
					if at+count > 10 {
						answer = append(answer[:7], 0x84, 2)
					} else {
						answer = append(append(answer, byte(2*count)), make([]byte, 2*count)...)
					}
					answer[4], answer[5] = 0, byte(len(answer)-6)
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func TestProbeTellsOfEachPart(t *testing.T) {
	p := newPlant(t)
	text := fmt.Sprintf(`
version: 1
agent: { id: gw-1, data_dir: %s }
sources:
  line: { mqtt: { servers: [ "tcp://%s", "tcp://127.0.0.1:1" ], tls: { server_name: x }, subscribe: [ { filter: "factory/#" }, { filter: "a", qos: 0 } ] } }
  bus: { modbus: { connection: "tcp://%s", timeout: 5s, devices: { m: { unit: 1, tags: { good: { read: input, at: 3, type: int16 }, bad: { read: input, at: 500, type: int16 } } } } } }
  gone: { modbus: { connection: "tcp://127.0.0.1:1", timeout: 100ms, devices: { m: { unit: 1, tags: { t: { read: input, at: 3, type: int16 } } } } } }
uplinks:
  central: { kafka: { brokers: [ "%s" ], topic: "p.{class}.{device}" } }
  away: { kafka: { brokers: [ "127.0.0.1:1" ] } }
`, filepath.Join(p.dir, "data"), p.mqtt, plc(t), p.kafka.ListenAddrs()[0])
	checks, found := probed(t, text)
	for what, want := range map[string]struct {
		ok, warning bool
		detail      string
	}{
		"source line: broker tcp://127.0.0.1:1":              {false, false, "connection refused"},
		"source line: tls":                                   {true, true, "has no effect"},
		"source line: filter factory/#":                      {true, false, "QoS 1 granted, class process"},
		"source bus: device m (unit 1)":                      {true, false, "1 of 2 tags read with 2 requests"},
		"source bus: tag m.bad":                              {false, false, "input 500: exception-2"},
		"source gone: device m (unit 1)":                     {false, false, "connection refused"},
		"uplink central: broker " + p.kafka.ListenAddrs()[0]: {true, false, "1 broker in the cluster"},
		"uplink central: topic p.process.":                   {true, true, "does not exist"},
		"uplink central: topic p.process.m":                  {true, true, "does not exist"},
		"uplink central: topic p.security.":                  {true, true, "does not exist"},
		"uplink away: broker 127.0.0.1:1":                    {false, false, "is Kafka running there?"},
	} {
		got := checks[what]
		if got.What == "" || got.OK != want.ok || got.Warning != want.warning || !strings.Contains(got.Detail, want.detail) {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	for i, want := range []string{"line false", "bus false", "gone false", "central true", "away false"} {
		if got := fmt.Sprint(found[i].Name, " ", found[i].OK); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if len(found[1].Plan) != 2 || len(found[1].Modbus) != 1 || found[0].MQTT == nil {
		t.Errorf("%+v", found[1])
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, "data", "*")); len(left) > 0 {
		t.Error("a probe left", left)
	}
	if _, found = probed(t, text, "central"); len(found) != 1 || !found[0].OK {
		t.Errorf("%+v", found)
	}
	cfg, _ := config.Parse("test.yaml", []byte(text), config.Options{})
	if _, err := Probe(t.Context(), cfg, []string{"central", "x"}); err == nil || !strings.Contains(err.Error(), `no source or uplink "x" (line, bus, gone, central, away)`) {
		t.Error(err)
	}
}
