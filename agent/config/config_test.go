package config

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// minimal is the smallest useful config.
const minimal = `version: 1
sources: { m: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
`

// machine is what the test configs find around them.
func machine() Options {
	env := map[string]string{"HOST": "broker.example", "EMPTY": "", "PORT": "70000", "N": "2", "INJECT": "a\nqos: 2", "DOLLAR": "${HOST}"}
	files := map[string]string{
		"/run/secrets/mqtt": "hunter2\n", "/run/secrets/number": "4711\n", "/run/secrets/crlf": "x\r\n",
		"/run/…": "hunter3", "/run/big": strings.Repeat("x", maxFileValue+1),
		"…": "hunter3", "ca.pem": "pem", "c.pem": "pem", "k.pem": "pem", "/etc/sluice/ca.pem": "pem",
	}
	return Options{
		Env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
		},
		Hostname: func() (string, error) { return "gw 17.local", nil },
	}
}

// parseAll parses with everything that this version does not build allowed.
func parseAll(text string) (*Config, Problems) {
	o := machine()
	d := newDecoder("c.yaml", o)
	d.all = true
	d.run([]byte(text), o.Hostname)
	d.problems.sort()
	return d.cfg, d.problems
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("c.yaml", []byte(text), machine())
	if err != nil {
		t.Fatalf("the config has problems:\n%v", err)
	}
	return c
}

// lines are the problems of a config, one a line.
func lines(err error) string {
	if err == nil {
		return ""
	}
	return err.Error() + "\n"
}

// TestProblems reads testdata/problems: for each NAME.yaml the exact problems
// are in NAME.want. An archive whose name starts with "later" is read as a
// version would that builds everything.
func TestProblems(t *testing.T) {
	archives, err := filepath.Glob("testdata/problems/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no cases found: %v", err)
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { testArchive(t, file) })
	}
}

