package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"sluice/agent/web"
)

// passing is a view of an agent on which events pass.
type passing struct {
	web.View
	events chan web.Event
	missed uint64
}

func (p passing) Metrics(io.Writer) {}
func (p passing) Status() web.Status {
	return web.Status{Agent: "gw", Sources: map[string]web.Source{"line": {}, "both": {}}, Classes: map[string]web.Class{"process": {}},
		Uplinks: map[string]web.Uplink{"central": {}, "both": {}}}
}
func (p passing) Stream(f web.Filter) (*web.Stream, error) {
	if f == (web.Filter{}) {
		return nil, web.ErrBusy
	}
	out := make(chan web.Event, len(p.events)+1)
	for range len(p.events) {
		x := <-p.events
		x.Source, x.Class, x.Uplink = f.Source, f.Class, f.Uplink
		out <- x
	}
	return &web.Stream{Events: out, Missed: func() uint64 { return p.missed }, Close: func() {}}, nil
}

func serve(t *testing.T, view web.View) string {
	t.Helper()
	s, err := web.Listen("127.0.0.1:0", view, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s.Addr()
}

func TestTap(t *testing.T) {
	for _, c := range []struct {
		args, want, err string
		status          int
	}{
		{"line --count 2", `"class":"","seq":1,"time":"0001-01-01T00:00:00Z","source":"line"`, "", exitOK},
		{"process --count 1", `"class":"process","seq":1`, "", exitOK},
		{"uplink:both --count 1", `"uplink":"both"`, "", exitOK},
		{"source:both --count 2", `"source":"both"`, "sluice tap: 7 events left out so far", exitOK},
		{"both", "", `tap: "both" is the name of a source and of a uplink: say source:both`, exitUsage},
		{"nothing", "", `the agent has no source, class or uplink "nothing"`, exitUsage},
		{"class:line", "", `the agent has no source, class or uplink "class:line"`, exitUsage},
		{"line --count -1", "", "--count is negative", exitUsage},
	} {
		view := passing{events: make(chan web.Event, 3), missed: 7}
		for i := range 3 {
			view.events <- web.Event{Seq: uint64(i + 1)}
		}
		var out, errs bytes.Buffer
		args := append([]string{"tap", "--addr", serve(t, view)}, strings.Fields(c.args)...)
		status := Main(t.Context(), Process{Args: args, Out: &out, Err: &errs, Env: func(string) (string, bool) { return "", false }})
		if status != c.status || !strings.Contains(out.String(), c.want) || !strings.Contains(errs.String(), c.err) {
			t.Errorf("%s: status %d\n%s%s", c.args, status, out.String(), errs.String())
		}
	}
}

func TestTapOfNoAgent(t *testing.T) {
	var out, errs bytes.Buffer
	status := Main(t.Context(), Process{Args: []string{"tap", "--addr", "127.0.0.1:1", "x"}, Out: &out, Err: &errs, Env: func(string) (string, bool) { return "", false }})
	if want := "is it running?"; status != exitFailed || !strings.Contains(errs.String(), want) {
		t.Errorf("status %d, %s", status, fmt.Sprint(errs.String()))
	}
}
