package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrBusy is what View.Stream returns while too many watch.
var ErrBusy = errors.New("too many streams")

const (
	streamBeat  = 15 * time.Second // a comment on a quiet stream, so that both ends notice a dead connection
	streamWrite = 10 * time.Second // a reader that takes nothing for so long is let go
)

// Filter chooses events; an empty field means all. Without an uplink they are
// events as they are committed, with one as that uplink reads them to send them.
type Filter struct{ Source, Class, Uplink string }

// Takes says whether x is wanted.
func (f Filter) Takes(x Event) bool {
	return f.Uplink == x.Uplink && (f.Source == "" || f.Source == x.Source) && (f.Class == "" || f.Class == x.Class)
}

// Stream is a look at passing events. Close must be called; Events stays open.
type Stream struct {
	Events <-chan Event
	Missed func() uint64 // how many were left out because the reader was slow
	Close  func()
}

// serveStream answers with server-sent events (HTML Living Standard, §9.2): each
// event as one "data:" line of JSON, and an event "missed" with the total of those
// that were left out.
func serveStream(view View, stop <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		s, err := view.Stream(Filter{Source: q.Get("source"), Class: q.Get("class"), Uplink: q.Get("uplink")})
		if err != nil {
			code := http.StatusNotFound
			if errors.Is(err, ErrBusy) {
				code = http.StatusServiceUnavailable
			}
			head(w, "text/plain; charset=utf-8")
			w.WriteHeader(code)
			fmt.Fprintln(w, err)
			return
		}
		defer s.Close()
		head(w, "text/event-stream")
		out := streamWriter{w, http.NewResponseController(w)}
		beat := time.NewTicker(streamBeat)
		defer beat.Stop()
		ok := out.write(": sluice\n\n")
		for missed := uint64(0); ok; {
			select {
			case x := <-s.Events:
				ok = out.event(x)
				if n := s.Missed(); ok && n != missed {
					missed = n
					ok = out.write("event: missed\ndata: %d\n\n", n)
				}
			case <-beat.C:
				ok = out.write(":\n\n")
			case <-r.Context().Done():
				return
			case <-stop:
				return
			}
		}
	}
}

// streamWriter writes to one reader; false means that it has gone.
type streamWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s streamWriter) event(x Event) bool {
	text, err := json.Marshal(x)
	return err == nil && s.write("data: %s\n\n", text)
}

func (s streamWriter) write(format string, args ...any) bool {
	if s.control.SetWriteDeadline(time.Now().Add(streamWrite)) != nil {
		return false
	}
	_, err := fmt.Fprintf(s.w, format, args...)
	return err == nil && s.control.Flush() == nil
}
