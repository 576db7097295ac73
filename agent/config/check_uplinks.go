package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// partUplinks moves what is declared as removed from the uplinks to Removed.
func (d *decoder) partUplinks() {
	c := d.cfg
	left := c.Uplinks[:0]
	for _, u := range c.Uplinks {
		if !u.Removed {
			left = append(left, u)
			continue
		}
		c.Removed = append(c.Removed, u.Name)
		for _, f := range fieldsOf(reflect.TypeFor[Uplink]()) {
			at := join(join("uplinks", u.Name), f.key)
			if _, given := c.where[at]; given && f.key != "removed" {
				d.wrong(at, "does not go together with removed: true", "nothing else in an uplink that is removed")
			}
		}
	}
	if c.Uplinks = left; len(left) == 0 && len(c.Removed) > 0 {
		d.wrong("uplinks", "holds only removed uplinks", "at least one that is not, such as central: { kafka: … }")
	}
}

func (d *decoder) checkUplink(u *Uplink, used []string) {
	path := join("uplinks", u.Name)
	d.checkFailover(u, path+".failover")
	if u.Kafka != nil {
		d.checkKafka(u.Kafka, used, path+".kafka")
		d.checkOpening(u, path)
	}
}

func (d *decoder) checkKafka(k *Kafka, used []string, path string) {
	for i, broker := range k.Brokers {
		d.checkAddress(index(path+".brokers", i), broker, "host:port; Kafka's usual port is 9092", false)
	}
	d.checkTLS(k.TLS, path+".tls")
	if k.SASL != nil {
		d.checkSASL(k.SASL, path+".sasl")
	}
	d.checkTemplate(path+".topic", k.Topic, true)
	d.checkTemplate(path+".key", k.Key, false)
	if !isTopicText(k.PositionTopic) || len(k.PositionTopic) > maxTopic {
		d.wrong(path+".position_topic", d.show(path+".position_topic", k.PositionTopic)+" cannot be a Kafka topic", "1 to 249 of A-Z a-z 0-9 . _ -")
	}
	d.checkRate(k, path)
	if k.LiveShare > 0 && k.Delivery == "exactly_once" {
		d.wrong(path+".live_share", "does not go together with delivery exactly_once", "0%, or at_least_once")
	}
	seen := map[string]bool{}
	for i, class := range k.Classes {
		at := index(path+".classes", i)
		switch {
		case seen[class]:
			d.wrong(at, d.show(at, class)+" is there twice", "each class once")
		case class != SecurityClass && d.cfg.Class(class) == nil && !slices.Contains(used, class):
			d.wrong(at, d.show(at, class)+" is not a class that is used or declared",
				"a class of a source, or one of classes: "+names(d.cfg.Classes, func(c Class) string { return c.Name }))
		}
		seen[class] = true
	}
}

// minMaxRate is the lowest bound of a link, in bytes per second.
const minMaxRate Size = 1 << 10

// transactionTime is how many seconds the largest message may take in a transaction.
const transactionTime = 20

func (d *decoder) checkRate(k *Kafka, path string) {
	path += ".max_rate"
	if k.MaxRate == 0 {
		return
	}
	if k.MaxRate < minMaxRate {
		d.wrong(path, d.show(path, k.MaxRate.String())+" is too little", "1KiB or more, or 0: unlimited")
	}
	for i := range d.cfg.Sources {
		m := d.cfg.Sources[i].MQTT
		if m != nil && k.Delivery == "exactly_once" && k.MaxRate < m.MaxPayload/transactionTime {
			d.wrong(path, fmt.Sprintf("is too little for exactly_once: a message of %s from source %s would take longer than a transaction may", m.MaxPayload, d.cfg.Sources[i].Name),
				fmt.Sprintf("%s or more, or a smaller max_payload there", m.MaxPayload/transactionTime))
		}
	}
}

// placeholderForms says what stands between braces in a topic or key.
const placeholderForms = "{agent} {class} {source} {device} {label.NAME} {mqtt.topic} {mqtt.topic.N}"

// maxTopic is how long the name of a topic may be: Kafka's
// org.apache.kafka.common.internals.Topic.MAX_NAME_LENGTH.
const maxTopic = 249

// checkTemplate checks the placeholders of a topic or key; a topic's own text
// must be of what Kafka allows.
func (d *decoder) checkTemplate(path, template string, topic bool) {
	switch {
	case topic && template == "":
		d.wrong(path, "is empty", "a topic such as sluice.{class}")
	case topic && (template == "." || template == ".."):
		d.wrong(path, d.show(path, template)+" is no name that Kafka takes", "a topic such as sluice.{class}")
	}
	fixed := 0 // bytes of text
	for rest := template; rest != ""; {
		text, after, open := strings.Cut(rest, "{")
		if fixed += len(text); topic && fixed > maxTopic {
			d.wrong(path, fmt.Sprintf("is longer than a Kafka topic may be: %d characters or more", fixed), fmt.Sprintf("at most %d", maxTopic))
			return
		}
		if strings.Contains(text, "}") {
			d.wrong(path, "has a } without its {", placeholderForms)
		} else if topic && text != "" && !isTopicText(text) {
			d.wrong(path, fmt.Sprintf("%s cannot be part of a Kafka topic", d.show(path, text)), "A-Z a-z 0-9 . _ - and "+placeholderForms)
		}
		if !open {
			return
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed {
			d.wrong(path, "has a { without its }", placeholderForms)
			return
		}
		d.checkPlaceholder(path, name)
		rest = tail
	}
}

func (d *decoder) checkPlaceholder(path, name string) {
	if label, ok := strings.CutPrefix(name, "label."); ok {
		if _, ok := d.cfg.Agent.Labels[label]; !ok {
			d.wrong(path, d.show(path, label)+" is not a label of this agent", "one of agent.labels")
		}
		return
	}
	if level, ok := strings.CutPrefix(name, "mqtt.topic."); ok {
		if n, err := strconv.Atoi(level); err != nil || n < 1 || n > 128 {
			d.wrong(path, d.show(path, "{"+name+"}")+" is not a level of the topic", "{mqtt.topic.1} to {mqtt.topic.128}")
		}
		return
	}
	if !slices.Contains([]string{"agent", "class", "source", "device", "mqtt.topic"}, name) {
		d.wrong(path, d.show(path, "{"+name+"}")+" is not a known placeholder", placeholderForms)
	}
}

// isTopicText says whether s is of the characters of a Kafka topic.
func isTopicText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '.' && !isName(string(r)) })
}
