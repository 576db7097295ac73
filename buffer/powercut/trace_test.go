//go:build torture

package powercut

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// traced are the calls that strace reports. Those that the model does not know
// are traced so that their use is noticed.
const traced = "openat,open,creat,pwrite64,write,writev,pwritev,pwritev2,fsync,fdatasync,sync,syncfs,sync_file_range,msync," +
	"ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlinkat," +
	"lseek,dup,dup2,dup3,copy_file_range,sendfile,splice,close"

// call is one system call of the recorded process.
type call struct {
	name     string
	line     int // of the trace
	fd       int
	fdPath   string // what the kernel calls the open file
	path, to string
	flags    string
	data     []byte
	off      int64

	returned bool
	ret      int64
	injected bool
	effect   any // what the model made of the entry
}

// step is the entry or the return of a call, in the order in which strace saw
// them: it stops the process at each, so nothing lies between.
type step struct {
	*call
	exit bool
}

// What strace writes in place of a result: the call goes on, or its process was
// killed in it.
const (
	unfinished = " <unfinished ...>"
	detached   = " <detached ...>"
)

// readTrace parses what strace wrote with -f -y -xx.
func readTrace(path string) ([]step, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseTrace(f)
}

func parseTrace(r io.Reader) (steps []step, err error) {
	open := map[string]*call{} // by thread
	in := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return steps, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		thread, rest, ok := strings.Cut(strings.TrimRight(line, "\n"), " ")
		if !ok {
			return nil, fmt.Errorf("trace line %d: no thread: %.80q", n, line)
		}
		got, err := parseLine(open, thread, strings.TrimLeft(rest, " "), n)
		if err != nil {
			return nil, fmt.Errorf("trace line %d: %w: %.80q … %q", n, err, line, line[max(0, len(line)-120):])
		}
		steps = append(steps, got...)
	}
}

func parseLine(open map[string]*call, thread, rest string, line int) ([]step, error) {
	if strings.HasPrefix(rest, "+++") || strings.HasPrefix(rest, "---") || strings.HasPrefix(rest, "???") { // no call
		return nil, nil
	}
	if rest, ok := strings.CutPrefix(rest, "<... "); ok {
		name, rest, _ := strings.Cut(rest, " resumed>")
		c := open[thread]
		if c == nil || c.name != name {
			return nil, errors.New("resumed and never begun")
		}
		delete(open, thread)
		if strings.HasSuffix(rest, detached) {
			return nil, nil
		}
		_, err := c.result(rest)
		return []step{{call: c, exit: true}}, err
	}
	name, args, ok := strings.Cut(rest, "(")
	if !ok {
		return nil, errors.New("not a call")
	}
	c := &call{name: name, line: line, fd: -1}
	if args, ok := strings.CutSuffix(strings.TrimSuffix(args, ") = ?"), unfinished); ok {
		open[thread] = c
		return []step{{call: c}}, c.arguments(args)
	}
	if args, ok := strings.CutSuffix(args, detached); ok {
		return []step{{call: c}}, c.arguments(args)
	}
	args, err := c.result(args)
	if err != nil {
		return nil, err
	}
	return []step{{call: c}, {call: c, exit: true}}, c.arguments(args)
}

// result reads "…) = 7<path>" or "…) = -1 EIO (…) (INJECTED)" and returns what
// stands before it.
func (c *call) result(s string) (args string, err error) {
	i := strings.LastIndex(s, " = ")
	if i < 0 {
		return "", errors.New("no result")
	}
	args, ok := strings.CutSuffix(strings.TrimRight(s[:i], " "), ")")
	if !ok {
		return "", errors.New("no result")
	}
	value, _, _ := strings.Cut(s[i+3:], " ")
	value, _, _ = strings.Cut(value, "<")
	c.injected = strings.HasSuffix(s, "(INJECTED)")
	if value == "?" { // the process was killed in it
		return args, nil
	}
	c.returned = true
	c.ret, err = strconv.ParseInt(value, 10, 64)
	return args, err
}

