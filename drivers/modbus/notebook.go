package modbus

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// What is learned is written at most once in saveEvery, and at the stop: flash
// wears, and what a device refuses for a moment at its start isn't worth a write.
const (
	saveEvery   = time.Minute
	notesFormat = 1
	maxNotes    = 16 << 20 // bytes of a file that is read
)

// notebook keeps the lessons of all devices of a source over restarts, in one JSON
// file. A file that can't be used is forgotten: what it says is learned anew.
type notebook struct {
	file       string // empty: nothing is kept
	connection string
	log        *slog.Logger
	looked     time.Time // whether there is something to write
	writing    *sync.WaitGroup
	busy       *atomic.Bool
}

// notesFile is the form of the file.
type notesFile struct {
	Format  int                    `json:"format"`
	Devices map[string]notesDevice `json:"devices"`
}

type notesDevice struct {
	Map     string         `json:"map"` // of which register map this is true
	Refused []notesRefusal `json:"refused,omitempty"`
	Cuts    []notesCut     `json:"cuts,omitempty"`
}

type notesRefusal struct {
	Tag         string    `json:"tag"`
	Reason      string    `json:"reason"`
	WaitSeconds float64   `json:"wait_seconds"`
	Next        time.Time `json:"next"`
}

type notesCut struct {
	Table string    `json:"table"`
	At    int       `json:"at"`
	Until time.Time `json:"until"`
}

func newNotebook(dir, source, connection string, log *slog.Logger) notebook {
	m := notebook{connection: connection, log: log, writing: &sync.WaitGroup{}, busy: &atomic.Bool{}}
	if dir != "" {
		m.file = filepath.Join(dir, url.PathEscape(source)+".json")
	}
	return m
}

// mapOf is the hash of everything on which the lessons of a device depend: where
// it is, what is read and within which limits.
func (m *notebook) mapOf(d *device) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d %+v\n", m.connection, d.unit, d.limits)
	for _, t := range d.tags {
		fmt.Fprintf(h, "%q %d %d %d\n", t.name, t.table, t.at, t.count)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// load gives the devices what the file says of them.
func (m *notebook) load(devices []*device) {
	m.looked = time.Now()
	if m.file == "" {
		return
	}
	f, err := m.read()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		m.log.Warn("what was known of the devices' addresses is forgotten, and learned anew", slog.String("file", m.file), slog.Any("error", err))
		return
	}
	now := time.Now()
	for _, d := range devices {
		known, ok := f.Devices[d.name]
		if ok && known.Map == m.mapOf(d) {
			known.teach(d, now)
		}
	}
}

func (m *notebook) read() (f notesFile, err error) {
	info, err := os.Stat(m.file)
	if err != nil {
		return f, err
	}
	if info.Size() > maxNotes {
		return f, fmt.Errorf("it has %d bytes (%d at most)", info.Size(), maxNotes)
	}
	data, err := os.ReadFile(m.file)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, err
	}
	if f.Format != notesFormat {
		return f, fmt.Errorf("its format is %d, not %d", f.Format, notesFormat)
	}
	return f, nil
}

// refusedReasons are those of refused.
var refusedReasons = [2]string{"exception-2", "exception-3"}

// teach gives d the lessons. Times are brought within their bounds: the clock may
// have been set since.
func (known notesDevice) teach(d *device, now time.Time) {
	for _, r := range known.Refused {
		wait := min(max(time.Duration(r.WaitSeconds*float64(time.Second)), firstRetry), longestRetry)
		for _, t := range d.tags {
			if t.name == r.Tag && (r.Reason == refusedReasons[0] || r.Reason == refusedReasons[1]) {
				d.lessons.refused[t] = &refusal{reason: r.Reason, wait: wait, next: now.Add(min(max(r.Next.Sub(now), 0), wait))}
			}
		}
	}
	for _, c := range known.Cuts {
		area, ok := tables[c.Table]
		if left := min(c.Until.Sub(now), cutsKept); ok && left > 0 {
			d.lessons.cuts[cut{area, c.At}] = now.Add(left)
		}
	}
}

// keep writes the file in the background if something was learned and it is time.
func (m *notebook) keep(devices []*device, now time.Time) {
	if m.file == "" || now.Sub(m.looked) < saveEvery {
		return
	}
	m.looked = now
	if !changed(devices) || !m.busy.CompareAndSwap(false, true) {
		return
	}
	data := m.encode(devices)
	m.writing.Go(func() {
		defer m.busy.Store(false)
		m.write(data)
	})
}

// end writes what wasn't written yet.
func (m *notebook) end(devices []*device) {
	m.writing.Wait()
	if m.file != "" && changed(devices) {
		m.write(m.encode(devices))
	}
}

func changed(devices []*device) bool {
	for _, d := range devices {
		if d.lessons.changed {
			return true
		}
	}
	return false
}

// encode makes the content of the file.
func (m *notebook) encode(devices []*device) []byte {
	f := notesFile{Format: notesFormat, Devices: map[string]notesDevice{}}
	for _, d := range devices {
		d.lessons.changed = false
		one := notesDevice{Map: m.mapOf(d)}
		for _, t := range d.tags {
			if r := d.lessons.refused[t]; r != nil {
				one.Refused = append(one.Refused, notesRefusal{t.name, r.reason, r.wait.Seconds(), r.next.UTC().Round(0)})
			}
		}
		for c, until := range d.lessons.cuts {
			one.Cuts = append(one.Cuts, notesCut{c.table.String(), c.at, until.UTC().Round(0)})
		}
		if len(one.Refused)+len(one.Cuts) > 0 {
			f.Devices[d.name] = one
		}
	}
	data, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		m.log.Warn("what is known of the devices' addresses can't be written as JSON", slog.Any("error", err))
	}
	return data
}

// write replaces the file: after a crash it is the old one or the new one.
func (m *notebook) write(data []byte) {
	dir := filepath.Dir(m.file)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = writeDurably(m.file, data)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		m.log.Warn("what is known of the devices' addresses can't be kept; after a restart it is learned anew", slog.String("file", m.file), slog.Any("error", err))
	}
}

func writeDurably(file string, data []byte) error {
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, file)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
