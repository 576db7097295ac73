package modbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mb "github.com/goburrow/modbus"
)

func TestEncode(t *testing.T) {
	cases := []struct {
		form Form
		text string
		want string // hex
	}{
		{Form{Type: "uint16"}, "65535", "ffff"},
		{Form{Type: "uint16"}, "0x1f", "001f"},
		{Form{Type: "uint16", Order: "DCBA"}, "1", "0100"},
		{Form{Type: "int16"}, "-32768", "8000"},
		{Form{Type: "int16", Scale: 0.1, Offset: -40}, "-15", "00fa"},
		{Form{Type: "int32", Order: "CDAB"}, "-2", "fffeffff"},
		{Form{Type: "uint64"}, "18446744073709551615", "ffffffffffffffff"},
		{Form{Type: "int64"}, "-9223372036854775808", "8000000000000000"},
		{Form{Type: "float32"}, "230.5", "43668000"},
		{Form{Type: "float32", Order: "CDAB"}, "230.5", "80004366"},
		{Form{Type: "float32"}, "0.1", "3dcccccd"},
		{Form{Type: "float64"}, "0.1", "3fb999999999999a"},
		{Form{Type: "float16"}, "-1.5", "be00"},
		{Form{Type: "float16"}, "65504", "7bff"},
		{Form{Type: "float32"}, "-0", "80000000"},
		{Form{Type: "string", Length: 3}, "Tank", "54616e6b0000"},
		{Form{Type: "string", Length: 2, Order: "BADC"}, "Tank", "61546b6e"},
		{Form{Type: "bytes", Length: 1}, "0xbeef", "beef"},
	}
	for _, c := range cases {
		got, err := c.form.Encode(c.text)
		if err != nil || fmt.Sprintf("%x", got) != c.want {
			t.Errorf("%+v %q: %x, %v; want %s", c.form, c.text, got, err, c.want)
		}
	}
}

// What would read back as something else is refused.
func TestEncodeRefuses(t *testing.T) {
	cases := []struct {
		form Form
		text string
		want string
	}{
		{Form{Type: "uint16"}, "65536", "doesn't fit into the registers"},
		{Form{Type: "uint16"}, "-1", "doesn't fit into the registers"},
		{Form{Type: "uint64"}, "18446744073709551616", "18446744073709551616 doesn't fit into the registers"},
		{Form{Type: "uint16"}, "1.5", "can't be held exactly (the nearest value is"},
		{Form{Type: "int16", Scale: 0.1}, "12.34", "can't be held exactly (the nearest value is"},
		{Form{Type: "float32"}, "16777217", "16777217 can't be held exactly (the nearest value is 16777216)"},
		{Form{Type: "float32"}, "1e39", "doesn't fit into the registers"},
		{Form{Type: "float64"}, "1e309", "doesn't fit into the registers"},
		{Form{Type: "float16"}, "0.1", "the nearest value is"},
		{Form{Type: "float16"}, "70000", "doesn't fit into the registers"},
		{Form{Type: "float32"}, "NaN", "is no number"},
		{Form{Type: "float32"}, "1/3", "is no number"},
		{Form{Type: "uint16"}, "", "is no number"},
		{Form{Type: "int8"}, "1", "the other one would be lost"},
		{Form{Type: "bool"}, "true", `the type is "bool"`},
		{Form{Type: "string", Length: 1}, "abc", "1 registers hold 2"},
		{Form{Type: "string", Length: 2}, "ab ", "another text"},
		{Form{Type: "string", Length: 2}, "a\x00b", "another text"},
		{Form{Type: "string", Length: 2}, "\xff", "another text"},
		{Form{Type: "string"}, "a", "length is 0"},
		{Form{Type: "bytes", Length: 1}, "be", "is not the hex of 2 bytes"},
		{Form{Type: "uint16", Length: 2}, "1", "only string and bytes have one"},
	}
	for _, c := range cases {
		if got, err := c.form.Encode(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v %q: %x, %v; want an error with %q", c.form, c.text, got, err, c.want)
		}
	}
}

// Whatever a read shows can be written again, and gives the same registers.
func TestEncodeUndoesDecode(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 20_000 {
		types := Types()
		f := Form{Type: types[random.IntN(len(types))], Order: Orders()[random.IntN(4)]}
		if f.Type == "string" || formats[f.Type].size == 1 {
			continue // bytes behind a NUL, and the other half of the register
		}
		if f.Type == "bytes" {
			f.Length = 1 + random.IntN(3)
		} else if random.IntN(2) == 0 && formats[f.Type].kind != kindFloat {
			f.Scale, f.Offset = []float64{0.1, 0.001, 10, -0.5}[random.IntN(4)], float64(random.IntN(100)-50)
		}
		n, err := f.Registers()
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 2*n)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		text, bad, err := f.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if shown, err := strconv.ParseFloat(text, 64); bad != "" || err == nil && math.Abs(shown) > 1e15 && f.Scale != 0 {
			continue // a scaled 64-bit number is rounded to a float64
		}
		text = strings.Trim(text, `"`)
		again, err := f.Encode(text)
		if err != nil || string(again) != string(data) {
			t.Fatalf("%+v: % x reads as %s, which is written as % x (%v)", f, data, text, again, err)
		}
	}
}

