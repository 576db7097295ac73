//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// reading is the value of a Modbus record.
type reading struct {
	Device string
	Time   string
	Values map[string]any
	Bad    map[string]string
}

// readings is what arrived from the devices of modbus_server.py.
type readings struct {
	t         *testing.T
	before    registers // of the first server
	after     registers // of the second
	gone      time.Time // when the first server could not be reached any more; zero: it is there
	good, bad int       // readings of meter-1; bad ones since then
	slow      int       // bad ones of before that: somebody took longer than the time-out
	recovered int       // good ones of the second server
	probes    int       // good readings of probe-1
	stopping  bool      // the agent may end within a poll
	wrong     int
	reason    string // why the tags of meter-1 were bad while the server was away
	lastSeq   map[string]uint64
}

// modbusReadings polls a server over Modbus TCP.
func modbusReadings(t *testing.T, k *kafka) {
	dir, port := t.TempDir(), freePort(t)
	serverComesBack(t, k, bench{dir: dir, connection: "tcp://" + loopback(port), start: func(r registers) *process {
		return startPymodbus(t, dir, port, r)
	}})
}

// bench is a Modbus server and how the agent reaches it.
type bench struct {
	dir        string
	connection string
	more       string // lines of the agent's config
	alone      bool   // there is no unit 4
	start      func(registers) *process
	cut        func() // before the server dies; may be nil
}

// serverComesBack polls a server, which dies and comes back with other values:
// a value is right or it is bad, never invented.
func serverComesBack(t *testing.T, k *kafka, b bench) {
	r := &readings{t: t, before: registers{12.3, 123456789, true}, after: registers{-7.75, 123500000, false}, lastSeq: map[string]uint64{}}
	server := b.start(r.before)
	name := strings.TrimPrefix(t.Name(), "TestScenarios/")
	k.createTopic(t, name+"."+className)
	a := newAgent(t, b.dir, func(dataDir, http string) string {
		return modbusConfig(dataDir, http, b.connection, b.more, k.link.addr, name+".{class}")
	})
	a.startReady(t)
	c := newConsumer(t, k, name+"."+className)
	r.await(c, "good readings", func() bool { return r.good >= 10 && (r.probes >= 10 || b.alone) })
	if b.cut != nil {
		b.cut()
		r.gone = time.Now()
		r.await(c, "a bad reading", func() bool { return r.bad > 0 })
	}
	server.kill()
	if r.gone.IsZero() {
		r.gone = time.Now()
	}
	r.await(c, "a bad reading", func() bool { return r.bad > 0 })
	b.start(r.after)
	r.await(c, "good readings of the server that came back", func() bool { return r.recovered >= 10 })
	r.stopping = true
	a.terminate(t)
	c.rest(t, r.add)
	fmt.Printf("E2E %s good=%d bad=%d recovered=%d probes=%d slow=%d wrong=%d reason=%q\n", name, r.good, r.bad, r.recovered, r.probes, r.slow, r.wrong, r.reason)
}

func (r *readings) await(c *consumer, what string, enough func() bool) {
	r.t.Helper()
	if !c.until(r.t, patience, r.add, enough) {
		r.t.Fatalf("no %s after %s: good %d, bad %d, recovered %d, probes %d", what, patience, r.good, r.bad, r.recovered, r.probes)
	}
}

func (r *readings) fault(format string, args ...any) {
	r.t.Helper()
	r.wrong++
	if r.wrong <= 5 {
		r.t.Errorf(format, args...)
	}
}

func (r *readings) add(rec *kgo.Record) {
	e, err := readEnvelope(rec)
	if err != nil {
		r.fault("offset %d: %v", rec.Offset, err)
		return
	}
	var v reading
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		r.fault("%.200q: %v", rec.Value, err)
		return
	}
	if e.kind != "sluice.modbus.reading.v1" || e.contentType != "application/json" || e.subject != v.Device ||
		string(rec.Key) != v.Device || e.source != "/"+agentID+"/"+busName+"/"+v.Device {
		r.fault("wrong attributes %+v of %s, key %q", e, v.Device, rec.Key)
	}
	if e.seq <= r.lastSeq[v.Device] {
		r.fault("sequence number %d of %s after %d", e.seq, v.Device, r.lastSeq[v.Device])
	}
	r.lastSeq[v.Device] = e.seq
	switch v.Device {
	case "meter-1":
		r.addMeter(v)
	case "probe-1":
		r.addProbe(v)
	default:
		r.fault("a reading of %q", v.Device)
	}
}

