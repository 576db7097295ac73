package simulate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// PlantConfig says which parts a plant has and where they listen. An address is
// host:port with a loopback host (the parts let everybody in, so they stay on
// this machine); port 0 picks a free one.
type PlantConfig struct {
	MQTT   string   // the MQTT broker; empty: none
	Modbus []string // the Modbus TCP devices, called meter-1, meter-2 …; empty: none
	Kafka  string   // the embedded Kafka; empty: none
	Ledger *Ledger  // notes what the meters serve; may be nil
}

// Plant is the standing part of a simulated plant: what the agent connects to.
type Plant struct {
	Broker *Broker  // nil if there is none
	Meters []*Meter // in the order of the config
	Kafka  *Kafka   // nil if there is none
}

// NewPlant takes all addresses, or none: an error names the address that can't
// be had and what to do. Nothing is served before Run; a plant that is never
// run must be closed.
func NewPlant(cfg PlantConfig) (*Plant, error) {
	p := &Plant{}
	if err := p.open(cfg); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Plant) open(cfg PlantConfig) error {
	if cfg.MQTT != "" {
		l, err := listen("mqtt", cfg.MQTT)
		if err != nil {
			return err
		}
		if p.Broker, err = newBroker(l); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	for i, addr := range cfg.Modbus {
		l, err := listen("modbus", addr)
		if err != nil {
			return err
		}
		p.Meters = append(p.Meters, newMeter(fmt.Sprintf("meter-%d", i+1), l, cfg.Ledger))
	}
	if cfg.Kafka != "" {
		l, err := listen("kafka", cfg.Kafka)
		if err != nil {
			return err
		}
		p.Kafka = newKafka(l)
	}
	return nil
}

// Close frees the addresses of a plant that was never run.
func (p *Plant) Close() error {
	var errs []error
	if p.Broker != nil {
		errs = append(errs, p.Broker.Close())
	}
	for _, m := range p.Meters {
		errs = append(errs, m.Close())
	}
	if p.Kafka != nil {
		errs = append(errs, p.Kafka.Close())
	}
	return errors.Join(errs...)
}

// Run serves all parts until ctx ends or one of them fails.
func (p *Plant) Run(ctx context.Context) error {
	c, ctx := newCrew(ctx)
	c.start(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil }) // an empty plant stands too
	if p.Broker != nil {
		c.start(ctx, p.Broker.Run)
	}
	for _, m := range p.Meters {
		c.start(ctx, m.Run)
	}
	if p.Kafka != nil {
		c.start(ctx, p.Kafka.Run)
	}
	return c.wait()
}

// listen binds a loopback address; flag is the flag that chose it.
func listen(flag, addr string) (net.Listener, error) {
	if err := checkLoopback(addr); err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	if addressInUse(err) {
		return nil, fmt.Errorf("--%s: %s is in use by another program: stop that one, or choose another address (port 0 picks a free one)", flag, addr)
	}
	return nil, fmt.Errorf("--%s: %w (choose another address; ports below 1024 need root)", flag, err)
}

func checkLoopback(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no address (host:port, 127.0.0.1:1883 for example)", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q: the port is no number from 0 to 65535", addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q isn't on this machine's loopback (127.0.0.1): the simulation lets everybody in, so it doesn't listen anywhere else", addr)
	}
	return nil
}
