package uplink

import (
	"fmt"
	"strconv"
	"strings"

	"sluice/drivers"
)

// placeholders is the list that error messages show.
const placeholders = "{agent} {class} {source} {device} {label.NAME} {mqtt.topic} {mqtt.topic.N}"

// maxTopic is the longest name of a topic that Kafka takes, in bytes.
const maxTopic = 249

// maxTopicLevel bounds N in {mqtt.topic.N}.
const maxTopicLevel = 128

type partKind uint8

const (
	partLiteral partKind = iota
	partClass
	partSource
	partDevice
	partMQTTTopic // all of it, or one level
)

// part is one piece of a template.
type part struct {
	kind  partKind
	text  string // of a literal
	level int    // of partMQTTTopic: from 1; 0: the whole topic
}

// template is a parsed topic or key. It is immutable.
type template struct {
	parts []part
}

// parseTemplate parses text. {agent} and {label.NAME} are fixed for the life of
// an uplink and become literals.
func parseTemplate(text, agent string, labels map[string]string) (template, error) {
	var t template
	for rest := text; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			t.literal(rest)
			break
		}
		t.literal(rest[:i])
		if rest[i] == '}' {
			return template{}, fmt.Errorf("%q: a } without a { before it", text)
		}
		name, after, ok := strings.Cut(rest[i+1:], "}")
		if !ok {
			return template{}, fmt.Errorf("%q: a { without a } after it", text)
		}
		if err := t.placeholder(name, agent, labels); err != nil {
			return template{}, fmt.Errorf("%q: %w", text, err)
		}
		rest = after
	}
	return t, nil
}

// parseTopic parses the template of a topic. What it says itself must be of what
// Kafka takes: only the values of placeholders are changed to fit, by legalTopic.
func parseTopic(text, agent string, labels map[string]string) (template, error) {
	t, err := parseTemplate(text, agent, labels)
	if err != nil {
		return template{}, err
	}
	if text == "." || text == ".." || len(text) > maxTopic && !strings.Contains(text, "{") {
		return template{}, fmt.Errorf("%q is no topic that Kafka takes (1 to %d of A-Z a-z 0-9 . _ -)", text, maxTopic)
	}
	for rest := text; rest != ""; {
		own, after, _ := strings.Cut(rest, "{")
		for i := range len(own) {
			if !isTopicByte(own[i]) {
				return template{}, fmt.Errorf("%q cannot be part of a Kafka topic (A-Z a-z 0-9 . _ - and placeholders)", own)
			}
		}
		_, rest, _ = strings.Cut(after, "}")
	}
	return t, nil
}

func (t *template) literal(s string) {
	if s != "" {
		t.parts = append(t.parts, part{kind: partLiteral, text: s})
	}
}

func (t *template) placeholder(name, agent string, labels map[string]string) error {
	switch name {
	case "agent":
		t.literal(agent)
		return nil
	case "class":
		t.parts = append(t.parts, part{kind: partClass})
		return nil
	case "source":
		t.parts = append(t.parts, part{kind: partSource})
		return nil
	case "device":
		t.parts = append(t.parts, part{kind: partDevice})
		return nil
	case "mqtt.topic":
		t.parts = append(t.parts, part{kind: partMQTTTopic})
		return nil
	}
	if label, ok := strings.CutPrefix(name, "label."); ok {
		value, ok := labels[label]
		if !ok {
			return fmt.Errorf("{%s}: the agent has no label %q (set agent.labels.%s)", name, label, label)
		}
		t.literal(value)
		return nil
	}
	if level, ok := strings.CutPrefix(name, "mqtt.topic."); ok {
		n, err := strconv.Atoi(level)
		if err != nil || n < 1 || n > maxTopicLevel {
			return fmt.Errorf("{%s}: %q is not a level (1 to %d)", name, level, maxTopicLevel)
		}
		t.parts = append(t.parts, part{kind: partMQTTTopic, level: n})
		return nil
	}
	return fmt.Errorf("{%s} is unknown (allowed: %s)", name, placeholders)
}

// empty reports whether t always renders to nothing.
func (t template) empty() bool { return len(t.parts) == 0 }

// append renders t for e behind dst. A placeholder that the event has nothing
// for renders to nothing.
func (t template) append(dst []byte, e *drivers.Event) []byte {
	for i := range t.parts {
		switch p := &t.parts[i]; p.kind {
		case partLiteral:
			dst = append(dst, p.text...)
		case partClass:
			dst = append(dst, e.Class...)
		case partSource:
			dst = append(dst, e.Source...)
		case partDevice:
			dst = append(dst, e.Device...)
		case partMQTTTopic:
			if e.Type == drivers.TypeMQTTMessage {
				dst = append(dst, topicLevel(e.Subject, p.level)...)
			}
		}
	}
	return dst
}

// topicLevel returns the level n of an MQTT topic, counted from 1; the whole
// topic for 0; nothing where the topic has fewer levels.
func topicLevel(topic string, n int) string {
	if n == 0 {
		return topic
	}
	for ; n > 1; n-- {
		_, after, ok := strings.Cut(topic, "/")
		if !ok {
			return ""
		}
		topic = after
	}
	level, _, _ := strings.Cut(topic, "/")
	return level
}

// legalTopic turns a rendered template into a name that Kafka takes: letters,
// digits, ".", "_" and "-", 1 to 249 of them, not "." or ".."
// (org.apache.kafka.common.internals.Topic).
func legalTopic(rendered []byte) string {
	name := make([]byte, 0, min(len(rendered), maxTopic))
	for _, c := range rendered[:min(len(rendered), maxTopic)] {
		switch {
		case c == '/':
			c = '.'
		case !isTopicByte(c):
			c = '_'
		}
		name = append(name, c)
	}
	if s := string(name); s != "" && s != "." && s != ".." {
		return s
	}
	return strings.Repeat("_", max(1, len(name)))
}

func isTopicByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}
