package modbus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sim "github.com/simonvetter/modbus"
)

// writable is a plant whose holding registers and coils take writes.
type writable struct {
	*plant
	functions []string
}

func (w *writable) HandleHoldingRegisters(r *sim.HoldingRegistersRequest) ([]uint16, error) {
	if r.IsWrite {
		w.change(func() {
			w.functions = append(w.functions, fmt.Sprint("registers ", r.Addr, r.Args))
			for i, v := range r.Args {
				w.holding[r.Addr+uint16(i)] = v
			}
		})
	}
	return w.plant.HandleHoldingRegisters(r)
}

func (w *writable) HandleCoils(r *sim.CoilsRequest) ([]bool, error) {
	if r.IsWrite {
		w.change(func() {
			w.functions = append(w.functions, fmt.Sprint("coils ", r.Addr, r.Args))
			for i, v := range r.Args {
				w.coils[r.Addr+uint16(i)] = v
			}
		})
	}
	return w.plant.HandleCoils(r)
}

func bounds(low, high float64) *Write { return &Write{Min: &low, Max: &high} }

// writableTags are one of each kind that can be written.
func writableTags() []Tag {
	return []Tag{
		{Name: "i16", Read: "holding", At: 0, Type: "int16", Scale: 0.1, Offset: -40, Write: bounds(-100, 100)},
		{Name: "u32", Read: "holding", At: 1, Type: "uint32", Order: "CDAB", Write: bounds(0, 4294967295)},
		{Name: "f32", Read: "holding", At: 3, Type: "float32", Order: "DCBA", Write: bounds(-1e6, 1e6)},
		{Name: "u64", Read: "holding", At: 5, Type: "uint64", Write: bounds(0, 1e20)},
		{Name: "f16", Read: "holding", At: 9, Type: "float16", Write: bounds(-70000, 70000)},
		{Name: "bcd", Read: "holding", At: 10, Type: "bcd32", Scale: 0.01, Write: bounds(-1, 1e9)},
		{Name: "f64", Read: "holding", At: 12, Type: "float64", Order: "BADC", Scale: 1.8, Offset: 32, Write: bounds(-1e300, 1e300)},
		{Name: "mode", Read: "holding", At: 16, Type: "int16", Map: map[int64]string{-1: "fault", 0: "off", 1: "run", 2: "twice", 3: "twice"}, Write: &Write{}},
		{Name: "coil", Read: "coil", At: 7, Write: &Write{}},
		{Name: "door", Read: "coil", At: 8, Map: map[int64]string{0: "closed", 1: "open"}, Write: &Write{}},
		{Name: "third", Read: "holding", At: 17, Type: "uint16", Scale: 1.0 / 3, Write: bounds(0, 100)},
		{Name: "plain", Read: "holding", At: 18, Type: "uint16"},
	}
}

func startWritable(t *testing.T) (*running, *writable) {
	t.Helper()
	w := &writable{plant: &plant{holding: registersFrom(0, 19), coils: map[uint16]bool{7: false, 8: false}}}
	for at := range w.holding {
		w.holding[at] = 0
	}
	var url string
	for {
		url = "tcp://" + freeAddress(t)
		server, err := sim.NewServer(&sim.ServerConfiguration{URL: url}, w)
		if err != nil {
			t.Fatal(err)
		}
		if server.Start() == nil { // else another program took the port
			t.Cleanup(func() { server.Stop() })
			break
		}
	}
	s := start(t, Config{Name: "bus", Connection: url, Sink: newMemory(), Devices: []Device{{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: writableTags()}}})
	return s, w
}

func (r *running) put(tag, v string) (WriteResult, error) {
	return r.Write(context.Background(), WriteRequest{Device: "d", Tag: tag, Value: json.RawMessage(v), Issued: time.Now()})
}

