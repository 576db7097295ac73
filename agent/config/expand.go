package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFileValue bounds what a ${file:…} may hold: 64 KiB.
const maxFileValue = 64 << 10

// errMissing marks what a reference names and this machine does not have.
var errMissing = errors.New("missing here")

// missing is an error that is errMissing and does not say so.
type missing struct{ error }

func (missing) Is(target error) bool { return target == errMissing }

// expander expands ${NAME}, ${NAME:-default} and ${file:/path} in a value, and
// makes $${ a literal ${. It works on values after parsing, so that what it puts
// in can never become YAML. A nil function is that of package os.
type expander struct {
	dir      string // where relative paths start
	env      func(string) (string, bool)
	readFile func(string) ([]byte, error)
}

// Again gives a value whose file may have changed once more: path is where it
// stands in the config ("sources.line.mqtt.username"), was what Load made of it.
// Without a ${file:…} that is what it stays. It may be called by many goroutines.
func (c *Config) Again(path, was string) (string, error) {
	source, ok := c.fromFile[path]
	if !ok {
		return was, nil
	}
	text, _, err := c.from.expand(source)
	return text, err
}

// expand returns the expanded text, and whether a file is part of it. The
// result is not expanded again. Errors name the variable or the file, never
// what is in it.
func (x *expander) expand(s string) (text string, fromFile bool, err error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), fromFile, nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1] + "${")
			s = s[i+2:]
			continue
		}
		inside, rest, ok := strings.Cut(s[i+2:], "}")
		if !ok {
			return "", fromFile, errors.New("has a ${ without its }")
		}
		b.WriteString(s[:i])
		s = rest
		value, file, err := x.reference(inside)
		fromFile = fromFile || file
		if err != nil {
			return "", fromFile, err
		}
		b.WriteString(value)
	}
}

// reference is the value of what stands between ${ and }.
func (x *expander) reference(ref string) (value string, fromFile bool, err error) {
	if strings.Contains(ref, "${") {
		return "", false, errors.New("has a ${…} within another")
	}
	if path, ok := strings.CutPrefix(ref, "file:"); ok {
		value, err = x.file(path)
		return value, true, err
	}
	name, fallback, hasFallback := strings.Cut(ref, ":-")
	if !isEnvName(name) {
		return "", false, errors.New("has a ${…} that is neither ${NAME}, ${NAME:-default} nor ${file:/path}")
	}
	lookup := x.env
	if lookup == nil {
		lookup = os.LookupEnv
	}
	value, ok := lookup(name)
	switch {
	case hasFallback && value == "":
		return fallback, false, nil
	case !ok:
		return "", false, missing{fmt.Errorf("needs the environment variable %s, which is not set", name)}
	}
	return value, false, nil
}

// file is the content of a file without the newline at its end.
func (x *expander) file(path string) (string, error) {
	if path == "" {
		return "", errors.New("has a ${file:} without a path")
	}
	data, err := x.read(x.resolve(path), maxFileValue)
	if err != nil {
		return "", missing{err}
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// resolve makes a path that is written in the file usable from anywhere.
func (x *expander) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(x.dir, path)
}

// read reads a whole file of at most limit bytes; its errors name the file. The
// path is a resolved one: resolve puts the folder of the config before a relative path
// each time that it is called, and the config itself may be named by one.
func (x *expander) read(path string, limit int64) ([]byte, error) {
	read := x.readFile
	if read == nil {
		read = func(path string) ([]byte, error) { return readLimited(path, limit) }
	}
	data, err := read(path)
	if err != nil {
		return nil, &unreadable{path, err}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("cannot use the file %s: it is larger than %s", path, Size(limit))
	}
	return data, nil
}

// unreadable is a file that cannot be read.
type unreadable struct {
	path  string
	cause error
}

func (e *unreadable) Error() string {
	return fmt.Sprintf("cannot read the file %s: %s", e.path, reason(e.cause))
}
func (e *unreadable) Unwrap() error { return e.cause }

// readLimited reads a regular file; of a larger one limit+1 bytes. A device or
// a pipe could block or never end, so they are refused.
func readLimited(path string, limit int64) ([]byte, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// reason is an error of the file system in words, without the path.
func reason(err error) string {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.As(err, &pathErr):
		return pathErr.Err.Error()
	}
	return err.Error()
}

// isEnvName says whether s can be the name of an environment variable.
func isEnvName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// escape is the inverse of expand for a literal text.
func escape(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// clip shortens a text for a problem and makes it one line.
func clip(s string) string { return clipTo(s, 60) }

func clipTo(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-3]) + "..."
	}
	return s
}