// arguments reads the arguments of the calls that the model knows.
func (c *call) arguments(s string) error {
	a := strings.Split(s, ", ") // no string holds one: all of it is in hex
	switch c.name {
	case "openat":
		c.flags = at(a, 2)
		return c.location(&c.path, a, 0)
	case "mkdirat", "unlinkat":
		c.flags = at(a, 2)
		return c.location(&c.path, a, 0)
	case "renameat", "renameat2":
		return errors.Join(c.location(&c.path, a, 0), c.location(&c.to, a, 2))
	case "write", "pwrite64":
		data, err := unquote(at(a, 1))
		if err != nil {
			return err
		}
		c.data = data
		if n, err := strconv.Atoi(at(a, 2)); err != nil || n != len(data) {
			return fmt.Errorf("%d bytes of %s were recorded", len(data), at(a, 2))
		}
		if c.name == "pwrite64" {
			if c.off, err = strconv.ParseInt(at(a, 3), 10, 64); err != nil {
				return err
			}
		}
		return c.descriptor(at(a, 0))
	case "writev": // of one part: a mark
		hexed, ok := strings.CutPrefix(at(a, 1), "[{iov_base=")
		if !ok || at(a, 3) != "1" {
			return c.unknown(s)
		}
		data, err := unquote(hexed)
		if err != nil {
			return err
		}
		c.data = data
		return c.descriptor(at(a, 0))
	case "ftruncate":
		var err error
		if c.off, err = strconv.ParseInt(at(a, 1), 10, 64); err != nil {
			return err
		}
		return c.descriptor(at(a, 0))
	case "fsync", "fdatasync", "close":
		return c.descriptor(at(a, 0))
	}
	return c.unknown(s)
}

// unknown keeps the first path that an unmodelled call names, so that its use on
// a file of the buffer can be told.
func (c *call) unknown(s string) error {
	i := strings.Index(s, `\x`)
	if i < 0 {
		return nil
	}
	hexed := s[i:]
	if end := strings.IndexAny(hexed, `">`); end >= 0 {
		hexed = hexed[:end]
	}
	b, err := unhex(hexed)
	c.path = string(b)
	return err
}

func at(a []string, i int) string {
	if i < len(a) {
		return a[i]
	}
	return ""
}

// location joins a directory's descriptor and a path.
func (c *call) location(to *string, a []string, i int) error {
	b, err := unquote(at(a, i+1))
	if err != nil {
		return err
	}
	*to = string(b)
	if !filepath.IsAbs(*to) {
		_, dir, err := splitDescriptor(at(a, i))
		if err != nil {
			return err
		}
		*to = filepath.Join(dir, *to)
	}
	return nil
}

func (c *call) descriptor(s string) error {
	n, path, err := splitDescriptor(s)
	if err != nil {
		return err
	}
	c.fdPath = path
	c.fd, err = strconv.Atoi(n)
	return err
}

// splitDescriptor takes 7<path> apart.
func splitDescriptor(s string) (fd, path string, err error) {
	fd, rest, _ := strings.Cut(s, "<")
	rest, _, _ = strings.Cut(rest, ">")
	b, err := unhex(rest)
	return fd, string(b), err
}

func unquote(s string) ([]byte, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return nil, fmt.Errorf("not a whole string: %.40q", s)
	}
	return unhex(s[1 : len(s)-1])
}

// unhex decodes \x41\x42. What -y says of sockets and pipes is not in hex and
// is of no interest.
func unhex(s string) ([]byte, error) {
	if !strings.HasPrefix(s, `\x`) {
		return nil, nil
	}
	if len(s)%4 != 0 {
		return nil, fmt.Errorf("odd string %.40q", s)
	}
	pairs := make([]byte, 0, len(s)/2)
	for i := 0; i < len(s); i += 4 {
		pairs = append(pairs, s[i+2], s[i+3])
	}
	out := make([]byte, len(pairs)/2)
	_, err := hex.Decode(out, pairs)
	return out, err
}
