package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/agent/web"
)

// stream reads the agent's stream; each call of the returned function gives the
// next event.
func (p *plant) stream(t *testing.T, query string) func() web.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.http+"/api/v1/stream?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	return func() (x web.Event) {
		t.Helper()
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(text), &x); err != nil {
					t.Fatal(err)
				}
				return x
			}
		}
		t.Fatal("the stream ended:", lines.Err())
		return x
	}
}

func TestStreamShowsWhatPasses(t *testing.T) {
	p := newPlant(t)
	stop := p.start(t)
	bySource, byClass, byUplink := p.stream(t, "source=line"), p.stream(t, "class=alarm"), p.stream(t, "uplink=central&class=alarm")
	p.publish(t, "factory/1/temp", "cold")
	x := bySource()
	if x.Class != "process" || x.Subject != "factory/1/temp" || x.Payload == nil || *x.Payload != "cold" || x.Seq != 0 || x.Type != "sluice.mqtt.message.v1" {
		t.Errorf("source: %+v", x)
	}
	p.publish(t, "factory/1/alarm", "\xff\x00")
	if x = bySource(); x.Class != "alarm" {
		t.Errorf("source: %+v", x)
	}
	if x = byClass(); x.Class != "alarm" || x.Payload != nil || string(x.Base64) != "\xff\x00" {
		t.Errorf("class: %+v", x)
	}
	if x = byUplink(); x.Class != "alarm" || x.Seq != 1 || len(x.Incarnation) != 8 || x.Uplink != "central" {
		t.Errorf("uplink: %+v", x)
	}
	for query, want := range map[string]string{
		"source=x": `404 there is no source "x" (line)`, "class=x": `404 there is no class "x" (alarm, process`, "uplink=x": `404 there is no uplink "x" (central)`,
	} {
		if got := p.refusedStream(t, query); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", query, got)
		}
	}
	for range tapLimit - 3 {
		p.stream(t, "")
	}
	if got := p.refusedStream(t, ""); !strings.HasPrefix(got, "503 too many streams") {
		t.Error(got)
	}
	stop() // with the streams open
}

func (p *plant) refusedStream(t *testing.T, query string) string {
	t.Helper()
	resp, err := http.Get("http://" + p.http + "/api/v1/stream?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, _ := bufio.NewReader(resp.Body).ReadString('\n')
	return fmt.Sprintf("%d %s", resp.StatusCode, line)
}

func TestSlowWatcherMissesAndHoldsNobody(t *testing.T) {
	var all taps
	w, ok := all.watch(web.Filter{Class: "process"})
	if !ok {
		t.Fatal("refused")
	}
	for i := range tapQueue + 100 {
		all.pass(web.Event{Class: "process", Seq: uint64(i)})
		all.pass(web.Event{Class: "alarm"})
		all.pass(web.Event{Class: "process", Uplink: "central"})
	}
	if len(w.events) != tapQueue || w.missed.Load() != 100 {
		t.Errorf("%d waiting, %d missed", len(w.events), w.missed.Load())
	}
	all.close(w)
	if all.watched() {
		t.Error("still watched")
	}
}
