package drivers

import "unicode/utf8"

// AppendJSON appends s to dst as a JSON string (RFC 8259 §7) and returns it. Bytes
// that are no UTF-8 become U+FFFD.
func AppendJSON(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}
