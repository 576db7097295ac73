package agent

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"sluice/agent/config"
	"sluice/buffer"
	"sluice/drivers"
	"sluice/drivers/modbus"
	"sluice/drivers/mqtt"
	"sluice/uplink"
)

// Shares of agent.memory_limit. What is left is for the runtime, the libraries
// and what is being compressed.
const (
	bufferShare = 4  // a quarter for queues and hot tails of all classes
	queueShare  = 16 // a sixteenth for each MQTT source's queue
	namesShare  = 16 // a sixteenth for the metrics' names of each MQTT source that decodes Sparkplug
	windowShare = 16 // a sixteenth for each uplink's window, 4 MiB at most
)

// bufferConfig has a lane for each class and a cursor for each uplink. Its place
// depends on agent.data_dir and on names alone.
func bufferConfig(cfg *config.Config) buffer.Config {
	c := buffer.Config{
		Dir: cfg.Agent.DataDir, Uplinks: routes(cfg), Removed: givenUp(cfg),
		CommitDelay: cfg.Buffer.CommitDelay, SpillAfter: cfg.Buffer.SpillAfter, Segment: int64(cfg.Buffer.Segment), MinFree: float64(cfg.Buffer.MinFree),
		Memory: int64(cfg.Agent.MemoryLimit) / bufferShare,
	}
	for _, cl := range cfg.Classes {
		c.Classes = append(c.Classes, buffer.Class{Name: cl.Name, Priority: cl.Priority, KeepBytes: int64(cl.Keep.Bytes),
			KeepAge: cl.Keep.Age, Retain: cl.Retain, Thin: cl.WhenFull.Thin, WhenFull: buffer.WhenFull(cl.WhenFull.Word)})
	}
	return c
}

// sourceKey changes when the source has to be made anew.
func sourceKey(cfg *config.Config, name string) string {
	return fmt.Sprint(cfg.Digest("sources."+name), cfg.Agent.ID, cfg.Agent.MemoryLimit)
}

// uplinkConfig is what an uplink of the config makes of it, without a reader.
func uplinkConfig(cfg *config.Config, u *config.Uplink, log *slog.Logger) (uplink.Config, error) {
	tls, err := TLS(u.Kafka.TLS, log.With("uplink", u.Name))
	if err != nil {
		return uplink.Config{}, fmt.Errorf("kafka.tls: %w", err)
	}
	c := uplink.Config{
		Name: u.Name, Agent: cfg.Agent.ID, Labels: cfg.Agent.Labels, Brokers: u.Kafka.Brokers, TLS: tls,
		Topic: u.Kafka.Topic, Key: u.Kafka.Key, Compression: u.Kafka.Compression,
		MaxRate: int64(u.Kafka.MaxRate), Always: u.Kafka.Always, ExactlyOnce: u.Kafka.Delivery == "exactly_once", PositionTopic: u.Kafka.PositionTopic,
		WindowBytes: int(min(uplink.DefaultWindowBytes, int64(cfg.Agent.MemoryLimit)/windowShare)), Log: log,
	}
	if c.Link, err = openingOf(u.Kafka, log.With("uplink", u.Name)); err != nil {
		return uplink.Config{}, fmt.Errorf("kafka: %w", err)
	}
	if c.SASL, err = Login(u.Kafka.SASL, log.With("uplink", u.Name)); err != nil {
		return uplink.Config{}, fmt.Errorf("kafka.sasl.%w", err)
	}
	return c, nil
}

// makeSource makes a source, which connects to nothing before it is run.
func (a *Agent) makeSource(cfg *config.Config, c *config.Source) (s source, err error) {
	s = source{name: c.Name, kind: "mqtt", key: sourceKey(cfg, c.Name)}
	if c.MQTT != nil {
		s.driver, err = a.mqttSource(cfg, c.Name, c.MQTT)
		for _, sub := range c.MQTT.Subscribe {
			s.classes = append(s.classes, sub.Class)
		}
	} else {
		s.kind = "modbus"
		s.driver, err = a.modbusSource(cfg, c.Name, c.Modbus)
		for j := range c.Modbus.Devices {
			for _, t := range c.Modbus.Resolve(&c.Modbus.Devices[j]) {
				s.classes = append(s.classes, t.Class)
			}
			s.classes = append(s.classes, c.Modbus.Devices[j].Class)
		}
	}
	if err != nil {
		return s, fmt.Errorf("sources.%s: %w", c.Name, err)
	}
	slices.Sort(s.classes)
	s.classes = slices.Compact(s.classes)
	return s, nil
}

// sink is the way into the buffer for sources.
func (a *Agent) sink() drivers.Sink { return tappedSink{a.gate, &a.taps} }

func (a *Agent) mqttSource(cfg *config.Config, name string, c *config.MQTT) (*mqtt.Source, error) {
	m, err := mqttConfig(cfg, name, c, a.log)
	if err != nil {
		return nil, err
	}
	m.Sink, m.OnRefused = a.sink(), func(r mqtt.Refusal) { a.reports.refused(name, r) }
	return mqtt.New(m)
}

