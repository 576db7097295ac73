package remote

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestPartsJoin(t *testing.T) {
	for _, n := range []int{0, 1, partBytes - 1, partBytes, partBytes + 1, 5*partBytes + 7} {
		data := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		parts := Split("c", data)
		other := Split("d", []byte("of another command"))
		slices.Reverse(parts)
		got, err := Join("c", append(append(other, parts...), parts[0])) // any order, one twice
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes in %d parts: %d bytes, %v", n, len(parts), len(got), err)
		}
		if _, err := Join("c", parts[1:]); err == nil || !strings.Contains(err.Error(), "parts are there") {
			t.Errorf("one of %d is missing: %v", len(parts), err)
		}
	}
	parts := Split("c", bytes.Repeat([]byte("x"), 2*partBytes))
	for name, change := range map[string]func(){
		"other data": func() { parts[1].Data = []byte("y") }, "another sum": func() { parts[1].SHA256 = "x" },
		"a part of more": func() { parts[1].Part = 3 }, "of many": func() { parts[0].Parts = 1 << 30 },
	} {
		parts = Split("c", bytes.Repeat([]byte("x"), 2*partBytes))
		change()
		if _, err := Join("c", parts); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
}
