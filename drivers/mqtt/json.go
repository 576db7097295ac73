package mqtt

import (
	"encoding/json"
	"strings"
)

// maxNesting is how deep validJSON looks by itself, a bit for each level.
const maxNesting = 64

// plain are the bytes that a string may hold as they are, RFC 8259 §7.
var plain = func() (table [256]bool) {
	for c := range table {
		table[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return table
}()

// validJSON says what json.Valid says in a third of the time. Each payload that may
// be JSON is judged, and that was a third of what taking it costs.
func validJSON(b []byte) bool {
	var objects uint64 // a bit for each value that is open: 1 is an object
	depth, i := 0, skipSpace(b, 0)
	for i >= 0 && i < len(b) { // a value begins at i
		if c := b[i]; c != '{' && c != '[' {
			i = skipScalar(b, i)
		} else {
			if depth == maxNesting {
				return json.Valid(b)
			}
			depth, objects = depth+1, objects<<1
			if c == '{' {
				objects |= 1
			}
			i = skipSpace(b, i+1)
			if empty := i < len(b) && b[i] == c+2; !empty { // ] and } stand two after [ and {
				if c == '{' {
					i = skipKey(b, i)
				}
				continue
			}
		}
		for more := false; !more; { // one has ended before i
			if i < 0 {
				return false
			}
			if i = skipSpace(b, i); depth == 0 {
				return i == len(b)
			}
			if i == len(b) {
				return false
			}
			object := objects&1 == 1
			switch c := b[i]; {
			case c == ',':
				more, i = true, skipSpace(b, i+1)
				if object {
					i = skipKey(b, i)
				}
			case c == '}' && object, c == ']' && !object:
				depth, objects, i = depth-1, objects>>1, i+1
			default:
				return false
			}
		}
	}
	return false
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipKey goes past "name": to the value; -1 if there is none.
func skipKey(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	if i = skipString(b, i); i < 0 {
		return -1
	}
	if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
		return -1
	}
	return skipSpace(b, i+1)
}

// skipScalar goes past a string, number or word; -1 if there is none.
func skipScalar(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	}
	return skipNumber(b, i)
}

func skipWord(b []byte, i int, word string) int {
	if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
		return i + len(word)
	}
	return -1
}

func skipString(b []byte, i int) int {
	for i++; ; i++ {
		for i < len(b) && plain[b[i]] {
			i++
		}
		switch {
		case i == len(b):
			return -1
		case b[i] == '"':
			return i + 1
		case b[i] != '\\' || i+1 == len(b):
			return -1
		case b[i+1] == 'u':
			if i+6 > len(b) || strings.Trim(string(b[i+2:i+6]), "0123456789abcdefABCDEF") != "" {
				return -1
			}
			i += 5
		case strings.IndexByte(`"\/bfnrt`, b[i+1]) >= 0:
			i++
		default:
			return -1
		}
	}
}

func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = skipDigits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return skipDigits(b, i)
	}
	return i
}

// skipDigits goes past one digit or more; -1 if there is none.
func skipDigits(b []byte, i int) int {
	from := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
