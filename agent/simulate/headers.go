package simulate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// headersOf returns a record's headers by name.
func headersOf(r *kgo.Record) map[string]string {
	h := make(map[string]string, len(r.Headers))
	for _, one := range r.Headers {
		h[one.Key] = string(one.Value)
	}
	return h
}

// headerProblem says what is wrong with a record's key and headers, which are
// those of a CloudEvents 1.0 event in binary mode (Kafka protocol binding §3.2).
// It is empty if all is well.
func (c *comparison) headerProblem(r *kgo.Record, h map[string]string, stream string) string {
	source := "/" + c.agent + "/" + c.mqtt
	if bus, ok := c.meters[stream]; ok {
		source = "/" + c.agent + "/" + bus + "/" + stream
	}
	want := [][2]string{
		{"ce_specversion", "1.0"},
		{"ce_source", source},
		{"ce_subject", stream},
		{"content-type", "application/json"},
	}
	for _, w := range want {
		if h[w[0]] != w[1] {
			return fmt.Sprintf("%s is %q, not %q", w[0], h[w[0]], w[1])
		}
	}
	if string(r.Key) != stream {
		return fmt.Sprintf("the key is %q, not %q", r.Key, stream)
	}
	class, _, _, ok := parseID(c.agent, h["ce_id"])
	if !ok {
		return fmt.Sprintf("ce_id is %q, not %s/<class>/<incarnation>/<seq>", h["ce_id"], c.agent)
	}
	if !strings.HasSuffix(r.Topic, "."+class) {
		return fmt.Sprintf("a record of class %q stands in topic %s", class, r.Topic)
	}
	return timeProblem(r, h["ce_time"])
}

func timeProblem(r *kgo.Record, text string) string {
	at, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err != nil || !strings.HasSuffix(text, "Z"):
		return fmt.Sprintf("ce_time is %q, not RFC 3339 in UTC", text)
	case at.UnixMilli() != r.Timestamp.UnixMilli():
		return fmt.Sprintf("ce_time is %s, but the record's timestamp %s", text, r.Timestamp.UTC().Format(time.RFC3339Nano))
	}
	return ""
}

// parseID takes a ce_id apart: <agent>/<class>/<incarnation>/<seq>.
func parseID(agent, id string) (class, incarnation string, seq uint64, ok bool) {
	rest, ok := strings.CutPrefix(id, agent+"/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || parts[0] == "" || len(parts[1]) != 8 {
		return "", "", 0, false
	}
	if _, err := strconv.ParseUint(parts[1], 16, 32); err != nil || strings.ToLower(parts[1]) != parts[1] {
		return "", "", 0, false
	}
	seq, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil || seq == 0 || strconv.FormatUint(seq, 10) != parts[2] {
		return "", "", 0, false
	}
	return parts[0], parts[1], seq, true
}
