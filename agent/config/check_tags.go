package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// checkTag checks that the keys of a tag go together. limits are those of its
// devices, path is that of its list.
func (d *decoder) checkTag(t *Tag, limits Grouping, base int, path string) {
	path = join(path, t.Name)
	d.checkClassName(path+".class", t.Class)
	if d.bad[path+".read"] || d.bad[path+".type"] || t.Read == "" {
		return
	}
	bits := t.readsBits()
	long := t.Type == "string" || t.Type == "bytes"
	part := t.Bit != nil || t.Bits != ""
	switch {
	case t.Type == "" && !part: // of a coil it is filled in
		d.wrong(path+".type", "is missing", "int16, uint16, float32, …: "+t.Read+" registers need a type")
		return
	case bits && part:
		key := ".bit"
		if t.Bits != "" {
			key = ".bits"
		}
		d.wrong(path+key, "is only for registers, and a "+t.Read+" is one bit", "leave it out")
		return
	case bits && t.Type != "bool":
		d.wrong(path+".type", fmt.Sprintf("%s cannot be read from a %s", t.Type, t.Read), "bool")
		return
	case !bits && t.Type == "bool" && t.Bit == nil:
		d.wrong(path+".type", fmt.Sprintf("bool cannot be read from a register (%s) without a bit", t.Read), "read: coil or discrete, or a bit, or a number type")
		return
	case long && t.Length == 0:
		d.wrong(path+".length", "is missing", "the number of registers, 1 to 125")
	case !long && t.Length != 0:
		d.wrong(path+".length", "is only for string and bytes", "leave it out")
	}
	d.checkTagPlace(t, limits, base, path)
	d.checkTagNumber(t, path)
	d.checkTagBits(t, path)
	d.checkTagMap(t, path)
	d.checkTagWrite(t, path)
	d.checkMissing(t, path)
}

// checkTagPlace checks that the tag lies in its table and fits one request.
func (d *decoder) checkTagPlace(t *Tag, limits Grouping, base int, path string) {
	n := t.registers()
	if base > 1 || base < 0 || d.bad[path+".length"] {
		return // said already
	}
	if t.At < base || t.At-base+n > 65536 {
		d.wrong(path+".at", fmt.Sprintf("%s is out of range for base %d", d.show(path+".at", strconv.Itoa(t.At)), base), fmt.Sprintf("%d to %d", base, 65536-n+base))
	}
	if !t.readsBits() && n > limits.MaxRegisters {
		d.wrong(path, fmt.Sprintf("needs %d registers in one request", n), fmt.Sprintf("grouping.max_registers, %d, or fewer", limits.MaxRegisters))
	}
}

// registers is the number of registers, or bits, that the tag takes.
func (t *Tag) registers() int {
	switch {
	case t.Type == "string" || t.Type == "bytes":
		return t.Length
	case strings.HasSuffix(t.Type, "64"):
		return 4
	case strings.HasSuffix(t.Type, "32"):
		return 2
	}
	return 1
}

// checkTagNumber refuses arithmetic on what is no number.
func (d *decoder) checkTagNumber(t *Tag, path string) {
	if t.Scale == 0 {
		d.wrong(path+".scale", "is 0, which would make every value the same", "any other number")
	}
	what := "the type is " + t.Type
	switch {
	case t.Bit != nil:
		what = "the value is a bit"
	case len(t.Map) > 0:
		what = "the value is a word of the map"
	case !slices.Contains([]string{"bool", "string", "bytes"}, t.Type):
		return
	}
	for _, f := range []struct {
		key string
		set bool
	}{{"scale", t.Scale != 1}, {"offset", t.Offset != 0}, {"deadband", t.Deadband != nil && t.Deadband.Value > 0}} {
		if f.set {
			d.wrong(join(path, f.key), "is only for numbers, and "+what, "leave it out")
		}
	}
}

// wholeNumber says whether the type of the registers is a binary integer.
func wholeNumber(kind string) bool {
	return strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint")
}

// bitSize is the number of bits of a number type.
func bitSize(kind string) int {
	n, _ := strconv.Atoi(strings.TrimLeft(kind, "abcdefghijklmnopqrstuvwxyz")) // the enum's words end with it
	return n
}