func TestWritesAreReadBackAsAsked(t *testing.T) {
	t.Parallel()
	s, w := startWritable(t)
	tests := []struct {
		tag, value string
		registers  []uint16
		function   int
	}{
		{"i16", "-18.7", []uint16{213}, 6},
		{"i16", "-100", []uint16{0xfda8}, 6},
		{"u32", "305419896", []uint16{0x5678, 0x1234}, 16},
		{"f32", "12.3", []uint16{0xcdcc, 0x4441}, 16},
		{"u64", "18446744073709551615", []uint16{0xffff, 0xffff, 0xffff, 0xffff}, 16},
		{"f16", "-1.5", []uint16{0xbe00}, 6},
		{"f16", "65504", []uint16{0x7bff}, 6},
		{"f16", "0.000060975551605224609", nil, 0},
		{"bcd", "123456.78", []uint16{0x1234, 0x5678}, 16},
		{"f64", "54.14", nil, 16},
		{"mode", `"run"`, []uint16{1}, 6},
		{"mode", `"fault"`, []uint16{0xffff}, 6},
		{"coil", "true", []uint16{0xff00}, 5},
		{"coil", "false", []uint16{0}, 5},
		{"door", `"open"`, []uint16{0xff00}, 5},
		{"third", "2", []uint16{6}, 6},
	}
	for _, test := range tests {
		r, err := s.put(test.tag, test.value)
		if test.function == 0 {
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%s = %s: %+v %v", test.tag, test.value, r, err)
			}
			continue
		}
		if err != nil || r.Function != test.function || test.registers != nil && fmt.Sprint(r.Registers) != fmt.Sprint(test.registers) {
			t.Errorf("%s = %s: %+v %v, want %x by function %d", test.tag, test.value, r, err, test.registers, test.function)
		}
		if !sameValue(r.ReadBack, r.Value) || fmt.Sprint(r.ReadBackRegisters) != fmt.Sprint(r.Registers) {
			t.Errorf("%s = %s: read back %s, %x", test.tag, test.value, r.ReadBack, r.ReadBackRegisters)
		}
	}
	w.change(func() {
		if w.holding[0] != 0xfda8 || w.holding[10] != 0x1234 || w.coils[7] || !w.coils[8] {
			t.Errorf("the device holds %v %v", w.holding, w.coils)
		}
	})
}

func TestWritesAreRefused(t *testing.T) {
	t.Parallel()
	s, w := startWritable(t)
	for _, test := range []struct{ tag, value, want string }{
		{"i16", "100.1", "out of bounds (allowed: -100 to 100)"},
		{"i16", "-18.75", "can't be held exactly (the nearest value is -18.7)"},
		{"i16", `"5"`, "must be a number"},
		{"i16", "true", "must be a number"},
		{"i16", "null", "must be a number"},
		{"i16", "", "must be a number"},
		{"i16", "[1]", "must be a number"},
		{"i16", "1e999999999", "exponent is out of range"},
		{"i16", "1e-999999999999999999999", "exponent is out of range"},
		{"i16", strings.Repeat("1", 100), "must be a number"},
		{"u32", "1.5", "can't be held exactly"},
		{"u64", "18446744073709551616", "doesn't fit"},
		{"f32", "0.1234567891", "can't be held exactly (the nearest value is 0.12345679)"},
		{"f16", "0.1", "can't be held exactly"},
		{"f16", "65520", "doesn't fit"},
		{"bcd", "-1", "doesn't fit"},
		{"bcd", "1000000", "doesn't fit"},
		{"bcd", "0.001", "can't be held exactly"},
		{"mode", "1", "one of the words"},
		{"mode", `"stop"`, "is no word"},
		{"mode", `"twice"`, "stands for several"},
		{"coil", "1", "true or false"},
		{"coil", "null", "true or false"},
		{"door", "true", "one of the words"},
		{"third", "0.5", "can't be held exactly"},
		{"plain", "1", "isn't declared as writable"},
		{"absent", "1", "no such tag"},
	} {
		r, err := s.put(test.tag, test.value)
		if !errors.Is(err, ErrRefused) || !strings.Contains(fmt.Sprint(err), test.want) || r.Function != 0 {
			t.Errorf("%s = %s: %v, want %q", test.tag, test.value, err, test.want)
		}
	}
	for name, r := range map[string]WriteRequest{
		"another device": {Device: "e", Tag: "i16", Value: json.RawMessage("1"), Issued: time.Now()},
		"too late":       {Device: "d", Tag: "i16", Value: json.RawMessage("1"), Issued: time.Now().Add(-11 * time.Second)},
		"the future":     {Device: "d", Tag: "i16", Value: json.RawMessage("1"), Issued: time.Now().Add(time.Minute)},
		"no time":        {Device: "d", Tag: "i16", Value: json.RawMessage("1")},
		"past its until": {Device: "d", Tag: "i16", Value: json.RawMessage("1"), Issued: time.Now(), Until: time.Now().Add(-time.Millisecond)},
	} {
		_, err := s.Write(context.Background(), r)
		if late := name != "another device" && name != "the future"; !errors.Is(err, ErrRefused) || errors.Is(err, ErrLate) != late {
			t.Errorf("%s: %v", name, err)
		}
	}
	waiting := make(chan error)
	s.stop()
	go func() {
		_, err := s.put("coil", "true")
		waiting <- err
	}()
	select {
	case err := <-waiting:
		if !errors.Is(err, ErrRefused) || errors.Is(err, ErrLate) {
			t.Errorf("of a source that has stopped: %v", err)
		}
	case <-time.After(defaultExpire / 2):
		t.Error("a write to a source that has stopped waits until it is too late")
	}
	if len(w.functions) != 0 {
		t.Errorf("something was written: %v", w.functions)
	}
}

