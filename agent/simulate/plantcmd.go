package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tellEvery is the pace at which a standing plant says what it did.
const tellEvery = 10 * time.Second

// plantOptions are the flags of the command plant.
type plantOptions struct {
	mqtt, modbus, kafka       string
	noMQTT, noModbus, noKafka bool
	machines                  int
	rate                      rateFlag
	writeConfig               string
}

// plantCommand reads the flags of the command plant.
func plantCommand(args []string, out, errs io.Writer) (func(context.Context) error, error) {
	set, parse := flags("plant", out, "A plant on this machine's loopback, until Ctrl-C. Port 0 picks a free port.")
	o := plantOptions{rate: 5}
	set.StringVar(&o.mqtt, "mqtt", "127.0.0.1:1883", "where the MQTT broker listens, `HOST:PORT`")
	set.StringVar(&o.modbus, "modbus", "127.0.0.1:1502,127.0.0.1:1503", "where the Modbus TCP meters listen, `HOST:PORT,…`")
	set.StringVar(&o.kafka, "kafka", "127.0.0.1:9092", "where the embedded Kafka listens, `HOST:PORT`")
	set.BoolVar(&o.noMQTT, "no-mqtt", false, "no MQTT broker and no machines")
	set.BoolVar(&o.noModbus, "no-modbus", false, "no Modbus meters")
	set.BoolVar(&o.noKafka, "no-kafka", false, "no Kafka: the config names the address of --kafka, where one has to be")
	set.IntVar(&o.machines, "machines", 20, "publishing machines")
	set.Var(&o.rate, "rate", "messages of each machine, `5/s`")
	set.StringVar(&o.writeConfig, "write-config", "", "write the agent's config into `FILE` instead of printing it")
	if err := parse(args); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return o.run(ctx, out, errs) }, nil
}

// check finds what is wrong before anything starts.
func (o plantOptions) check() error {
	if o.noMQTT && o.noModbus {
		return errors.New("--no-mqtt and --no-modbus leave nothing to read from")
	}
	if _, _, err := net.SplitHostPort(o.kafka); err != nil {
		return fmt.Errorf("--kafka: %q is no address (host:port)", o.kafka)
	}
	if o.noMQTT {
		return nil
	}
	_, err := NewMachines(o.machinesConfig("", nil))
	return err
}

func (o plantOptions) machinesConfig(broker string, log *slog.Logger) MachinesConfig {
	return MachinesConfig{
		Broker: broker, Count: o.machines, Rate: float64(o.rate),
		Run: time.Now().UTC().Format("20060102T150405"), Log: log,
	}
}

// plantConfig leaves out what the flags switch off.
func (o plantOptions) plantConfig() PlantConfig {
	var c PlantConfig
	if !o.noMQTT {
		c.MQTT = o.mqtt
	}
	if !o.noModbus {
		c.Modbus = strings.Split(o.modbus, ",")
	}
	if !o.noKafka {
		c.Kafka = o.kafka
	}
	return c
}

// run stands until ctx ends.
func (o plantOptions) run(ctx context.Context, out, errs io.Writer) error {
	p, err := NewPlant(o.plantConfig())
	if err != nil {
		return err
	}
	config, err := o.config(p)
	if err == nil && o.writeConfig != "" {
		err = writeNew(o.writeConfig, config)
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	o.describe(out, p, config)

	c, ctx := newCrew(ctx)
	c.start(ctx, p.Run)
	var machines *Machines
	if p.Broker != nil {
		log := slog.New(slog.NewTextHandler(errs, nil))
		if machines, err = NewMachines(o.machinesConfig(p.Broker.Addr(), log)); err != nil {
			return errors.Join(err, c.stop())
		}
		c.start(ctx, machines.Run)
	}
	c.start(ctx, func(ctx context.Context) error { return tellNow(ctx, out, p, machines) })
	return c.wait()
}

// config is one with which the agent runs on the plant.
func (o plantOptions) config(p *Plant) (string, error) {
	dir := "."
	if o.writeConfig != "" {
		dir = filepath.Dir(o.writeConfig)
	}
	data, err := filepath.Abs(filepath.Join(dir, "sluice-data"))
	if err != nil {
		return "", fmt.Errorf("the agent's data folder: %w", err)
	}
	c := agentConfig{
		comment: "An agent on the simulated plant. Written by sluice-simulate.\n",
		agent:   "gw-simulated", dataDir: data, meters: p.Meters,
		kafka: o.kafka, topic: "plant", http: "127.0.0.1:9273",
	}
	if p.Broker != nil {
		c.mqtt = p.Broker.Addr()
	}
	if p.Kafka != nil {
		c.kafka = p.Kafka.Addr()
	}
	return c.yaml(), nil
}

// describe prints what stands where.
func (o plantOptions) describe(out io.Writer, p *Plant, config string) {
	fmt.Fprintln(out, "A plant on this machine, until Ctrl-C:")
	if p.Broker != nil {
		fmt.Fprintf(out, "  MQTT broker  tcp://%s  %d machines publish %s each to factory/<line>/<machine>/telemetry and …/alarm, QoS 1\n",
			p.Broker.Addr(), o.machines, o.rate.String())
	}
	for _, m := range p.Meters {
		fmt.Fprintf(out, "  Modbus TCP   tcp://%s  %s, unit %d\n", m.Addr(), m.Name(), meterUnit)
	}
	if p.Kafka != nil {
		fmt.Fprintf(out, "  Kafka        %s  in memory; topics are made as they are asked for\n", p.Kafka.Addr())
	}
	if o.writeConfig != "" {
		fmt.Fprintf(out, "The config is in %s. In another terminal:  sluice run -c %s\n", o.writeConfig, o.writeConfig)
		return
	}
	fmt.Fprintf(out, "A config for it (--write-config FILE writes it):\n\n%s\n", config)
}

// tellNow says now and then what the plant has done.
func tellNow(ctx context.Context, out io.Writer, p *Plant, machines *Machines) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			line := now.Format(time.TimeOnly)
			if machines != nil {
				line += fmt.Sprintf("  %s messages published", thousands(machines.Confirmed()))
			}
			for _, m := range p.Meters {
				line += fmt.Sprintf("  %s: %s answers", m.Name(), thousands(m.Answers()))
			}
			if p.Broker != nil && p.Broker.Dropped() > 0 {
				line += fmt.Sprintf("  dropped by the broker: %s", thousands(uint64(p.Broker.Dropped())))
			}
			fmt.Fprintln(out, line)
		}
	}
}

// writeNew writes a file that must not exist, unless with this very content.
func writeNew(name, content string) error {
	if old, err := os.ReadFile(name); err == nil && string(old) == content {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("--write-config: %s exists and has another content: remove it or choose another name", name)
	}
	if err != nil {
		return fmt.Errorf("--write-config: %w", err)
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("--write-config: %w", err)
	}
	return nil
}
