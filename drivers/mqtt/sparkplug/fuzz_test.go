package sparkplug

import (
	"encoding/hex"
	"testing"
)

// Whatever a broker sends, a decoder gives valid JSON within its bound, or an
// error, and what it remembers stays within its bound.
func FuzzDecode(f *testing.F) {
	for _, file := range []string{"datatypes.json", "session.json"} {
		for _, c := range load(f, file) {
			topic, _ := c["topic"].(string)
			if topic == "" {
				topic = "spBv1.0/G/DBIRTH/N/D"
			}
			b, err := hex.DecodeString(c["hex"].(string))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(topic, b, b)
		}
	}
	f.Add("STATE/host", []byte(`{"online":true}`), []byte{})
	const maxJSON, maxState = 1 << 14, 1 << 13
	f.Fuzz(func(t *testing.T, topic string, birth, body []byte) {
		d, _ := newDecoder(Config{MaxJSON: maxJSON, MaxState: maxState})
		for _, m := range []struct {
			topic string
			body  []byte
		}{{"spBv1.0/G/NBIRTH/N", birth}, {"spBv1.0/G/DBIRTH/N/D", birth}, {topic, body}, {"spBv1.0/G/NDATA/N", body}, {"spBv1.0/G/DDATA/N/D", body}, {"spBv1.0/G/NDEATH/N", body}} {
			out, err := d.Decode(m.topic, m.body, taken)
			if err == nil && out.Device != "" {
				object(t, out.Payload)
				if len(out.Payload) > maxJSON+1024 {
					t.Fatalf("%d bytes of JSON", len(out.Payload))
				}
			}
			if d.state.room < 0 || d.state.room > maxState {
				t.Fatalf("%d bytes of room", d.state.room)
			}
		}
	})
}
