package modbus

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

var update = flag.Bool("update", false, "rewrite the want.jsonl of testcases/")

// The config file's form of a source, as far as the tests need it; the real
// one, with every problem by line, is the config package's.
type fileSource struct {
	Connection, Timeout string
	FrameGap            string `yaml:"frame_gap"`
	Retries             int
	Grouping            struct {
		MaxGap       int `yaml:"max_gap"`
		MaxRegisters int `yaml:"max_registers"`
		MaxBits      int `yaml:"max_bits"`
	}
	Breaker struct {
		OpenAfter  int `yaml:"open_after"`
		Retry, Max string
	}
	Profiles map[string]fileProfile
	Devices  yaml.MapSlice
}

type fileProfile struct {
	ByteOrder string `yaml:"byte_order"`
	Base      int
	Tags      yaml.MapSlice
}

type fileDevice struct {
	Unit           int
	Profile, Class string
	Every          string
	Tags           yaml.MapSlice
}

type fileTag struct {
	Read, Type, Unit, Class    string
	ByteOrder                  string `yaml:"byte_order"`
	At, Length                 int
	Scale, Offset              float64
	Deadband, Heartbeat, Every string
	Bit                        *int
	Bits                       string
	Map                        map[string]string
}

// decodeYAML reads v, which is YAML or was read from it, into out.
func decodeYAML(t *testing.T, v, out any) {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = yaml.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := yaml.UnmarshalWithOptions(data, out, yaml.Strict(), yaml.UseOrderedMap()); err != nil {
		t.Fatal(err)
	}
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// load makes a Config of a file with one source.
func load(t *testing.T, data []byte) Config {
	t.Helper()
	var file struct {
		Sources map[string]struct{ Modbus fileSource }
	}
	decodeYAML(t, data, &file)
	if len(file.Sources) != 1 {
		t.Fatalf("%d sources, want 1", len(file.Sources))
	}
	var c Config
	for name, source := range file.Sources {
		f := source.Modbus
		c = Config{
			Name: name, Connection: f.Connection, Timeout: duration(t, f.Timeout), Retries: f.Retries, FrameGap: duration(t, f.FrameGap),
			Grouping: Grouping(f.Grouping),
			Breaker:  Breaker{OpenAfter: f.Breaker.OpenAfter, Retry: duration(t, f.Breaker.Retry), Max: duration(t, f.Breaker.Max)},
		}
		for _, item := range f.Devices {
			var d fileDevice
			decodeYAML(t, item.Value, &d)
			profile := f.Profiles[d.Profile]
			profile.Tags = append(profile.Tags, d.Tags...)
			c.Devices = append(c.Devices, Device{
				Name: item.Key.(string), Unit: d.Unit, Every: duration(t, d.Every), Class: d.Class, Tags: loadTags(t, profile),
			})
		}
	}
	return c
}

func loadTags(t *testing.T, p fileProfile) (tags []Tag) {
	t.Helper()
	for _, item := range p.Tags {
		var f fileTag
		decodeYAML(t, item.Value, &f)
		width, percent := strings.CutSuffix(f.Deadband, "%")
		x := Tag{
			Name: item.Key.(string), Read: f.Read, At: f.At, Base: p.Base, Type: f.Type, Order: or(f.ByteOrder, p.ByteOrder),
			Scale: f.Scale, Offset: f.Offset, Length: f.Length, Unit: f.Unit,
			Heartbeat: duration(t, f.Heartbeat), Every: duration(t, f.Every), Class: f.Class, Bit: f.Bit,
		}
		for key, word := range f.Map {
			n, err := strconv.ParseInt(key, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if x.Map == nil {
				x.Map = map[int64]string{}
			}
			x.Map[n] = word
		}
		if f.Bits != "" {
			x.Bits = &BitRange{}
			if _, err := fmt.Sscanf(f.Bits, "%d-%d", &x.Bits.Low, &x.Bits.High); err != nil {
				t.Fatal(err)
			}
		}
		if width != "" {
			x.Deadband = Deadband{Width: parseFloat(t, width), Percent: percent, OnChange: true}
		}
		tags = append(tags, x)
	}
	return tags
}

// image is what a device holds: by table and first address, the bytes of
// registers in hex, or bits.
type image map[string]map[int]string

// answer answers a request from the image, as a device would.
func (m image) answer(t *testing.T, c net.Conn, req []byte) {
	area := table(req[7])
	at, count := int(binary.BigEndian.Uint16(req[8:])), int(binary.BigEndian.Uint16(req[10:]))
	cells := map[int]uint64{}
	digits := 4
	if area.bits() {
		digits = 1
	}
	for first, text := range m[area.String()] {
		text = strings.ReplaceAll(text, " ", "")
		for i := 0; i+digits <= len(text); i += digits {
			n, err := strconv.ParseUint(text[i:i+digits], 16, 16)
			if err != nil {
				t.Error(err)
			}
			cells[first+i/digits] = n
		}
	}
	data := make([]byte, answerBytes(req[7], count))
	for i := range count {
		n, ok := cells[at+i]
		if !ok {
			c.Write(frameOf(req, req[7]|exception, illegalAddress))
			return
		}
		if area.bits() {
			data[i/8] |= byte(n) << (i % 8)
		} else {
			binary.BigEndian.PutUint16(data[2*i:], uint16(n))
		}
	}
	c.Write(dataOf(req, data...))
}

func readFile(t *testing.T, parts ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestCases polls the device of each folder of testcases/ once and compares its
// readings, one a line, with want.jsonl. The time of all readings is the same.
func TestCases(t *testing.T) {
	folders, err := filepath.Glob("testcases/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no testcases: %v", err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			var device image
			decodeYAML(t, readFile(t, folder, "registers.yaml"), &device)
			c := load(t, readFile(t, folder, "config.yaml"))
			p := newPeer(t, func(c net.Conn, _ int, req []byte) { device.answer(t, c, req) }, nil)
			sink := newMemory()
			c.Connection, c.Sink = p.url(), sink
			s := start(t, c)
			until(t, "every group was polled", func() bool { return polled(s) })
			s.stop()
			var got strings.Builder
			for len(sink.events) > 0 {
				r := sink.next(t)
				at := r.event.Time.Format(timeLayout)
				value := strings.Replace(string(r.event.Payload), at, "2026-01-02T03:04:05.123456789Z", 1)
				fmt.Fprintf(&got, `{"class":%q,"value":%s}`+"\n", r.event.Class, value)
			}
			compare(t, filepath.Join(folder, "want.jsonl"), got.String())
		})
	}
}

// polled says that each group of the source had a poll.
func polled(s *running) bool {
	polls := 0
	for _, d := range s.Stats().Devices {
		for result, n := range d.Polls {
			if result != resultMissed {
				polls += int(n)
			}
		}
	}
	return polls == len(s.schedule.groups)
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(readFile(t, file)); got != want {
		t.Errorf("%s:\ngot\n%swant\n%s", file, got, want)
	}
}

func TestSampleIsSoundAndInTheReadme(t *testing.T) {
	sample := readFile(t, "sample.yaml")
	if !strings.Contains(string(readFile(t, "README.md")), "```yaml\n"+string(sample)+"```\n") {
		t.Error("README.md doesn't show sample.yaml as it is")
	}
	c := load(t, sample)
	c.Sink = newMemory()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.schedule.groups); n != 3 {
		t.Errorf("%d groups, want 3: meter-1 at 1s and 200ms, meter-2 at 5s", n)
	}
}
