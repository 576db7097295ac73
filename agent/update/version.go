package update

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// version is N, N.N or N.N.N, perhaps with -PRERELEASE; +BUILD is ignored.
type version struct {
	number     [3]uint64
	prerelease string
}

func parseVersion(text string) (v version, err error) {
	text, _, _ = strings.Cut(text, "+")
	numbers, pre, dashed := strings.Cut(text, "-")
	fields := strings.Split(numbers, ".")
	if len(fields) > len(v.number) || dashed && pre == "" {
		return v, fmt.Errorf("%q is no version such as 1.2.3 or 1.2.3-rc1", text)
	}
	for i, f := range fields {
		if v.number[i], err = strconv.ParseUint(f, 10, 32); err != nil {
			return v, fmt.Errorf("%q is no version such as 1.2.3 or 1.2.3-rc1", text)
		}
	}
	v.prerelease = pre
	return v, nil
}

// compare orders versions as the image's pre-install script does: a prerelease
// is older than its release, two of one release are ordered as text.
func (v version) compare(w version) int {
	for i := range v.number {
		if c := cmp.Compare(v.number[i], w.number[i]); c != 0 {
			return c
		}
	}
	switch {
	case v.prerelease == w.prerelease:
		return 0
	case v.prerelease == "":
		return 1
	case w.prerelease == "":
		return -1
	}
	return cmp.Compare(v.prerelease, w.prerelease)
}
