package buffer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sluice/drivers"
)

// Copies of rejected events are kept for people to look at: JSON lines in
// data_dir/rejected, appended and synced before the gap record that stands for
// the event. A full file becomes rejected.1, in place of the one before.
const (
	rejectedName  = "rejected"
	rejectedOld   = "rejected.1"
	rejectedBytes = 4 << 20 // of one file
)

// Rejected is the copy of an event that an uplink could not deliver.
type Rejected struct {
	At          time.Time `json:"at"` // when it was rejected
	Uplink      string    `json:"uplink"`
	Class       string    `json:"class"`
	Incarnation string    `json:"incarnation"`
	Seq         uint64    `json:"seq"`
	Time        time.Time `json:"time"`
	Source      string    `json:"source"`
	Device      string    `json:"device,omitempty"`
	Subject     string    `json:"subject"`
	Type        string    `json:"type"`
	ContentType string    `json:"content_type"`
	Payload     []byte    `json:"payload"`           // base64 in the file
	Omitted     int       `json:"omitted,omitempty"` // bytes of a payload that was too large to be kept
}

// Event is the event as it was taken.
func (r Rejected) Event() drivers.Event {
	return drivers.Event{Class: r.Class, Source: r.Source, Device: r.Device, Subject: r.Subject, Type: r.Type,
		ContentType: r.ContentType, Time: r.Time, Payload: r.Payload}
}

// keepRejected writes the copy of an event. What fails is logged: the gap record
// is what counts.
func (b *Buffer) keepRejected(l *lane, uplink string, seq uint64) {
	e, incarnation, err := l.event(seq)
	if err == nil {
		err = b.appendRejected(Rejected{At: time.Now().UTC(), Uplink: uplink, Class: l.class.Name, Incarnation: incarnation, Seq: seq,
			Time: e.Time.UTC(), Source: e.Source, Device: e.Device, Subject: e.Subject, Type: e.Type, ContentType: e.ContentType, Payload: e.Payload})
	}
	if err != nil {
		l.log.Warn("cannot keep a copy of a rejected event", "uplink", uplink, "seq", seq, "error", err)
	}
}

// event reads one event of the log.
func (l *lane) event(seq uint64) (drivers.Event, string, error) {
	b, s, _, err := l.look(seq)
	switch {
	case err != nil:
		return drivers.Event{}, "", err
	case len(b.Events) > 0 && b.First == seq:
		return b.Events[0], b.Incarnation, nil
	case s == nil:
		return drivers.Event{}, "", errNoMore
	}
	_, r, err := s.read(seq, l.codec)
	if err != nil {
		return drivers.Event{}, "", err
	}
	for i := range r.events {
		if r.seq(i) == seq {
			return r.events[i], r.incarnation, nil
		}
	}
	return drivers.Event{}, "", errNoMore
}

// appendRejected adds a line, durably, and begins a new file when this one is full.
func (b *Buffer) appendRejected(r Rejected) error {
	line, err := rejectedLine(r)
	if err != nil {
		return err
	}
	b.rejectedMu.Lock()
	defer b.rejectedMu.Unlock()
	path := filepath.Join(b.cfg.Dir, rejectedName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 && info.Size()+int64(len(line)) > rejectedBytes {
		if err = errors.Join(f.Close(), os.Rename(path, filepath.Join(b.cfg.Dir, rejectedOld))); err != nil {
			return err
		}
		f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(b.cfg.Dir))
}

// rejectedLine is r as a line, without the payload if it is too large. It begins
// with a line feed, too, so that one that a crash tore costs no other.
func rejectedLine(r Rejected) ([]byte, error) {
	line, err := json.Marshal(r)
	if len(line) > rejectedBytes-2 {
		r.Omitted, r.Payload = len(r.Payload), nil
		line, err = json.Marshal(r)
	}
	return append(append([]byte{'\n'}, line...), '\n'), err
}

// ReadRejected hands the copies of rejected events in dir to each, oldest first,
// and lines that cannot be read to bad. It may be called while an agent runs on
// dir. An error of each ends it.
func ReadRejected(dir string, each func(Rejected) error, bad func(Finding)) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("no buffer in %s: %w", dir, err)
	}
	for _, name := range []string{rejectedOld, rejectedName} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = readRejected(f, each, bad)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func readRejected(f *os.File, each func(Rejected) error, bad func(Finding)) error {
	in := bufio.NewReader(io.LimitReader(f, 2*rejectedBytes))
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var r Rejected
			if jsonErr := json.Unmarshal(line, &r); jsonErr != nil {
				bad(Finding{File: f.Name(), What: fmt.Sprintf("line %d cannot be read: %v", n, jsonErr)})
			} else if err := each(r); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
