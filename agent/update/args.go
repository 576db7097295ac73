package update

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"sluice/agent/remote/tree"
)

// MaxBundle is the largest bundle that is fetched, in bytes.
const MaxBundle = 1 << 30

// Bundle is what a command update names, and where it is fetched from.
type Bundle struct {
	Version string `json:"version"`
	Size    int64  `json:"size"`   // bytes, 1 to MaxBundle
	SHA256  string `json:"sha256"` // 64 hex digits

	// URL, http or https; or Topic.
	URL string `json:"url,omitempty"`

	// Topic holds the bundle in chunks, as Put has written them: one after the
	// other in Partition, the first at Offset or later.
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition,omitempty"`
	Offset    int64  `json:"offset,omitempty"`
}

// ParseArgs reads the arguments of a command update: version, size, sha256, and
// url, or topic, partition and offset. Every problem is named.
func ParseArgs(args *tree.Node) (b Bundle, err error) {
	f := fields{known: map[string]bool{}}
	text := func(key string) string { return f.text(args, key) }
	number := func(key string, highest int64) int64 {
		s := text(key)
		if s == "" {
			return 0
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 || n > highest {
			f.wrong("%s: %.40q is no number from 0 to %d", key, s, highest)
		}
		return n
	}
	b = Bundle{Version: text("version"), Size: number("size", MaxBundle), SHA256: strings.ToLower(text("sha256")), URL: text("url"), Topic: text("topic"),
		Partition: int32(number("partition", 1<<31-1)), Offset: number("offset", 1<<62)}
	if args != nil {
		for _, e := range args.Entries {
			if !f.known[e.Key] {
				f.wrong("%.40q is unknown", e.Key)
			}
		}
	}
	if err := b.Check(); err != nil {
		f.errs = append(f.errs, err)
	}
	return b, errors.Join(f.errs...)
}

// Check says what is wrong with b, every problem.
func (b Bundle) Check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := parseVersion(b.Version); err != nil {
		wrong("version: %w", err)
	}
	if b.Size < 1 || b.Size > MaxBundle {
		wrong("size: %d is out of range (1 to %d bytes)", b.Size, MaxBundle)
	}
	if sum, err := hex.DecodeString(b.SHA256); err != nil || len(sum) != 32 {
		wrong("sha256: is not 64 hex digits")
	}
	u, err := url.Parse(b.URL)
	switch {
	case (b.URL == "") == (b.Topic == ""):
		wrong("url or topic says where the bundle is, one of them")
	case b.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
		wrong("url: is no http:// or https:// address")
	}
	return errors.Join(errs...)
}

// fields collects problems.
type fields struct {
	known map[string]bool
	errs  []error
}

func (f *fields) wrong(format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf(format, args...))
}

func (f *fields) text(args *tree.Node, key string) string {
	f.known[key] = true
	if args == nil {
		return ""
	}
	n := args.Get(key)
	switch {
	case n == nil:
		return ""
	case n.Kind != tree.Scalar:
		f.wrong("%s: is no single value", key)
		return ""
	}
	return n.Text
}
