package mqtt

import (
	"encoding/json"
	"strings"
	"testing"
)

var jsonTexts = []string{
	"", " ", "{}", "[]", "[ ]", "{ }", "[1,]", "{,}", `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a" : 1 , "b":[true,false,null,-0,0.5,1e9,1E-3,-12.25e+7]}`,
	"01", "-", "-a", "1.", ".5", "1e", "1e+", "0x1", "tru", "truex", "nul", "false ", "1 2", "[1 2]", "[[]]", "[{}]", `{"a":{}}`, "{]", "[}", "]", "}",
	`"a"`, `"`, `"\`, `"\"`, `"\u12"`, `"\u12fG"`, `"\u12Fe"`, `"\x"`, `"\/\b\f\n\r\t\\\""`, "\"a\nb\"", "\"\x7f\"", "\"\xff\"", "\x00", "{\"a\":1}\x00", "\ufeff{}",
	strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 65) + strings.Repeat("]", 65), strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64), strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65),
	strings.Repeat("[{\"a\":", 40) + "1" + strings.Repeat("}]", 40), strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), strings.Repeat("[", 64) + "{}" + strings.Repeat("]", 64),
	`[1,{"a":[2,{"b":[]}],"c":"x"},3]`, `[1,{"a":[2,{"b":[}],"c":"x"},3]`, `{"a":1 "b":2}`, `{"a":1,"b"}`, `{1:2}`, `[,1]`, `[1,,2]`,
}

func TestValidJSONIsWhatThePackageSays(t *testing.T) {
	for _, text := range append(jsonTexts, drainPayload(1), drainPayload(77)) {
		for end := range min(len(text), 300) + 1 { // all beginnings as well
			b := []byte(text[:len(text)-end])
			if got, want := validJSON(b), json.Valid(b); got != want {
				t.Errorf("%q: %v, want %v", b, got, want)
			}
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := validJSON(b), json.Valid(b); got != want {
			t.Errorf("%q: %v, want %v", b, got, want)
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	text := []byte(drainPayload(1))
	for name, valid := range map[string]func([]byte) bool{"ours": validJSON, "package": json.Valid} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if !valid(text) {
					b.Fatal("not valid")
				}
			}
		})
	}
}
