package config

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// nameForms says what a name may be.
const nameForms = "1 to 64 of A-Z a-z 0-9 . _ -"

// isName says whether s can be the name of an agent, source, class, uplink or
// device: it becomes part of file names, topics and metric labels.
func isName(s string) bool {
	for _, c := range []byte(s) {
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return false
	}
	return len(s) >= 1 && len(s) <= 64 && s != "." && s != ".."
}

// nameRule returns what is allowed when s is no valid name, else nothing. A
// free name is any text of one line.
func nameRule(s string, free bool) string {
	switch {
	case free && (s == "" || len(s) > 128 || strings.ContainsFunc(s, unicode.IsControl)):
		return "1 to 128 bytes without control characters"
	case !free && !isName(s):
		return nameForms
	}
	return ""
}

// sanitise makes a name of a host name.
func sanitise(s string) string {
	s = strings.Map(func(r rune) rune {
		if isName(string(r)) || r == '.' {
			return r
		}
		return '-'
	}, s)
	return strings.Trim(s[:min(len(s), 64)], ".-")
}

// suggest names the known key that is meant, in a sentence and by itself, or all
// of them.
func suggest(key string, fields []field) (allowed, meant string) {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	if best, ok := nearest(key, keys); ok {
		return `did you mean "` + best + `"?`, best
	}
	return "known here: " + strings.Join(keys, ", "), ""
}

// nearest is the word with the fewest edits from s, if they are few.
func nearest(s string, words []string) (best string, ok bool) {
	limit := 1 + min(len(s), 64)/3
	for _, w := range words {
		if n := edits(strings.ToLower(s), w); n <= limit && len(s) <= 64 {
			best, limit, ok = w, n-1, true
		}
	}
	return best, ok
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// quote shows a text of the file in a problem.
func quote(s string) string {
	if s != "" && isNumber(s) {
		return s
	}
	return strconv.Quote(clip(s))
}

func contains(words []string, word string) bool { return slices.Contains(words, word) }
