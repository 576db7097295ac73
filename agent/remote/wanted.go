package remote

import (
	"strings"

	"sluice/agent/remote/document"
)

// Wanted says whether a record with this key may be for an agent: a document or
// command for its id, a label of its, or all, or a trust document.
func Wanted(key, id string, labels map[string]string) bool {
	if strings.HasPrefix(key, trustPrefix) {
		return true
	}
	t, err := document.ParseTarget(key)
	return err == nil && t.Matches(id, labels)
}
