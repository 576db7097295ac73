package uplink

import (
	"strings"
	"testing"

	"sluice/drivers"
)

func TestTemplateRenders(t *testing.T) {
	mqtt := drivers.Event{Class: "process", Source: "line", Subject: "factory/hall 1//temp", Type: drivers.TypeMQTTMessage}
	modbus := drivers.Event{Class: "process", Source: "bus-a", Device: "meter-1", Subject: "meter-1", Type: drivers.TypeModbusReading}
	tests := []struct {
		name, text  string
		event       drivers.Event
		want, topic string
	}{
		{"literal", "plant", mqtt, "plant", "plant"},
		{"default", DefaultTopic, mqtt, "sluice.process", "sluice.process"},
		{"agent and label", "{label.site}.{agent}", mqtt, "plant-7.gw-17", "plant-7.gw-17"},
		{"source and device", "{source}-{device}", modbus, "bus-a-meter-1", "bus-a-meter-1"},
		{"whole topic", "{mqtt.topic}", mqtt, "factory/hall 1//temp", "factory.hall_1..temp"},
		{"first level is 1", "{mqtt.topic.1}", mqtt, "factory", "factory"},
		{"level with a blank", "{mqtt.topic.2}", mqtt, "hall 1", "hall_1"},
		{"empty level", "{mqtt.topic.3}", mqtt, "", "_"},
		{"last level", "x{mqtt.topic.4}", mqtt, "xtemp", "xtemp"},
		{"level that is not there", "x{mqtt.topic.5}", mqtt, "x", "x"},
		{"no MQTT topic", "x{mqtt.topic}", modbus, "x", "x"},
		{"no device", "{device}", mqtt, "", "_"},
		{"dot", ".", mqtt, ".", "_"},
		{"two dots", "..", mqtt, "..", "__"},
		{"not ASCII", "wärme", mqtt, "wärme", "w__rme"},
		{"too long", strings.Repeat("a", 300), mqtt, strings.Repeat("a", 300), strings.Repeat("a", 249)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := mustTemplate(t, tt.text).append(nil, &tt.event)
			if string(got) != tt.want {
				t.Errorf("rendered %q, want %q", got, tt.want)
			}
			if name := legalTopic(got); name != tt.topic {
				t.Errorf("topic %q, want %q", name, tt.topic)
			}
		})
	}
}

// FuzzTemplate asks that whatever text is accepted renders to a legal topic.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{DefaultTopic, "{mqtt.topic.2}/{x}", "{{", "a}b", "{label.site}", "\xff{agent}"} {
		f.Add(s, "a/b/c")
	}
	f.Fuzz(func(t *testing.T, text, subject string) {
		tmpl, err := parseTemplate(text, "gw-17", map[string]string{"site": "plant-7"})
		if err != nil {
			return
		}
		e := drivers.Event{Class: "process", Source: "line", Subject: subject, Type: drivers.TypeMQTTMessage}
		name := legalTopic(tmpl.append(nil, &e))
		if len(name) < 1 || len(name) > 249 || name == "." || name == ".." {
			t.Fatalf("%q", name)
		}
		for i := range len(name) {
			if !isTopicByte(name[i]) {
				t.Fatalf("%q at %d", name, i)
			}
		}
	})
}
