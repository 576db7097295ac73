package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestExpansion(t *testing.T) {
	o := machine()
	x := &expander{env: o.Env, readFile: o.ReadFile}
	for text, want := range map[string]string{
		"plain":                          "plain",
		"${HOST}":                        "broker.example",
		"a-${HOST}-b-${N}":               "a-broker.example-b-2",
		"${NONE:-fallback}":              "fallback",
		"${EMPTY:-fallback}":             "fallback",
		"${EMPTY}":                       "",
		"${NONE:-}":                      "",
		"${NONE:-a:-b}":                  "a:-b",
		"${HOST:-fallback}":              "broker.example",
		"${DOLLAR}":                      "${HOST}",
		"$${HOST}":                       "${HOST}",
		"$$${HOST}":                      "$${HOST}",
		"a $5 {b} $ }":                   "a $5 {b} $ }",
		"${file:/run/secrets/mqtt}":      "hunter2",
		"x${file:/run/secrets/crlf}${N}": "xx2",
	} {
		if got, _, err := x.expand(text); err != nil || got != want {
			t.Errorf("%q gives %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestEscapeIsTheInverseOfExpansion(t *testing.T) {
	for _, text := range []string{"", "a", "${", "$${", "${HOST}", "$$${x", "$", "a$${b}${c}"} {
		if got, _, err := (&expander{}).expand(escape(text)); err != nil || got != text {
			t.Errorf("%q comes back as %q, %v", text, got, err)
		}
	}
}

func TestExpandedValuesFillEveryKind(t *testing.T) {
	c := mustParse(t, strings.Replace(minimal, "filter: a", `filter: "${HOST}/${N}", qos: "${N}"`, 1)+
		"buffer: { commit_delay: \"${N}s\", segment: \"${N}MiB\" }\n")
	s := c.Sources[0].MQTT.Subscribe[0]
	if s.Filter != "broker.example/2" || s.QoS != 2 || c.Buffer.Segment != 2<<20 || c.Buffer.CommitDelay != 2e9 {
		t.Errorf("got %+v, %+v", s, c.Buffer)
	}
}

// withSecret is a config with the secret in every place that is made for one,
// and a value that is not made for one out of a file.
func withSecret(password string) string {
	return fmt.Sprintf(`version: 1
sources: { m: { mqtt: { servers: [ "tcp://h:1883" ], username: "${file:/run/secrets/mqtt}", password: %q, subscribe: [ { filter: a } ] } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ], sasl: { mechanism: plain, username: u, password: %q } } } }
`, password, password)
}

func TestSecretsAreNeverShown(t *testing.T) {
	for name, password := range map[string]string{
		"literal":   "hunter2",
		"file":      "${file:/run/secrets/mqtt}",
		"default":   "${NONE:-hunter2}",
		"with a ${": "hunter2$${x}",
	} {
		t.Run(name, func(t *testing.T) {
			c := mustParse(t, withSecret(password))
			value, err := c.Sources[0].MQTT.Password.Value()
			if err != nil || !strings.Contains(value, "hunter2") {
				t.Fatalf("the password is %q, %v", value, err)
			}
			var logged bytes.Buffer
			slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "config", c.Sources[0].MQTT, "p", c.Sources[0].MQTT.Password)
			slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "config", c.Sources[0].MQTT.Password)
			p := c.Sources[0].MQTT.Password
			shown := string(c.YAML()) + fmt.Sprintf("%v %+v %#v %s %q %x", p, p, p, p, p, p) + fmt.Sprintf("%v %+v %#v", *c.Uplinks[0].Kafka.SASL, *c.Uplinks[0].Kafka.SASL, *c.Uplinks[0].Kafka.SASL)
			encoded, _ := json.Marshal(p) //nolint:staticcheck // that it has nothing to show is the point
			shown += string(encoded)
			if strings.Contains(shown, "hunter2") || strings.Contains(shown, fmt.Sprintf("%x", "hunter2")) {
				t.Errorf("the secret is shown in\n%s", shown)
			}
			if strings.Contains(strings.ReplaceAll(logged.String(), `"Username":"hunter2"`, ""), "hunter2") {
				t.Errorf("the secret is in the log\n%s", &logged)
			}
			if !strings.Contains(string(c.YAML()), `username: "${file:/run/secrets/mqtt}"`) {
				t.Errorf("a value from a file is not printed as its reference:\n%s", c.YAML())
			}
		})
	}
}

func TestProblemsNeverShowSecrets(t *testing.T) {
	archives, err := filepath.Glob("testdata/problems/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no cases found: %v", err)
	}
	for _, file := range archives {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "c.yaml:") && (strings.Contains(line, "topsecret") || strings.Contains(line, "hunter") || strings.Contains(line, "4711")) {
				t.Errorf("%s: %s", file, line)
			}
		}
	}
}

func TestSecretFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	// The path is relative to the config's folder.
	c, err := Parse(filepath.Join(dir, "c.yaml"), []byte(strings.ReplaceAll(withSecret("${file:password}"), "${file:/run/secrets/mqtt}", "u")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Uplinks[0].Kafka.SASL.Password
	for _, want := range []string{"first", "second"} {
		write(want + "\n")
		if got, err := p.Value(); err != nil || got != want {
			t.Errorf("the password is %q, %v; want %q", got, err, want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Value(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error is %v, want the file's name", err)
	}
}

// TestEqualTextsGiveEqualConfigs: a reload compares configs to find what changed.
func TestEqualTextsGiveEqualConfigs(t *testing.T) {
	read := func(text string) *Config {
		c, err := Parse("c.yaml", []byte(text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	text := strings.ReplaceAll(withSecret("secret"), "${file:/run/secrets/mqtt}", "u")
	a, b := read(text), read("# moved by a line\n"+text)
	if !reflect.DeepEqual(a.Sources, b.Sources) || !reflect.DeepEqual(a.Uplinks, b.Uplinks) {
		t.Error("equal texts differ")
	}
	if c := read(strings.ReplaceAll(text, "secret", "other")); reflect.DeepEqual(a.Uplinks, c.Uplinks) {
		t.Error("a changed password is not seen")
	}
}

func TestAgainReadsAFileAgain(t *testing.T) {
	machine := machine()
	user := "first\n"
	machine.ReadFile = func(string) ([]byte, error) {
		if user == "" {
			return nil, os.ErrNotExist
		}
		return []byte(user), nil
	}
	c, err := Parse("c.yaml", []byte(withSecret("x")), machine)
	if err != nil {
		t.Fatal(err)
	}
	for _, user = range []string{"first\n", "second\n"} {
		if got, err := c.Again("sources.m.mqtt.username", "old"); got != strings.TrimSpace(user) || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if got, err := c.Again("uplinks.k.kafka.sasl.username", "u"); got != "u" || err != nil {
		t.Errorf("a value of no file: %q, %v", got, err)
	}
	user = ""
	if got, err := c.Again("sources.m.mqtt.username", "old"); err == nil {
		t.Errorf("the file is gone: %q", got)
	}
}
