package sparkplug

import (
	"errors"
	"strings"
)

// namespace is the first level of all topics, Sparkplug 3.0.0 §4.1.1.
const namespace = "spBv1.0"

// verb is a message type, Sparkplug 3.0.0 §4.1.3.
type verb string

const (
	nodeBirth     verb = "NBIRTH"
	nodeDeath     verb = "NDEATH"
	nodeData      verb = "NDATA"
	nodeCommand   verb = "NCMD"
	deviceBirth   verb = "DBIRTH"
	deviceDeath   verb = "DDEATH"
	deviceData    verb = "DDATA"
	deviceCommand verb = "DCMD"
	hostState     verb = "STATE"
)

// device says whether topics of the verb have a device.
func (v verb) device() bool { return v[0] == 'D' }

func (v verb) birth() bool   { return v == nodeBirth || v == deviceBirth }
func (v verb) command() bool { return v == nodeCommand || v == deviceCommand }

// errTopic is a topic that no Sparkplug message has.
var errTopic = errors.New("the topic is not spBv1.0/GROUP/TYPE/NODE or spBv1.0/GROUP/TYPE/NODE/DEVICE")

// address is a topic's meaning, Sparkplug 3.0.0 §4.1.
type address struct {
	verb                verb
	group, node, device string
}

// parseTopic reads spBv1.0/GROUP/TYPE/NODE[/DEVICE] and spBv1.0/STATE/HOST, which
// was STATE/HOST before version 3.
func parseTopic(topic string) (address, error) {
	levels := strings.Split(topic, "/")
	for _, level := range levels {
		if level == "" {
			return address{}, errTopic
		}
	}
	switch {
	case len(levels) == 2 && levels[0] == string(hostState), len(levels) == 3 && levels[0] == namespace && levels[1] == string(hostState):
		return address{verb: hostState}, nil
	case len(levels) < 4 || len(levels) > 5 || levels[0] != namespace:
		return address{}, errTopic
	}
	a := address{group: levels[1], verb: verb(levels[2]), node: levels[3]}
	switch a.verb {
	case nodeBirth, nodeDeath, nodeData, nodeCommand:
	case deviceBirth, deviceDeath, deviceData, deviceCommand:
	default:
		return address{}, errTopic
	}
	if a.verb.device() != (len(levels) == 5) {
		return address{}, errTopic
	}
	if len(levels) == 5 {
		a.device = levels[4]
	}
	return a, nil
}

// key names the edge node: only group and node together are unique, Sparkplug
// 3.0.0 §4.1.4.
func (a address) key() string { return a.group + "/" + a.node }

// name is what the event's Device is.
func (a address) name() string {
	if a.device == "" {
		return a.node
	}
	return a.node + "/" + a.device
}

// command is the topic for commands to the edge node, Sparkplug 3.0.0 §4.2.1.4.
func (a address) command() string {
	return namespace + "/" + a.group + "/" + string(nodeCommand) + "/" + a.node
}
