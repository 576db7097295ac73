package mqtt

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// What Mosquitto publishes of itself, mosquitto(8), BROKER STATUS.
const (
	sysVersion = "$SYS/broker/version"
	sysStored  = "$SYS/broker/store/messages/count"
	sysDropped = "$SYS/broker/publish/messages/dropped"
)

// visit is a short clean session that asks one thing after the other. It
// acknowledges what it is sent, so that nothing piles up for it at the broker, and
// keeps only what the broker says of itself.
type visit struct {
	net.Conn
	in      *bufio.Reader
	scratch []byte
	id      uint16
	sys     map[string]string
}

func newVisit(nc net.Conn) *visit {
	_ = nc.SetDeadline(time.Now().Add(probeTime)) // the caller closes nc when its time is over
	return &visit{Conn: nc, in: bufio.NewReaderSize(nc, readBuffer), sys: make(map[string]string)}
}

// connect sends CONNECT and waits for CONNACK, whose refusals are paho's errors.
func (v *visit) connect(cfg Config) error {
	c := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	c.ProtocolName, c.ProtocolVersion, c.CleanSession = "MQTT", protocolVersion, true
	c.ClientIdentifier, c.Keepalive = cfg.ClientID, uint16(probeTime/time.Second)
	user, password, err := cfg.credentials()
	if err != nil {
		return err
	}
	c.UsernameFlag, c.Username = user != "", user
	c.PasswordFlag, c.Password = password != "", []byte(password)
	body, err := v.ask(c, typeConnack)
	if err != nil {
		return err
	}
	if refused := packets.ConnErrors[body[1]]; refused != nil {
		return refused
	}
	if body[1] != 0 {
		return &protocolError{"an impossible CONNACK"}
	}
	return nil
}

// subscribe returns the return code of a filter and gives it up again at once.
func (v *visit) subscribe(filter string, qos byte) (byte, error) {
	v.id++
	s := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	s.MessageID, s.Topics, s.Qoss = v.id, []string{filter}, []byte{qos}
	body, err := v.ask(s, typeSuback)
	if err != nil {
		return 0, err
	}
	if strings.HasPrefix(filter, "$SYS/") {
		return body[2], nil
	}
	v.id++
	u := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	u.MessageID, u.Topics = v.id, []string{filter}
	_, err = v.ask(u, typeUnsuback)
	return body[2], err
}

// readSys reads what Mosquitto says of itself; other brokers say nothing there, or
// forbid it. The messages are retained, so they have come before the PINGRESP.
func (v *visit) readSys() error {
	for _, topic := range []string{sysVersion, sysStored, sysDropped} {
		if _, err := v.subscribe(topic, 0); err != nil {
			return err
		}
	}
	_, err := v.ask(packets.NewControlPacket(packets.Pingreq), typePingresp)
	return err
}

// ask sends a packet and returns the body of the answer.
func (v *visit) ask(p packets.ControlPacket, answer byte) ([]byte, error) {
	if err := p.Write(v); err != nil {
		return nil, err
	}
	for {
		h, err := readHeader(v.in)
		if err != nil {
			return nil, err
		}
		if answer == typeConnack && h.kind != typeConnack {
			return nil, errNotGreeted
		}
		if h.kind == typePublish {
			if err := v.take(h); err != nil {
				return nil, err
			}
			continue
		}
		frame, err := readControl(v.in, h)
		switch {
		case err != nil:
			return nil, err
		case h.kind == answer:
			return frame[2:], nil
		case h.kind != typePubrel:
			return nil, &protocolError{fmt.Sprintf("packet type %d, which nobody asked for", h.kind)}
		}
		if _, err := v.Write([]byte{typePubcomp << 4, 2, frame[2], frame[3]}); err != nil {
			return nil, err
		}
	}
}

// take acknowledges a message, and keeps it if the broker speaks of itself.
func (v *visit) take(h header) error {
	p, topic, scratch, err := readPublish(v.in, h, v.scratch)
	v.scratch = scratch
	if err != nil {
		return err
	}
	name := string(topic)
	if strings.HasPrefix(name, "$SYS/") && p.left <= maxBrokerTag {
		text := make([]byte, p.left)
		if _, err := io.ReadFull(v.in, text); err != nil {
			return err
		}
		v.sys[name] = cleanTopic(text, maxBrokerTag)
	} else if _, err := v.in.Discard(p.left); err != nil {
		return err
	}
	if p.malformed || p.qos == 0 {
		return nil
	}
	ack := ackFrame(p.qos, p.id)
	_, err = v.Write(ack[:])
	return err
}

// leave says goodbye, as far as the broker listens.
func (v *visit) leave() {
	_ = packets.NewControlPacket(packets.Disconnect).Write(v)
}
