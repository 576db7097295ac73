package remote

import (
	"fmt"
	"strings"
	"testing"

	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
)

func parsed(t *testing.T, body string) *document.Document {
	t.Helper()
	d, err := document.Parse([]byte(doc{version: 1, body: body}.text()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAssemble(t *testing.T) {
	for name, tt := range map[string]struct {
		body   string
		locked []string
		want   map[string]string // by path; "": nothing is there
		kept   string
		wrong  string
	}{
		"patch": {"patch: { sources.bus-a.modbus.devices.meter-2.every: 2s, log.level: debug, agent.labels.site: null }", nil,
			map[string]string{"sources.bus-a.modbus.devices.meter-2.every": "2s", "sources.bus-a.modbus.devices.meter-2.unit": "4", "log.level": "debug",
				"agent.labels.site": "", "agent.labels.ring": "a", "agent.id": "gw-1"}, "[]", ""},
		"patch of what is locked": {"patch: { agent.data_dir: /tmp, log.level: debug }", []string{"agent.data_dir"},
			map[string]string{"agent.data_dir": "/data", "log.level": "debug"}, "[agent.data_dir]", ""},
		"patch of what is always locked": {"patch: { agent.id: gw-9, remote.threshold: 0, 'remote.trust[0]': y }", nil,
			map[string]string{"agent.id": "gw-1", "remote.threshold": "1", "remote.trust[0]": "x"}, "[agent.id remote.trust remote.threshold]", ""},
		"patch through a word":  {"patch: { version.x: 1 }", nil, nil, "", "no mapping"},
		"a config for many":     {"config: { version: 1, log: { level: warn } }", []string{"agent.data_dir", "log.format"}, map[string]string{"agent.id": "gw-1", "agent.labels.site": "p7", "agent.data_dir": "/data", "remote.uplink": "central", "sources": "", "log.level": "warn", "log.format": ""}, "[]", ""},
		"its own remote":        {"config: { remote: { uplink: dr, trust: [ z ], status_topic: s } }", nil, map[string]string{"remote.uplink": "dr", "remote.trust[0]": "x", "remote.status_topic": "s", "remote.threshold": "1"}, "[remote.trust]", ""},
		"its own labels":        {"config: { agent: { labels: { site: p9 } } }", nil, map[string]string{"agent.labels.site": "p9", "agent.labels.ring": "", "agent.id": "gw-1"}, "[]", ""},
		"locked and not there":  {"config: { observe: { http: x } }", []string{"observe"}, map[string]string{"observe": ""}, "[observe]", ""},
		"locked, a strange one": {"config: { version: 1 }", []string{"a..b"}, nil, "", "locked: path"},
	} {
		t.Run(name, func(t *testing.T) {
			text, kept, err := Assemble(parsed(t, tt.body), []byte(local), []byte(local), tt.locked)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("error %v, want %q", err, tt.wrong)
				}
				return
			}
			if err != nil || fmt.Sprint(kept) != tt.kept {
				t.Errorf("kept %v, want %s; %v", kept, tt.kept, err)
			}
			root, err := tree.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range tt.want {
				n, err := root.Lookup(path)
				if err != nil || (n == nil) != (want == "") || n != nil && n.Text != want {
					t.Errorf("%s is %+v, want %q in\n%s", path, n, want, text)
				}
			}
		})
	}
}

// A document cannot have the gateway run a program that its own file does not name.
func TestAssembleRunsNoForeignProgram(t *testing.T) {
	const asks = "kafka: { brokers: [ b:1 ], metered: { command: [ %s ], every: 10s } }"
	withOwn := func(program string) string {
		return strings.Replace(local, "version: 1\n", "version: 1\nuplinks: { central: { "+fmt.Sprintf(asks, program)+" } }\n", 1)
	}
	for name, tt := range map[string]struct{ file, wants, gets, kept string }{
		"the file has none":        {local, "/bin/evil", "", "[uplinks.central.kafka.metered.command]"},
		"the file has another":     {withOwn("/bin/own"), "/bin/evil", "/bin/own", "[uplinks.central.kafka.metered.command]"},
		"other arguments":          {withOwn("/bin/own"), "/bin/own, -c, evil", "/bin/own", "[uplinks.central.kafka.metered.command]"},
		"the file has that one":    {withOwn("/bin/own"), "/bin/own", "/bin/own", "[]"},
		"its name has a dot in it": {local, "/bin/evil", "", "[uplinks.a.b.kafka.metered.command]"},
	} {
		t.Run(name, func(t *testing.T) {
			uplink := "central"
			if strings.Contains(tt.kept, "a.b") {
				uplink = "a.b"
			}
			body := "config: { version: 1, uplinks: { " + uplink + ": { " + fmt.Sprintf(asks, tt.wants) + " } } }"
			text, kept, err := Assemble(parsed(t, body), []byte(tt.file), []byte(tt.file), nil)
			if err != nil || fmt.Sprint(kept) != tt.kept {
				t.Errorf("kept %v, want %s; %v", kept, tt.kept, err)
			}
			root, err := tree.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			n, err := root.Lookup("uplinks." + uplink + ".kafka.metered.command[0]")
			if err != nil || (n == nil) != (tt.gets == "") || n != nil && n.Text != tt.gets {
				t.Errorf("the command is %+v, want %q in\n%s", n, tt.gets, text)
			}
			if strings.Contains(string(text), "evil") {
				t.Errorf("the program is still there:\n%s", text)
			}
		})
	}
}

// The patch goes onto what runs, the locks hold what is in the file.
func TestAssembleOnAnotherRunningConfig(t *testing.T) {
	running := strings.ReplaceAll(local, "/data", "/elsewhere")
	running = strings.ReplaceAll(running, "every: 5s", "every: 7s")
	text, kept, err := Assemble(parsed(t, "patch: { log.level: debug }"), []byte(running), []byte(local), []string{"agent.data_dir"})
	if err != nil || len(kept) > 0 {
		t.Errorf("kept %v, %v", kept, err)
	}
	for _, want := range []string{"data_dir: /data\n", `every: "7s"`, "level: debug\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
