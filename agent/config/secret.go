package config

// mask stands in for a secret wherever one could be shown.
const mask = "***"

// Secret is a password as it stands in the file, unexpanded, so that a
// ${file:…} is read again by each Value. It never shows itself: String, %v and
// YAML() give ***.
type Secret struct {
	source string
	from   *expander
}

// IsSet says whether the file has the secret.
func (s Secret) IsSet() bool { return s.source != "" }

// Value expands the secret now. An error names the variable or the file, never
// the value. It may be called by many goroutines.
func (s Secret) Value() (string, error) {
	if s.source == "" {
		return "", nil
	}
	text, _, err := s.from.expand(s.source)
	return text, err
}

// String is the mask, or empty when there is no secret.
func (s Secret) String() string {
	if s.source == "" {
		return ""
	}
	return mask
}

// GoString is the mask too, for %#v.
func (s Secret) GoString() string { return s.String() }
