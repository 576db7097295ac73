//go:build torture

package torture

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sluice/buffer"
	"sluice/drivers"
)

// manifest is what an undamaged directory holds.
type manifest struct {
	Shape       string
	Incarnation string
	Classes     map[string]*heldClass
}

type heldClass struct {
	Held  []uint64 // by number less 1: the event's id, heldGap, or 0 for nothing
	Files []heldFile
	Acked map[string]uint64 // by uplink
}

// heldGap stands for a gap record.
const heldGap = 1 << 63

type heldFile struct {
	Path        string // below the directory
	First, Last uint64
}

// shape is a way in which a directory came to be.
type shape struct {
	name    string
	classes []string
	events  int // of each class
	burst   int // events in a commit, about
	size    int
	segment int64

	clean    bool // stopped in order, else as a kill leaves it
	gaps     bool // drops and gap records among the events
	branches bool // its newest segment has branch pages
}

var shapes = []shape{
	{name: "big batches", classes: []string{"process"}, events: 500, burst: 40, size: 3000, segment: 256 << 10},
	{name: "big batches, clean", classes: []string{"process"}, events: 500, burst: 40, size: 3000, segment: 256 << 10, clean: true},
	// The newest segment keeps its small blocks, nearly 1 KiB and so few to a leaf that there are two levels of branch pages.
	{name: "commits of 1 KiB", classes: []string{"process"}, events: 1930, burst: 1, size: 680, segment: 1 << 20, branches: true},
	{name: "small commits, clean", classes: []string{"process"}, events: 3000, burst: 1, size: 60, segment: 256 << 10, clean: true, branches: true},
	{name: "commits of a page", classes: []string{"process"}, events: 500, burst: 1, size: 3000, segment: 512 << 10},
	{name: "two classes", classes: []string{"process", "alarm"}, events: 800, burst: 60, size: 1500, segment: 256 << 10},
	{name: "gap records", classes: []string{"process"}, events: 1600, burst: 50, size: 1500, segment: 256 << 10, gaps: true},
}

// config is the shape's while it is made; segments of less than 1 MiB come
// from KeepBytes, of which one is an eighth.
func (s shape) config(dir string) buffer.Config {
	c := buffer.Config{Dir: dir, Uplinks: map[string][]string{"central": nil, "dr": nil}, Segment: max(1<<20, s.segment)}
	for _, name := range s.classes {
		class := buffer.Class{Name: name, KeepBytes: 8 * s.segment}
		if s.gaps {
			class = buffer.Class{Name: name, KeepBytes: 1 << 20, WhenFull: buffer.DropOldest}
		}
		c.Classes = append(c.Classes, class)
	}
	return c
}

// original is a shape on disk: its files in data, its manifest, and a state
// file of its earlier days.
type original struct {
	shape    shape
	dir      string
	manifest *manifest
}

func (o *original) data() string     { return filepath.Join(o.dir, "data") }
func (o *original) oldState() string { return filepath.Join(o.dir, "state.old") }