// A write that isn't confirmed as it was sent is no write.
func TestWriteAnswers(t *testing.T) {
	cases := []struct {
		name   string
		answer func(net.Conn, []byte)
		reason string // "": confirmed
	}{
		{"confirmed", says(func(req []byte) []byte { return req }), ""},
		{"another value", says(func(req []byte) []byte { return append(req[:11:11], req[11]+1) }), badInvalid},
		{"another address", says(func(req []byte) []byte { return frameOf(req, 6, 0, 9, req[10], req[11]) }), badInvalid},
		{"cut off", pdu(6, 0, 1), badInvalid},
		{"too long", pdu(6, 0, 1, 0, 42, 0), badInvalid},
		{"twice", says(func(req []byte) []byte { return append(req, req...) }), badInvalid},
		{"another function", pdu(16, 0, 1, 0, 1), badInvalid},
		{"another unit", says(func(req []byte) []byte { return append(append(append([]byte{}, req[:6]...), 9), req[7:]...) }), badInvalid},
		{"another transaction", says(func(req []byte) []byte { return withTransaction(req, 1) }), badInvalid},
		{"refused", pdu(0x86, 2), "exception-2"},
		{"refused without a code", pdu(0x86, 0), badInvalid},
		{"rubbish", raw("HTTP/1.1 400 Bad Request\r\n\r\n"), badInvalid},
		{"closed", func(c net.Conn, _ []byte) { c.Close() }, badConnection},
		{"silence", func(net.Conn, []byte) {}, badTimeout},
	}
	for _, c := range cases {
		p := newPeer(t, func(conn net.Conn, _ int, req []byte) { c.answer(conn, req) }, nil)
		timeout := patience
		if c.reason == badTimeout {
			timeout = hostileTimeout
		}
		b, err := OpenBus(p.url(), nil, timeout, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = b.WriteRegisters(context.Background(), 1, 1, []byte{0, 42}, false)
		b.Close()
		if got := ""; err != nil || c.reason != "" {
			if err != nil {
				got = Reason(err)
			}
			if got != c.reason {
				t.Errorf("%s: %q (%v), want %q", c.name, got, err, c.reason)
			}
		}
	}
}

func TestWritesOutOfRangeAreNotSent(t *testing.T) {
	p := newPeer(t, func(net.Conn, int, []byte) {}, nil)
	b, err := OpenBus(p.url(), nil, time.Second, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx := context.Background()
	for name, err := range map[string]error{
		"half a register": b.WriteRegisters(ctx, 1, 0, []byte{1}, false),
		"none":            b.WriteRegisters(ctx, 1, 0, nil, false),
		"too many":        b.WriteRegisters(ctx, 1, 0, make([]byte, 2*124), false),
		"past the end":    b.WriteRegisters(ctx, 1, 65535, make([]byte, 4), false),
		"unit":            b.WriteRegisters(ctx, 256, 0, make([]byte, 2), false),
		"address":         b.WriteRegisters(ctx, 1, -1, make([]byte, 2), false),
		"no coils":        b.WriteCoils(ctx, 1, 0, nil, false),
		"too many coils":  b.WriteCoils(ctx, 1, 0, make([]bool, 1969), false),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := p.requests.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// Whoever presses Ctrl-C doesn't wait for the time-out.
func TestStopWhileWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := newPeer(t, func(net.Conn, int, []byte) { cancel() }, nil)
	b, err := OpenBus(p.url(), nil, time.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	began := time.Now()
	result, err := b.Scan(ctx, Scan{Units: []int{1, 2, 3}})
	if !errors.Is(err, context.Canceled) || result.Complete || result.Asked != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&mb.ModbusError{FunctionCode: 0x83, ExceptionCode: 11}, "no unit answers the gateway"},
		{&mb.ModbusError{FunctionCode: 0x83, ExceptionCode: 99}, "exception 99, which the specification doesn't know"},
		{fmt.Errorf("open /dev/ttyUSB0: %w", syscall.EBUSY), "another program, such as a running agent, has the port"},
		{fmt.Errorf("lock /dev/ttyUSB0: %w", syscall.EWOULDBLOCK), "another program, such as a running agent, has the port"},
		{fmt.Errorf("open /dev/ttyUSB0: %w", syscall.EACCES), "dialout"},
		{fmt.Errorf("%w: %w", errDial, syscall.ECONNREFUSED), "takes one connection only"},
		{fmt.Errorf("%w: %w", errDial, syscall.EHOSTUNREACH), "check address and cable"},
		{invalidf("x"), "is there one unit only with this number"},
	} {
		if got := Explain(c.err); got == nil || !strings.Contains(got.Error(), c.want) {
			t.Errorf("%v: %v; want %q", c.err, got, c.want)
		}
	}
	if Explain(nil) != nil {
		t.Error("no error is explained")
	}
}