// addMeter judges a reading of unit 3: all tags in values or in bad, the
// register that does not exist always bad, all values of one server.
func (r *readings) addMeter(v reading) {
	if r.stopping && len(v.Values)+len(v.Bad) < 6 {
		// What was read when the agent was stopped is sent, what wasn't is left out.
		if !v.agrees(r.after) {
			r.fault("wrong values: %v", v.Values)
		}
		return
	}
	if v.Bad["ghost"] == "" {
		r.fault("a register that does not exist is not bad: %v", v)
	}
	if len(v.Values)+len(v.Bad) != 6 {
		r.fault("%d values and %d bad of 6 tags: %v", len(v.Values), len(v.Bad), v)
	}
	switch ghost := v.Bad["ghost"]; {
	case len(v.Values) == 0:
		r.addBad(v)
		r.reason = v.Bad["power"]
	case len(v.Bad) > 1, ghost != "exception-2" && !strings.HasPrefix(ghost, "exception-"):
		r.addBad(v) // the server went away within the poll
	case ghost != "exception-2":
		r.fault("reason %q, want exception-2", ghost)
	case r.bad == 0 && v.matches(r.before):
		r.good++
	case r.bad > 0 && v.matches(r.after):
		r.recovered++
	default:
		r.fault("wrong values: %v", v.Values)
	}
}

// addBad counts a reading without all values. Only one whose poll ended after the first
// server was gone says that: on a busy machine an answer may come too late before that, and
// right ones follow.
func (r *readings) addBad(v reading) {
	r.t.Helper()
	ended, err := time.Parse(time.RFC3339Nano, v.Time)
	if err != nil {
		r.fault("the time of a reading: %v", err)
	}
	if r.gone.IsZero() || ended.Before(r.gone) {
		r.slow++
		return
	}
	r.bad++
}

func (v reading) matches(want registers) bool { return len(v.Values) == 5 && v.agrees(want) }

// agrees says that the values that are there are right.
func (v reading) agrees(want registers) bool {
	for name, got := range v.Values {
		right := false
		switch name {
		case "power":
			right = near(got, want.power)
		case "energy":
			right = near(got, float64(want.energy)*0.001)
		case "running":
			right = got == want.running
		case "door":
			right = got == true
		case "label":
			right = got == "LINE-A7 press 12"
		}
		if !right {
			return false
		}
	}
	return true
}

func (r *readings) addProbe(v reading) {
	switch {
	case len(v.Values) == 1 && len(v.Bad) == 0 && near(v.Values["t"], -123*0.1-40):
		r.probes++
	case len(v.Values) == 0 && len(v.Bad) == 1 && v.Bad["t"] != "":
	default:
		r.fault("wrong reading of probe-1: %v", v)
	}
}

// near allows for a value that was stored as a float32.
func near(got any, want float64) bool {
	f, ok := got.(float64)
	return ok && math.Abs(f-want) <= 1e-6*math.Max(1, math.Abs(want))
}

// TestReadingsAreJudgedByWhenTheirServerWasThere holds the judge against readings in turn:
// what came too late from a busy server is bad and no more, and what only the first server
// had is wrong once it is gone.
func TestReadingsAreJudgedByWhenTheirServerWasThere(t *testing.T) {
	gone := time.Now()
	at := func(d time.Duration) string { return gone.Add(d).UTC().Format(time.RFC3339Nano) }
	first := map[string]any{"power": 12.3, "energy": 123456.789, "running": true, "door": true, "label": "LINE-A7 press 12"}
	late := map[string]string{"power": "timeout", "energy": "timeout", "running": "timeout", "door": "timeout", "label": "timeout", "ghost": "timeout"}
	const silent = 5 // as many faults as are reported: further ones are only counted
	r := &readings{t: t, before: registers{12.3, 123456789, true}, after: registers{-7.75, 123500000, false}, wrong: silent}
	r.addMeter(reading{Time: at(-4 * time.Second), Values: first, Bad: map[string]string{"ghost": "exception-2"}})
	r.addMeter(reading{Time: at(-3 * time.Second), Bad: late})
	r.addMeter(reading{Time: at(-2 * time.Second), Values: first, Bad: map[string]string{"ghost": "timeout"}})
	r.addMeter(reading{Time: at(-time.Second), Values: first, Bad: map[string]string{"ghost": "exception-2"}})
	if r.good != 2 || r.slow != 2 || r.bad != 0 || r.wrong != silent {
		t.Errorf("before: good %d, slow %d, bad %d, wrong %d", r.good, r.slow, r.bad, r.wrong-silent)
	}
	r.gone = gone
	r.addMeter(reading{Time: at(time.Second), Bad: late})
	r.addMeter(reading{Time: at(2 * time.Second), Values: first, Bad: map[string]string{"ghost": "exception-2"}})
	r.addMeter(reading{Time: at(3 * time.Second), Values: first, Bad: map[string]string{"ghost": "exception-3"}})
	if r.bad != 1 || r.wrong != silent+2 {
		t.Errorf("after: bad %d, wrong %d", r.bad, r.wrong-silent)
	}
}