func testArchive(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wants, got := map[string]string{}, &txtar.Archive{Comment: archive.Comment}
	for _, f := range archive.Files {
		wants[f.Name] = string(f.Data)
	}
	for _, f := range archive.Files {
		name, ok := strings.CutSuffix(f.Name, ".yaml")
		if !ok {
			continue
		}
		have := problemsOf(f.Data, strings.HasPrefix(filepath.Base(file), "later"))
		got.Files = append(got.Files, f, txtar.File{Name: name + ".want", Data: []byte(have)})
		t.Run(name, func(t *testing.T) {
			if want := wants[name+".want"]; have != want && !*update {
				t.Errorf("problems:\n%swant:\n%s", have, want)
			}
			if have == "" {
				t.Error("a case without a problem")
			}
		})
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func problemsOf(data []byte, all bool) string {
	if all {
		_, problems := parseAll(string(data))
		return lines(problems)
	}
	_, err := Parse("c.yaml", data, machine())
	return lines(err)
}

func TestUnreadableText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"byte order mark": {"\xef\xbb\xbfversion: 1\n", "c.yaml:1:1: the file starts with a byte order mark (save it as UTF-8 without BOM)"},
		"UTF-16":          {"\xff\xfev\x00", "c.yaml:1:1: the file is UTF-16 (save it as UTF-8)"},
		"Latin-1":         {"version: 1\n# caf\xe9\n", "c.yaml:2:6: the file is not UTF-8 (save it as UTF-8)"},
		"NUL":             {"version: \x001\n", "c.yaml:1:10: the file holds a NUL byte (text in UTF-8)"},
		"too large":       {strings.Repeat("# x\n", maxFile/4+1), "c.yaml:1:1: the file is larger than 1MiB (a config of at most 1MiB)"},
		"deep lists":      {strings.Repeat("[", 100000), "c.yaml:1:65: is nested too deeply (at most 64 levels)"},
		"deep mappings":   {strings.Repeat("{a: ", 100000), "c.yaml:1:257: is nested too deeply (at most 64 levels)"},
		"deep dashes":     {strings.Repeat("- ", 100000), "c.yaml:1:129: is nested too deeply (at most 64 levels)"},
		"many tags":       {strings.Repeat("!a ", 100000), "c.yaml:1:129: is nested too deeply (at most 64 levels)"},
		"many keys":       {strings.Repeat("a: b\n", maxKeys+1), "c.yaml:1:1: the file has 20001 keys and list items (at most 20000)"},
		"many items":      {strings.Repeat("-\n", maxKeys+1), "c.yaml:1:1: the file has 20001 keys and list items (at most 20000)"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := problemsOf([]byte(c.text), false); got != c.want+"\n" {
				t.Errorf("problems:\n%swant:\n%s", got, c.want)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ file, want string }{
		"missing": {filepath.Join(dir, "none.yaml"), "no such file"},
		"folder":  {dir, "it is not a regular file"},
		"foreign": {"/etc/sluice/foreign.yaml", "root and the agent's user may read it: sudo"},
	} {
		t.Run(name, func(t *testing.T) {
			var o Options
			if name == "foreign" { // root may read everything
				o.ReadFile = func(path string) ([]byte, error) {
					return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
				}
			}
			_, err := Load(c.file, o)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) {
				t.Errorf("problems:\n%v\nwant one with %q and the file's name", err, c.want)
			}
		})
	}
}

func TestSmallestConfigHasTheDefaults(t *testing.T) {
	c := mustParse(t, minimal)
	m, k := c.Sources[0].MQTT, c.Uplinks[0].Kafka
	for name, got := range map[string][2]any{
		"agent.id":     {c.Agent.ID, "gw-17.local"},
		"data_dir":     {c.Agent.DataDir, "/var/lib/sluice"},
		"memory_limit": {c.Agent.MemoryLimit, Size(64 << 20)},
		"client_id":    {m.ClientID, "sluice-gw-17.local-m"},
		"keep_alive":   {m.KeepAlive, 30 * time.Second},
		"qos":          {m.Subscribe[0].QoS, 1},
		"class":        {m.Subscribe[0].Class, "process"},
		"decode":       {m.Decode, "raw"},
		"max_payload":  {m.MaxPayload, Size(1 << 20)},
		"classes": {c.Classes, []Class{{Name: "process", Priority: 10, Keep: Keep{Bytes: 1 << 30}, WhenFull: WhenFull{Word: "block"}},
			{Name: "security", Priority: 50, Keep: Keep{Bytes: 16 << 20, Age: 720 * time.Hour}, WhenFull: WhenFull{Word: "drop_oldest"}}}},
		"buffer":         {c.Buffer, Buffer{CommitDelay: 20 * time.Millisecond, Segment: 16 << 20, MinFree: 0.05}},
		"kafka":          {*k, Kafka{Brokers: []string{"h:9092"}, Topic: "sluice.{class}", Delivery: "at_least_once", PositionTopic: "sluice.positions", Compression: "zstd", Timezone: "UTC"}},
		"observe.http":   {c.Observe.HTTP, "127.0.0.1:9273"},
		"log":            {c.Log, Log{Level: "info", Format: "text"}},
		"remote":         {c.Remote, (*Remote)(nil)},
		"password unset": {m.Password.IsSet(), false},
	} {
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Errorf("%s: %+v, want %+v", name, got[0], got[1])
		}
	}
}

func TestFullExampleHasOnlyWhatIsNotAvailable(t *testing.T) {
	text, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := problemsOf(text, false)
	const want = `c.yaml:50:1: pipeline: is not available in this version (allowed: leave it out)
`
	if got != want {
		t.Errorf("problems:\n%swant:\n%s", got, want)
	}
	if _, problems := parseAll(string(text)); len(problems) > 0 {
		t.Errorf("a version that builds everything finds:\n%v", problems)
	}
}

// TestFullExamplePrints compares the printed form of the full example with
// testdata/full.printed.yaml, and reads it back.
func TestFullExamplePrints(t *testing.T) {
	text, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, problems := parseAll(string(text))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	printed := c.YAML()
	golden(t, "testdata/full.printed.yaml", printed)
	again, problems := parseAll(string(printed))
	if len(problems) > 0 || !bytes.Equal(again.YAML(), printed) {
		t.Errorf("the printed config does not read back:\n%v", problems)
	}
}