// encrypts says whether some server of an MQTT source speaks TLS.
func encrypts(servers []string) bool {
	return slices.ContainsFunc(servers, func(s string) bool { return strings.HasPrefix(s, "ssl:") || strings.HasPrefix(s, "wss:") })
}

// mqttConfig is what a source of the config makes of it, without a sink.
func mqttConfig(cfg *config.Config, name string, c *config.MQTT, log *slog.Logger) (mqtt.Config, error) {
	tls, err := clientTLS(c.TLS, log.With("source", name))
	if err != nil {
		return mqtt.Config{}, fmt.Errorf("mqtt.tls: %w", err)
	}
	if !encrypts(c.Servers) {
		tls = nil // settings for servers that are not there (yet)
	}
	m := mqtt.Config{
		Name: name, Servers: c.Servers, ClientID: c.ClientID, KeepAlive: c.KeepAlive,
		SessionDir: filepath.Join(cfg.Agent.DataDir, "mqtt"),
		Decode:     c.Decode, NameBytes: int(cfg.Agent.MemoryLimit / namesShare), MaxPayload: int64(c.MaxPayload),
		NoRebirth:  c.Sparkplug != nil && !c.Sparkplug.Rebirth,
		QueueBytes: max(int64(cfg.Agent.MemoryLimit)/queueShare, 2*int64(c.MaxPayload)),
		Log:        log,
	}
	if tls != nil {
		m.TLS = tls.connect
	}
	if c.Username != "" {
		m.Username = func() (string, error) { return cfg.Again("sources."+name+".mqtt.username", c.Username) }
	}
	if c.Password.IsSet() {
		m.Password = c.Password.Value
	}
	for _, s := range c.Subscribe {
		m.Subscriptions = append(m.Subscriptions, mqtt.Subscription{Filter: s.Filter, QoS: byte(s.QoS), Class: s.Class})
	}
	return m, nil
}

func (a *Agent) modbusSource(cfg *config.Config, name string, c *config.Modbus) (*modbus.Source, error) {
	m, err := modbusConfig(name, c, a.log)
	if err != nil {
		return nil, err
	}
	m.Sink, m.ObservePoll, m.StateDir = a.sink(), a.meters.poll(name), filepath.Join(cfg.Agent.DataDir, "modbus")
	return modbus.New(m)
}

// modbusConfig resolves profiles into devices. The driver takes 0 for "the
// default", the config file has its defaults filled in: 0 there means none.
func modbusConfig(name string, c *config.Modbus, log *slog.Logger) (modbus.Config, error) {
	tls, err := TLS(c.TLS, log.With("source", name))
	if err != nil {
		return modbus.Config{}, fmt.Errorf("modbus.tls: %w", err)
	}
	m := modbus.Config{
		Name: name, Connection: c.Connection, TLS: tls, Timeout: c.Timeout, Retries: orNone(c.Retries), FrameGap: c.FrameGap, Log: log.With("source", name),
		Grouping: modbus.Grouping{MaxGap: orNone(c.Grouping.MaxGap), MaxRegisters: c.Grouping.MaxRegisters, MaxBits: c.Grouping.MaxBits},
		Breaker:  modbus.Breaker{OpenAfter: orNone(c.Breaker.OpenAfter), Retry: c.Breaker.Retry, Max: c.Breaker.Max},
	}
	for i := range c.Devices {
		d := &c.Devices[i]
		limits := c.Limits(d)
		dev := modbus.Device{Name: d.Name, Unit: d.Unit, Every: d.Every, Class: d.Class, Heartbeat: d.Heartbeat,
			Grouping: modbus.Grouping{MaxGap: orNone(limits.MaxGap), MaxRegisters: limits.MaxRegisters, MaxBits: limits.MaxBits}}
		for _, t := range c.Resolve(d) {
			dev.Tags = append(dev.Tags, modbusTag(&t))
		}
		m.Devices = append(m.Devices, dev)
	}
	return m, nil
}

func modbusTag(t *config.ResolvedTag) modbus.Tag {
	tag := modbus.Tag{Name: t.Name, Read: t.Read, At: t.At, Base: t.Base, Type: t.Type, Order: t.ByteOrder, Scale: t.Scale,
		Offset: t.Offset, Length: t.Length, Unit: t.Unit, Bit: t.Bit, Map: t.Words(), Missing: t.Missing, Heartbeat: t.Heartbeat, Every: t.Every, Class: t.Class}
	if low, high, ok := t.BitRange(); ok {
		tag.Bits = &modbus.BitRange{Low: low, High: high}
	}
	if t.Deadband != nil {
		tag.Deadband = modbus.Deadband{Width: t.Deadband.Value, Percent: t.Deadband.Percent, OnChange: t.Deadband.Value == 0}
	}
	if w := t.Write; w != nil {
		tag.Write = &modbus.Write{Min: w.Min, Max: w.Max, Expire: w.Expire}
	}
	return tag
}

func orNone(n int) int {
	if n == 0 {
		return modbus.None
	}
	return n
}