// checkTagBits checks bit and bits.
func (d *decoder) checkTagBits(t *Tag, path string) {
	if t.Bit == nil && t.Bits == "" || t.readsBits() {
		return
	}
	kind := t.wholeType()
	last := bitSize(kind) - 1
	low, high, ok := t.BitRange()
	switch {
	case t.Bit != nil && t.Bits != "":
		d.wrong(path+".bits", "does not go together with bit", "one of them")
	case !wholeNumber(kind):
		d.wrong(path+".type", kind+" has no bits to take", "int8 to uint64; uint16 if it is left out")
	case t.Bit != nil && *t.Bit > last:
		d.wrong(path+".bit", fmt.Sprintf("%d is out of range for %s", *t.Bit, kind), fmt.Sprintf("0 to %d", last))
	case t.Bits != "" && !ok:
		d.wrong(path+".bits", d.show(path+".bits", t.Bits)+" is not a range of bits", "LOW-HIGH, such as 4-7, from 0")
	case t.Bits != "" && high > last:
		d.wrong(path+".bits", fmt.Sprintf("%d-%d is out of range for %s", low, high, kind), fmt.Sprintf("0 to %d", last))
	}
}

// checkTagMap checks the words of a tag.
func (d *decoder) checkTagMap(t *Tag, path string) {
	if len(t.Map) == 0 {
		return
	}
	kind := t.wholeType()
	if !wholeNumber(kind) && kind != "bool" && !strings.HasPrefix(kind, "bcd") {
		d.wrong(path+".map", "is only for whole numbers and bool, and the type is "+kind, "leave it out")
		return
	}
	seen := map[int64]string{}
	for _, key := range slices.Sorted(maps.Keys(t.Map)) {
		at := join(path+".map", key)
		n, err := parseRaw(key)
		if err != nil {
			d.wrong(at, "is not a whole number", "a raw number, decimal or with 0x")
			continue
		}
		if low, high := t.rawRange(kind); n < low || n > high {
			d.wrong(at, "can never be read", fmt.Sprintf("%d to %d", low, high))
		}
		if other, twice := seen[n]; twice {
			d.wrong(at, "is the same number as "+other, "each number once")
		}
		seen[n] = key
		if word := t.Map[key]; word == "" || len(word) > 128 || strings.ContainsFunc(word, unicode.IsControl) {
			d.wrong(at, "is not a usable word", "1 to 128 bytes without control characters")
		}
	}
}

// rawRange is what the raw number of a tag can be, as far as an int64 holds it.
func (t *Tag) rawRange(kind string) (low, high int64) {
	size := bitSize(kind)
	switch lowest, highest, ok := t.BitRange(); {
	case kind == "bool" || t.Bit != nil:
		return 0, 1
	case kind == "bcd16":
		return 0, 9999
	case kind == "bcd32":
		return 0, 99999999
	case ok:
		size = highest - lowest + 1
	}
	if strings.HasPrefix(kind, "int") {
		return -1 << (size - 1), 1<<(size-1) - 1
	}
	return 0, 1<<min(size, 63) - 1
}

// checkTagWrite checks what may be written.
func (d *decoder) checkTagWrite(t *Tag, path string) {
	w := t.Write
	path += ".write"
	if w == nil || d.bad[path] {
		return
	}
	number := t.wholeType() != "bool" && len(t.Map) == 0
	switch kind := t.wholeType(); {
	case t.Read != "holding" && t.Read != "coil":
		d.wrong(path, "is only for holding and coil, and this is read from "+t.Read, "leave it out")
	case t.Bit != nil || t.Bits != "":
		d.wrong(path, "does not go together with bit or bits: a register is only written as a whole", "a tag of the whole register")
	case slices.Contains([]string{"string", "bytes", "int8", "uint8"}, kind):
		d.wrong(path, "is only for bool and numbers that fill their registers, and the type is "+kind, "leave it out")
	case !number && (w.Min != nil || w.Max != nil):
		d.wrong(path, "has min or max, which are only for numbers", "leave them out")
	case number && (w.Min == nil || w.Max == nil) && !d.bad[path+".min"] && !d.bad[path+".max"]:
		d.wrong(path, "has no min or no max", "both, such as { min: 0, max: 100 }")
	case number && w.Min != nil && w.Max != nil && *w.Min > *w.Max:
		d.wrong(path+".max", "is less than min", "min or more")
	}
}