// golden compares with a file, or rewrites it under -update.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; go test ./agent/config -update rewrites it. Now:\n%s", file, got)
	}
}

func TestClassesThatAreUsedExist(t *testing.T) {
	c := mustParse(t, strings.Replace(minimal, "filter: a", "filter: a, class: own", 1))
	if own := c.Class("own"); own == nil || own.Priority != 10 || own.Keep.Bytes != 1<<30 || own.WhenFull.Word != "block" {
		t.Errorf("class own is %+v, want the defaults", own)
	}
	if c.Class("process") != nil {
		t.Error("class process exists, and nothing uses it")
	}
}

func TestSecurityIsAClassOfItsOwn(t *testing.T) {
	for classes, want := range map[string]bool{"": true, ", classes: [ process, security ]": true, ", classes: [ process ]": false} {
		c := mustParse(t, strings.Replace(minimal, `"h:9092" ]`, `"h:9092" ]`+classes, 1))
		if got := c.Class(SecurityClass) != nil; got != want {
			t.Errorf("with %q: class security is there: %v", classes, got)
		}
	}
	c := mustParse(t, minimal+"classes: { security: { priority: 7 } }\n")
	if s := c.Class(SecurityClass); s.Priority != 7 || s.Keep.Bytes != 1<<30 {
		t.Errorf("declared: %+v", s)
	}
}

func TestFileOrderIsKept(t *testing.T) {
	c := mustParse(t, minimal+"classes: { z: {}, a: {}, process: {}, m: {} }\n")
	var got []string
	for _, class := range c.Classes {
		got = append(got, class.Name)
	}
	if want := []string{"z", "a", "process", "m", "security"}; !reflect.DeepEqual(got, want) {
		t.Errorf("classes %v, want %v", got, want)
	}
}

func TestHostNamesBecomeIDs(t *testing.T) {
	for host, want := range map[string]string{
		"gw-1": "gw-1", "Gérät 7": "G-r-t-7", "-x.": "x", strings.Repeat("a", 80): strings.Repeat("a", 64),
	} {
		if got := sanitise(host); got != want {
			t.Errorf("%q becomes %q, want %q", host, got, want)
		}
	}
	o := machine()
	o.Hostname = func() (string, error) { return "", errors.New("none") }
	_, err := Parse("c.yaml", []byte(minimal), o)
	if want := "c.yaml:1:1: agent.id: is missing, and the host name cannot serve (" + nameForms + ")\n"; lines(err) != want {
		t.Errorf("problems:\n%swant:\n%s", lines(err), want)
	}
}

func TestRelativePathsStartAtTheConfig(t *testing.T) {
	text := strings.Replace(minimal, "brokers:", "tls: { ca: ca.pem }, brokers:", 1) + "agent: { data_dir: data }\n"
	c, err := Parse("/etc/sluice/sluice.yaml", []byte(text), machine())
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Uplinks[0].Kafka.TLS.CA; got != "/etc/sluice/ca.pem" {
		t.Errorf("ca is %s", got)
	}
	if got := c.Agent.DataDir; got != "/etc/sluice/data" {
		t.Errorf("data_dir is %s", got)
	}
}

// TestRelativeConfigInAFolder: a config that is itself named by a relative path with
// a folder finds the files beside it, each looked for once.
func TestRelativeConfigInAFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("site", 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(minimal, "brokers:",
		`tls: { ca: ca.pem }, sasl: { mechanism: plain, username: u, password: "${file:pw}" }, brokers:`, 1)
	for name, content := range map[string]string{"c.yaml": text, "ca.pem": "pem", "pw": "geheim"} {
		if err := os.WriteFile(filepath.Join("site", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(filepath.Join("site", "c.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Uplinks[0].Kafka.TLS.CA, filepath.Join("site", "ca.pem"); got != want {
		t.Errorf("ca is %s, want %s", got, want)
	}
	if got, err := c.Uplinks[0].Kafka.SASL.Password.Value(); got != "geheim" || err != nil {
		t.Errorf("the password is %q, %v", got, err)
	}
}
