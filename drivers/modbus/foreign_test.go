package modbus

import (
	"encoding/hex"
	"encoding/json"
	"math/big"
	"path/filepath"
	"strconv"
	"testing"
)

// TestGolden polls devices that another implementation described, testdata/golden.py,
// and wants what that one says: every type in every byte order with both bases,
// through the server of a third one.
func TestGolden(t *testing.T) {
	folders, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(folders) != 8 {
		t.Fatalf("%d cases, want 8: %v", len(folders), err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			sink := newMemory()
			c := load(t, readFile(t, folder, "config.yaml"))
			c.Connection, c.Sink = serve(t, plantOf(t, readFile(t, folder, "device.json"))), sink
			start(t, c)
			got := sink.next(t)
			var want reading
			if err := json.Unmarshal(readFile(t, folder, "want.json"), &want); err != nil {
				t.Fatal(err)
			}
			if n := len(c.Devices[0].Tags); len(want.Values)+len(want.Bad) != n || n < 150 {
				t.Fatalf("%d values and %d bad for %d tags", len(want.Values), len(want.Bad), n)
			}
			for _, x := range c.Devices[0].Tags {
				if !sameValue(got.Values[x.Name], want.Values[x.Name]) || got.Bad[x.Name] != want.Bad[x.Name] {
					t.Errorf("%s (%s, %s): got %s %s, want %s %s", x.Name, x.Type, x.Order,
						got.Values[x.Name], got.Bad[x.Name], want.Values[x.Name], want.Bad[x.Name])
				}
			}
		})
	}
}

// sameValue compares JSON scalars; numbers by what they are exactly, not by how
// they are written.
func sameValue(a, b json.RawMessage) bool {
	x, ok1 := new(big.Rat).SetString(string(a))
	y, ok2 := new(big.Rat).SetString(string(b))
	if ok1 && ok2 {
		return x.Cmp(y) == 0
	}
	var s, u any
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return ok1 == ok2 && json.Unmarshal(a, &s) == nil && json.Unmarshal(b, &u) == nil && s == u
}

// plantOf makes a device of an image: by table and address, registers in hex, or
// bits.
func plantOf(t *testing.T, data []byte) *plant {
	t.Helper()
	var image map[string]map[string]string
	if err := json.Unmarshal(data, &image); err != nil {
		t.Fatal(err)
	}
	p := &plant{holding: map[uint16]uint16{}, input: map[uint16]uint16{}, coils: map[uint16]bool{}, discretes: map[uint16]bool{}}
	registers := map[string]map[uint16]uint16{"holding": p.holding, "input": p.input}
	bits := map[string]map[uint16]bool{"coil": p.coils, "discrete": p.discretes}
	for table, cells := range image {
		for key, text := range cells {
			at, err := strconv.ParseUint(key, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			if m := bits[table]; m != nil {
				m[uint16(at)] = text == "1"
				continue
			}
			b, err := hex.DecodeString(text)
			if err != nil || len(b) != 2 {
				t.Fatalf("%s %s is %q: %v", table, key, text, err)
			}
			registers[table][uint16(at)] = uint16(b[0])<<8 | uint16(b[1])
		}
	}
	return p
}
