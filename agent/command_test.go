package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sim "github.com/simonvetter/modbus"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/drivers/loopback"
	"sluice/drivers/modbus"
)

// registers are holding registers that can be written.
type registers struct {
	sim.RequestHandler
	mu  sync.Mutex
	all [16]uint16
}

func (r *registers) HandleHoldingRegisters(q *sim.HoldingRegistersRequest) ([]uint16, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(q.Addr)+int(q.Quantity) > len(r.all) {
		return nil, sim.ErrIllegalDataAddress
	}
	if q.IsWrite {
		copy(r.all[q.Addr:], q.Args)
	}
	return slices.Clone(r.all[q.Addr : q.Addr+q.Quantity]), nil
}

func (r *registers) at(i int) uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[i]
}

// ordered is an agent that takes commands, and what it published.
type ordered struct {
	*Commands
	agent     *Agent
	logs      *Logs
	written   *bytes.Buffer // of the log
	registers *registers
	restarts  int
	published map[string][]byte
	fail      error // of Publish
}

// Commands hides nothing: it is what remote config calls.
type Commands struct{ Commander }

// secrets are all that must stay on the gateway.
var secrets = []string{"mqtt-pass-1", "kafka-pass-2", "env-pass-3", "file-pass-4"}

func newOrdered(t *testing.T) *ordered {
	t.Helper()
	p := newPlant(t)
	o := &ordered{registers: &registers{}, published: map[string][]byte{}, written: &bytes.Buffer{}}
	addr := loopback.Addr(t)
	server, err := sim.NewServer(&sim.ServerConfiguration{URL: "tcp://" + addr, MaxClients: 8}, o.registers)
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	secret := filepath.Join(p.dir, "secret")
	if err := os.WriteFile(secret, []byte(secrets[3]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(key string) (string, bool) { return secrets[2], key == "PASS" }
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
version: 1
agent: { id: gw-1, data_dir: %s }
sources:
  line: { mqtt: { servers: [ "tcp://%s" ], username: u, password: %s, subscribe: [ { filter: "factory/#" } ] } }
  other: { mqtt: { servers: [ "tcp://%s" ], client_id: o, username: u, password: "${PASS}", subscribe: [ { filter: "none/#" } ] } }
  bus: { modbus: { connection: "tcp://%s", timeout: 30s, devices: { m: { unit: 1, every: 50ms, tags: {
    set: { read: holding, at: 3, type: int16, scale: 0.5, write: { min: 5, max: 30 } }, t: { read: holding, at: 0, type: int16 } } } } } }
uplinks:
  central: { kafka: { brokers: [ "%s" ] } }
  dr: { kafka: { brokers: [ "127.0.0.1:1" ], sasl: { mechanism: plain, username: u, password: %s } } }
  third: { kafka: { brokers: [ "127.0.0.1:1" ], sasl: { mechanism: plain, username: u, password: "${file:%s}" } } }
observe: { http: "%s" }
`, filepath.Join(p.dir, "data"), p.mqtt, secrets[0], p.mqtt, addr, p.kafka.ListenAddrs()[0], secrets[1], secret, p.http), config.Options{Env: env})
	if err != nil {
		t.Fatal(err)
	}
	o.logs = NewLogs(io.MultiWriter(t.Output(), o.written), cfg.Log)
	if o.agent, err = New(cfg, Options{Version: "test", Logs: o.logs}); err != nil {
		t.Fatal(err)
	}
	o.Commands = &Commands{o.agent.Commander(Surroundings{Restart: func() { o.restarts++ }, Updater: echo{}, Publish: o.publish})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.agent.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitPage(t, "http://"+p.http+"/readyz", "ok")
	waitPage(t, "http://"+p.http+"/metrics", `sluice_source_up{source="bus"} 1`)
	return o
}

func (o *ordered) publish(_ context.Context, key string, value []byte) error {
	o.published[key] = value
	return o.fail
}

// echo is an updater that says what it was told.
type echo struct{}

func (echo) Update(_ context.Context, args *tree.Node) (any, error) {
	return Afterwards{Result: map[string]string{"image": args.Get("image").Text}, Then: func() {}}, nil
}

// order carries out a command and returns its result as JSON.
func (o *ordered) order(t *testing.T, kind, args string, issued time.Time) (string, any, error) {
	t.Helper()
	cmd, err := document.ParseCommand(fmt.Appendf(nil, "id: c-1\ntarget: all\nissued: %s\nexpires: %s\nkind: %s\nargs: %s\n",
		issued.UTC().Format(time.RFC3339Nano), issued.UTC().Add(time.Minute).Format(time.RFC3339Nano), kind, args))
	if err != nil {
		t.Fatal(err)
	}
	result, err := o.Do(t.Context(), cmd)
	b, jerr := json.Marshal(result)
	if jerr != nil {
		t.Fatal(jerr)
	}
	return string(b), result, err
}

func TestCommands(t *testing.T) {
	o := newOrdered(t)
	now := time.Now()
	for _, tt := range []struct {
		kind, args string
		issued     time.Time
		want       string // in the result
		wrong      string // in the error
	}{
		{"modbus-write", "{ source: bus, device: m, tag: set, value: 21.5 }", now, `"registers":[43],"read_back":21.5`, ""},
		{"modbus-write", "{ source: bus, device: m, tag: set, value: 31 }", now, "", "refused"},
		{"modbus-write", "{ source: bus, device: m, tag: t, value: 21 }", now, "", "isn't declared as writable"},
		{"modbus-write", "{ source: bus, device: m, tag: set, value: 22 }", now.Add(-time.Minute / 2), "", "too late"},
		{"modbus-write", "{ source: line, device: m, tag: set, value: 22 }", now, "", `"line" is mqtt`},
		{"modbus-write", "{ source: x, device: m, tag: set, value: 22 }", now, "", `no source "x"`},
		{"replay", "{ class: process, uplink: central, from: 2h, to: 1h }", now, `"sent":0`, ""},
		{"replay", "{ class: process, uplink: central, from: 1h }", now, `"refused":0,"missing":0`, ""}, // the device may have been read already
		{"replay", "{ class: none, uplink: central, from: 1h }", now, "", `no class "none"`},
		{"update", "{ image: x }", now, `{"image":"x"}`, ""},
		{"restart", "{}", now, `{"restarts":true}`, ""},
	} {
		t.Run(tt.kind+" "+tt.args, func(t *testing.T) {
			got, result, err := o.order(t, tt.kind, tt.args, tt.issued)
			if tt.wrong == "" && err != nil || tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("error %v, want %q", err, tt.wrong)
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("result %s, want %s", got, tt.want)
			}
			if a, ok := result.(Afterwards); ok {
				a.Then()
			}
		})
	}
	if o.registers.at(3) != 43 {
		t.Errorf("the register holds %d", o.registers.at(3))
	}
	if o.restarts != 1 {
		t.Errorf("%d restarts", o.restarts)
	}
	bare := o.agent.Commander(Surroundings{})
	for kind, want := range map[string]string{"restart": "cannot start itself", "update": "has no updater", "nonsense": "not known"} {
		if _, err := bare.Do(t.Context(), &document.Command{Kind: kind}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := bare.Do(t.Context(), &document.Command{Kind: "modbus-write", Args: &tree.Node{Kind: tree.Mapping}}); err == nil || errors.Is(err, modbus.ErrRefused) {
		t.Errorf("without arguments: %v", err)
	}
}

func TestALogLevelGoesBack(t *testing.T) {
	o := newOrdered(t)
	got, _, err := o.order(t, "log-level", "{ level: debug, for: 1h }", time.Now())
	if err != nil || !strings.Contains(got, `"level":"debug"`) || !strings.Contains(got, `"then":"info"`) {
		t.Errorf("%s, %v", got, err)
	}
	o.agent.log.Debug("seen one")
	if _, _, err = o.order(t, "log-level", "{ level: error, for: 1s }", time.Now()); err != nil { // takes the place of the first
		t.Fatal(err)
	}
	o.agent.log.Info("not seen")
	for end := time.Now().Add(patience); !strings.Contains(o.logs.Recent(), "config's again"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the level does not go back")
		}
	}
	o.agent.log.Debug("not seen either")
	o.agent.log.Info("seen two")
	log := o.logs.Recent()
	for line, want := range map[string]bool{"seen one": true, "not seen": false, "seen two": true} {
		if strings.Contains(log, line) != want {
			t.Errorf("%q is in the log: %t", line, !want)
		}
	}
}

// Whatever the config holds, and whatever was logged, no secret leaves.
func TestDiagnosticsHoldNoSecret(t *testing.T) {
	o := newOrdered(t)
	got, _, err := o.order(t, "diagnostics", "{}", time.Now())
	if err != nil || !strings.Contains(got, `"key":"gw-1/diagnostics/0"`) {
		t.Fatal(got, err)
	}
	var parts []remote.Part
	for key, value := range o.published {
		var p remote.Part
		if err := json.Unmarshal(value, &p); err != nil || remote.IsStatusKey(key) {
			t.Fatal(key, err)
		}
		parts = append(parts, p)
	}
	packed, err := remote.Join("c-1", parts)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d packed, %d parts", len(text), len(packed), len(parts))
	for _, s := range secrets {
		if bytes.Contains(text, []byte(s)) {
			t.Errorf("the bundle holds %s", s)
		}
	}
	var b bundle
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	for what, has := range map[string]bool{
		"agent": b.Agent == "gw-1" && b.Command == "c-1", "status": b.Status.Sources["bus"].Up, "build": b.Build.Go != "" && b.Build.Kernel != "",
		"config": strings.Contains(b.Config, "connection:") && strings.Contains(b.Config, "***"), "log": strings.Contains(b.Log, "msg=running"),
		"metrics": strings.Contains(b.Metrics, "sluice_source_up{"), "goroutines": strings.Contains(b.Goroutines, "(*Agent).serve"),
		"files": slices.ContainsFunc(b.Files, func(f file) bool { return f.Path == "control.sock" }), "disk": b.Disk.TotalBytes > b.Disk.FreeBytes && b.Disk.FreeBytes > 0,
		"buffer": b.Buffer.Incarnation != "",
	} {
		if !has {
			t.Errorf("%s is not as it should be in %.3000s", what, text)
		}
	}
	o.fail = errors.New("no cluster")
	if _, _, err := o.order(t, "diagnostics", "{}", time.Now()); !errors.Is(err, o.fail) {
		t.Errorf("%v", err)
	}
}

func TestTheEndOfALogIsKept(t *testing.T) {
	var out bytes.Buffer
	r := &recent{out: &out}
	var all string
	for i := range 5000 {
		line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", i%60))
		all += line
		if n, err := r.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
		if i == 10 && r.text() != all {
			t.Errorf("before it is full: %q", r.text())
		}
	}
	kept := r.text()
	if out.String() != all || !strings.HasSuffix(all, kept) || len(kept) < recentBytes-100 || len(kept) > recentBytes || !strings.HasPrefix(kept, "line ") {
		t.Errorf("%d bytes kept of %d", len(kept), len(all))
	}
	if _, err := r.Write(bytes.Repeat([]byte("y"), 3*recentBytes)); err != nil || r.text() != "" {
		t.Errorf("one long line: %d bytes, %v", len(r.text()), err)
	}
}
