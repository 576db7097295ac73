package sparkplug

import (
	"encoding/json"
	"unicode/utf8"

	"sluice/drivers"
)

// hostMessage passes the state of a host application as it is: JSON (Sparkplug
// 3.0.0 §4.2.3), or a word before version 3.
func hostMessage(body []byte) Message {
	m := Message{Payload: body, ContentType: drivers.ContentBinary}
	if len(body) > 0 && body[0] == '{' && utf8.Valid(body) && json.Valid(body) {
		m.ContentType = drivers.ContentJSON
	}
	return m
}