// writeTo writes 7 to a register of a device that reads as 5 and answers writes as
// told.
func writeTo(t *testing.T, answer func(c net.Conn, req []byte)) (r WriteResult, writes int64, err error) {
	t.Helper()
	var count atomic.Int64
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		switch req[7] {
		case 3:
			c.Write(dataOf(req, 0, 5))
		default:
			count.Add(1)
			answer(c, req)
		}
	}, nil)
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: newMemory(), Timeout: time.Second, Devices: []Device{
		{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 10)}}},
	}})
	r, err = s.put("v", "7")
	return r, count.Load(), err
}

func TestWhatADeviceSaysToAWrite(t *testing.T) {
	echo := func(change func(f []byte)) func(net.Conn, []byte) {
		return func(c net.Conn, req []byte) {
			f := append([]byte{}, req...)
			change(f)
			c.Write(f)
		}
	}
	for _, test := range []struct {
		name   string
		answer func(c net.Conn, req []byte)
		want   error
	}{
		{"taken, and not done", echo(func([]byte) {}), ErrMismatch},
		{"exception 2", func(c net.Conn, req []byte) { c.Write(frameOf(req, 0x86, 2)) }, ErrDevice},
		{"exception 4: failed while it was at it", func(c net.Conn, req []byte) { c.Write(frameOf(req, 0x86, 4)) }, ErrUncertain},
		{"exception 5: still at it", func(c net.Conn, req []byte) { c.Write(frameOf(req, 0x86, 5)) }, ErrUncertain},
		{"exception 6: busy", func(c net.Conn, req []byte) { c.Write(frameOf(req, 0x86, 6)) }, ErrDevice},
		{"exception 10: a gateway without a path", func(c net.Conn, req []byte) { c.Write(frameOf(req, 0x86, 10)) }, ErrDevice},
		{"exception 11: a gateway that got no answer", func(c net.Conn, req []byte) { c.Write(frameOf(req, 0x86, 11)) }, ErrUncertain},
		{"silence", func(net.Conn, []byte) {}, ErrUncertain},
		{"closed", func(c net.Conn, _ []byte) { c.Close() }, ErrUncertain},
		{"another value", echo(func(f []byte) { f[11]++ }), ErrUncertain},
		{"another address", echo(func(f []byte) { f[9]++ }), ErrUncertain},
		{"another unit", echo(func(f []byte) { f[6]++ }), ErrUncertain},
		{"another function", echo(func(f []byte) { f[7] = 3 }), ErrUncertain},
		{"another transaction", echo(func(f []byte) { f[0] ^= 0x40 }), ErrUncertain},
		{"an answer to a read", func(c net.Conn, req []byte) { c.Write(frameOf(req, 3, 2, 0, 7)) }, ErrUncertain},
		{"a short answer", func(c net.Conn, req []byte) { c.Write(frameOf(req, req[7], req[8], req[9])) }, ErrUncertain},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, writes, err := writeTo(t, test.answer)
			if !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if writes != 1 {
				t.Errorf("written %d times", writes)
			}
			if !errors.Is(test.want, ErrDevice) && (string(r.ReadBack) != "5" || r.ReadBackRegisters[0] != 5 || r.Registers[0] != 7) {
				t.Errorf("result %+v, want 5 read back", r)
			}
		})
	}
}

// TestDeviceWithoutSingleWritesGetsMultipleOnes has requests of different lengths,
// which the peer of the other tests can't cut, so it reads them itself.
func TestDeviceWithoutSingleWritesGetsMultipleOnes(t *testing.T) {
	t.Parallel()
	var register, coil byte
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		switch req[7] {
		case 1:
			c.Write(dataOf(req, coil))
		case 3:
			c.Write(dataOf(req, 0, register))
		case 5, 6:
			c.Write(frameOf(req, req[7]|exception, illegalFunction))
		case 15, 16:
			rest := make([]byte, binary.BigEndian.Uint16(req[4:])-6)
			if _, err := io.ReadFull(c, rest); err != nil {
				t.Error(err)
			}
			if req[7] == 15 {
				coil = rest[1]
			} else {
				register = rest[2]
			}
			c.Write(frameOf(req, req[7:12]...))
		}
	}, nil)
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: newMemory(), Devices: []Device{
		{Name: "d", Unit: 1, Every: time.Hour, Tags: []Tag{
			{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 10)}, {Name: "c", Read: "coil", Write: &Write{}},
		}},
	}})
	if r, err := s.put("v", "7"); err != nil || r.Function != 16 || string(r.ReadBack) != "7" {
		t.Errorf("register: %+v %v", r, err)
	}
	if r, err := s.put("c", "true"); err != nil || r.Function != 15 || string(r.ReadBack) != "true" {
		t.Errorf("coil: %+v %v", r, err)
	}
}

