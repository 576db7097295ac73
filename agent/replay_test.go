package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/agent/control"
)

// ask sends a replay to the agent's control socket and returns the last line.
func (p *plant) ask(t *testing.T, r control.ReplayRequest) control.ReplayProgress {
	t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := control.Client(filepath.Join(p.dir, "data")).Post("http://agent/v1/replay", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last control.ReplayProgress
	for dec := json.NewDecoder(resp.Body); !last.Done; {
		if err := dec.Decode(&last); err != nil {
			t.Fatal(resp.Status, err)
		}
	}
	return last
}

func TestReplayOverTheControlSocket(t *testing.T) {
	p := newPlant(t)
	p.retain = "1h"
	defer p.start(t)()
	began := time.Now()
	for i := range 5 {
		p.publish(t, "factory/1/temp", fmt.Sprint(i))
	}
	p.consume(t, "p7.process", 5)
	middle := time.Now()
	p.publish(t, "factory/1/temp", "later")
	p.consume(t, "p7.process", 6)

	got := p.ask(t, control.ReplayRequest{Class: "process", From: began, To: middle, Uplink: "central"})
	if got.Sent != 5 || got.Error != "" || got.Missing != 0 || !strings.HasPrefix(got.ID, "gw-1/") || got.At.Before(began) || got.At.After(middle) {
		t.Errorf("%+v", got)
	}
	again := map[string]int{}
	for _, r := range p.consume(t, "p7.process", 11) {
		again[string(r.Value)]++
		if last := r.Headers[len(r.Headers)-1]; (last.Key == "sluice_replay") != (again[string(r.Value)] == 2) {
			t.Errorf("%s has the header %s: %s", r.Value, last.Key, last.Value)
		}
	}
	if again["0"] != 2 || again["4"] != 2 || again["later"] != 1 {
		t.Errorf("%v", again)
	}
	got = p.ask(t, control.ReplayRequest{Class: "process", From: middle, To: middle.Add(time.Hour), Uplink: "central", Topic: "again.{class}"})
	if records := p.consume(t, "again.process", 1); got.Sent != 1 || string(records[0].Value) != "later" {
		t.Errorf("%+v", got)
	}
	for want, r := range map[string]control.ReplayRequest{
		`there is no class "x" (alarm, process`: {Class: "x", From: began, To: middle, Uplink: "central"},
		`there is no uplink "x" (central)`:      {Class: "process", From: began, To: middle, Uplink: "x"},
		`is empty`:                              {Class: "process", From: middle, To: began, Uplink: "central"},
		`topic `:                                {Class: "process", From: began, To: middle, Uplink: "central", Topic: "{x}"},
	} {
		if got := p.ask(t, r); !strings.Contains(got.Error, want) || got.Sent != 0 {
			t.Errorf("%+v, want %s", got, want)
		}
	}
}

func TestControlSocketIsForTheAgentsUserOnly(t *testing.T) {
	p := newPlant(t)
	p.dir = filepath.Join(p.dir, strings.Repeat("long", 30)) // longer than a socket's address
	socket := filepath.Join(p.dir, "data", control.SocketName)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second replaces what the first left
		stop := p.start(t)
		info, err := os.Lstat(socket)
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Fatal(info, err)
		}
		resp, err := control.Client(filepath.Dir(socket)).Post("http://agent/v1/replay", "application/json", strings.NewReader(`{"nonsense": 1}`))
		if err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Error(resp, err)
		}
		resp.Body.Close()
		resp, err = http.Get("http://" + p.http + "/v1/replay")
		if err != nil || resp.StatusCode != http.StatusNotFound {
			t.Error("it is served over TCP:", resp, err)
		}
		resp.Body.Close()
		stop()
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(socket), ".control-*")); len(left) > 0 {
			t.Error("left behind:", left)
		}
	}
	for dir, want := range map[string]string{filepath.Dir(socket): "no agent runs on", t.TempDir(): "no agent has run on"} {
		resp, err := control.Client(dir).Get("http://agent/")
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
}