// makeOriginal writes a shape.
func makeOriginal(t *testing.T, dir string, s shape) *original {
	t.Helper()
	o := &original{shape: s, dir: dir}
	made := filepath.Join(dir, "made")
	b, err := buffer.Open(s.config(made))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	for _, part := range [][2]int{{0, s.events / 2}, {s.events / 2, s.events}} {
		for n, class := range s.classes {
			fill(t, b, s, class, n, part[0], part[1])
		}
		readBoth(t, b, s, part[0] == 0)
		if part[0] == 0 {
			time.Sleep(10 * time.Millisecond) // the cursors ride along with the next commits
			copyFile(t, filepath.Join(made, "state"), o.oldState())
		}
	}
	if !s.clean {
		if err := copyDir(made, o.data()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	incarnation := b.Incarnation()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if s.clean {
		if err := copyDir(made, o.data()); err != nil {
			t.Fatal(err)
		}
	}
	o.manifest = list(t, o.data(), s, incarnation)
	if err := os.RemoveAll(made); err != nil {
		t.Fatal(err)
	}
	return o
}

// fill appends the events from until to of a class.
func fill(t *testing.T, b *buffer.Buffer, s shape, class string, producer, from, to int) {
	t.Helper()
	for from < to {
		n := min(s.burst, to-from)
		durable := make(chan error, n)
		for i := from; i < from+n; i++ {
			e := makeEvent(class, newID(1, producer, i), time.Now(), s.size+i%50)
			if err := b.Append(t.Context(), e, func(err error) { durable <- err }); err != nil {
				t.Fatal(err)
			}
		}
		for range n {
			if err := <-durable; err != nil {
				t.Fatal(err)
			}
		}
		from += n
	}
}

// readBoth lets dr read everything and acknowledge it the first time; where
// gap records are wanted central comes to what was dropped, and acknowledges
// nothing.
func readBoth(t *testing.T, b *buffer.Buffer, s shape, ack bool) {
	t.Helper()
	uplinks := []string{"dr"}
	if s.gaps {
		uplinks = append(uplinks, "central")
	}
	for _, uplink := range uplinks {
		rd, err := b.Reader(uplink)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]uint64{}
		for behind(b, at) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			batch, err := rd.Next(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			at[batch.Class] = batch.Last()
			if uplink == "dr" && ack {
				rd.Ack(batch.Class, batch.Last())
			}
		}
		rd.Close()
	}
}

// behind reports whether a class has numbers after those that were read.
func behind(b *buffer.Buffer, at map[string]uint64) bool {
	for class, st := range b.Stats().Classes {
		if at[class]+1 < st.Next {
			return true
		}
	}
	return false
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// list makes the manifest of a whole directory and writes it beside it.
func list(t *testing.T, dir string, s shape, incarnation string) *manifest {
	t.Helper()
	o, err := buffer.OpenOffline(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	m := &manifest{Shape: s.name, Incarnation: incarnation, Classes: map[string]*heldClass{}}
	reports, err := o.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		c := &heldClass{Acked: r.Cursors}
		m.Classes[r.Name] = c
		for _, f := range r.Segments {
			if f.Fault != "" {
				t.Fatalf("%s: %s", f.File, f.Fault)
			}
			c.Files = append(c.Files, heldFile{Path: f.File, First: f.First, Last: f.Last})
			for uint64(len(c.Held)) < f.Last {
				c.Held = append(c.Held, 0)
			}
		}
		err := o.Export(t.Context(), r.Name, func(_ string, seq uint64, e drivers.Event) error {
			if e.Type == buffer.TypeGap {
				c.Held[seq-1] = heldGap
				return nil
			}
			i, err := readEvent(r.Name, e)
			c.Held[seq-1] = uint64(i)
			return err
		}, func(f buffer.Finding) { t.Fatalf("%s: %s", f.File, f.What) })
		if err != nil {
			t.Fatal(err)
		}
	}
	m.check(t, s, dir)
	js, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(dir), "manifest.json"), js, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// check makes sure that the shape is what it is meant to be.
func (m *manifest) check(t *testing.T, s shape, dir string) {
	t.Helper()
	for _, name := range s.classes {
		c := m.Classes[name]
		if c == nil || len(c.Files) < 3 {
			t.Fatalf("%s: class %s has too few files: %+v", s.name, name, c.Files)
		}
		events, gaps := 0, 0
		for _, h := range c.Held {
			switch {
			case h&heldGap != 0:
				gaps++
			case h != 0:
				events++
			}
		}
		if !s.gaps && events != s.events || s.gaps && (gaps == 0 || events < 200) {
			t.Fatalf("%s: class %s holds %d events and %d gap records", s.name, name, events, gaps)
		}
		if c.Acked["central"] != 0 || c.Acked["dr"] == 0 {
			t.Fatalf("%s: class %s: cursors %v", s.name, name, c.Acked)
		}
		b, err := os.ReadFile(filepath.Join(dir, c.Files[len(c.Files)-1].Path))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(branches(b)); n == 0 && s.branches {
			t.Fatalf("%s: the newest segment of class %s has no branch page", s.name, name)
		}
		t.Logf("original %q, class %s: %d numbers, %d events, %d gap records in %d files, dr is at %d; %d branch pages in the newest",
			s.name, name, len(c.Held), events, gaps, len(c.Files), c.Acked["dr"], len(branches(b)))
	}
}