func TestStopDoesNotWaitForAWrite(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 100)
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if req[7] == 3 {
			c.Write(dataOf(req, 0, 5))
			return
		}
		asked <- struct{}{}
	}, nil)
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: newMemory(), Timeout: time.Minute, Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 10)}}},
	}})
	ended := make(chan error)
	go func() {
		_, err := s.put("v", "7")
		ended <- err
	}()
	<-asked
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrUncertain) {
		t.Errorf("%v, want %v", err, ErrUncertain)
	}
}

// TestWritesAndPollsTakeTurns writes from many goroutines while the bus is polled
// without a pause: the device never sees a request before it has answered the last.
func TestWritesAndPollsTakeTurns(t *testing.T) {
	t.Parallel()
	var busy, overlaps, value atomic.Int64
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if busy.Add(1) > 1 {
			overlaps.Add(1)
		}
		defer busy.Add(-1)
		time.Sleep(time.Millisecond)
		if req[7] == 6 {
			value.Store(int64(binary.BigEndian.Uint16(req[10:])))
			c.Write(req)
			return
		}
		c.Write(dataOf(req, 0, byte(value.Load())))
	}, nil)
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: newMemory(), Timeout: 5 * time.Second, Devices: []Device{
		{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 255)}}},
		{Name: "e", Unit: 2, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}})
	done := make(chan error)
	for i := range 8 {
		go func() {
			var err error
			for n := range 10 {
				_, e := s.put("v", fmt.Sprint(i*10+n))
				err = errors.Join(err, e)
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := overlaps.Load(); n != 0 {
		t.Errorf("%d requests overlapped", n)
	}
}

func TestWriteWhoseTurnComesLateIsNotSent(t *testing.T) {
	p := newPeer(t, func(c net.Conn, _ int, req []byte) { c.Write(req) }, nil)
	c := Config{Name: "bus", Connection: p.url(), Sink: newMemory(), Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 10)}}},
	}}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	j, err := s.prepare(WriteRequest{Device: "d", Tag: "v", Value: json.RawMessage("7"), Issued: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	j.ctx, j.until = context.Background(), time.Now().Add(-time.Millisecond)
	if w := s.write(context.Background(), j); !errors.Is(w.err, ErrLate) || p.requests.Load() != 0 {
		t.Errorf("%v, %d requests", w.err, p.requests.Load())
	}
}

// TestWriteIsNotSentWhenTheLineIsFreeTooLate has a bus that is left alone for a
// time-out, as after each connect, when the turn of a write comes.
func TestWriteIsNotSentWhenTheLineIsFreeTooLate(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	url := behindGateway(t, func(s *slave, _ int, req []byte) {
		requests.Add(1)
		s.say(req...)
	})
	s, err := New(Config{Name: "bus", Connection: url, Sink: newMemory(), Timeout: 300 * time.Millisecond, Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 10)}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	j, err := s.prepare(WriteRequest{Device: "d", Tag: "v", Value: json.RawMessage("7"), Issued: time.Now(), Until: time.Now().Add(100 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	j.ctx = context.Background()
	if w := s.write(context.Background(), j); !errors.Is(w.err, ErrLate) || w.result.Function != 0 || requests.Load() != 0 {
		t.Errorf("%+v %v, %d requests", w.result, w.err, requests.Load())
	}
	s.link.close()
}

func TestAnswerToAWriteMustFitInEveryByte(t *testing.T) {
	request := []byte{0x12, 0x34, 0, 0, 0, 6, 3, 6, 0, 9, 1, 2}
	if err := checkAnswer(request, request); err != nil {
		t.Error(err)
	}
	for i := range request {
		if i >= 2 && i <= 5 {
			continue // cutFrame's
		}
		frame := append([]byte{}, request...)
		frame[i] ^= 1
		if err := checkAnswer(request, frame); !errors.Is(err, errInvalid) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if err := checkAnswer(request, []byte{0x12, 0x34, 0, 0, 0, 3, 3, 0x86, 2}); err != nil {
		t.Errorf("exception: %v", err)
	}
}
