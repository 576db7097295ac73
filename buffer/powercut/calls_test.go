//go:build torture

package powercut

import (
	"fmt"
	"path/filepath"
	"strings"
)

// host is a recorded process as far as its calls change the disk.
type host struct {
	disk *disk
	fds  map[int]*handle
}

// handle is an open file; on is nil for what does not lie on the disk.
type handle struct {
	on     *inode
	pos    int64
	append bool
}

func newHost(d *disk) *host { return &host{disk: d, fds: map[int]*handle{}} }

func (h *host) ours(path string) bool {
	return path == h.disk.root || strings.HasPrefix(path, h.disk.root+string(filepath.Separator))
}

// take has a step change the disk.
func (h *host) take(s step) error {
	var err error
	if s.exit {
		err = h.exit(s.call)
	} else {
		err = h.enter(s.call)
	}
	if err != nil {
		return fmt.Errorf("trace line %d: %s: %w", s.line, s.name, err)
	}
	return nil
}

func (h *host) enter(c *call) error {
	c.effect = nil
	switch c.name {
	case "openat", "lseek", "dup", "dup2", "dup3":
		return nil
	case "close": // the number is free as soon as the call begins
		delete(h.fds, c.fd)
	case "mkdirat":
		if h.ours(c.path) && h.disk.live[c.path] == nil {
			c.effect = h.disk.change(&meta{kind: "link", path: c.path, on: h.disk.node(c.path, true)})
		}
	case "renameat", "renameat2":
		if i := h.disk.live[c.path]; i != nil {
			c.effect = h.disk.change(&meta{kind: "rename", path: c.path, to: c.to, on: i})
		}
	case "unlinkat":
		if i := h.disk.live[c.path]; i != nil && !i.dir {
			c.effect = h.disk.change(&meta{kind: "unlink", path: c.path, on: i})
		}
	case "write", "pwrite64", "ftruncate":
		return h.enterWrite(c)
	case "fsync", "fdatasync":
		if f, err := h.handle(c); err != nil || f == nil {
			return err
		} else if f.on != nil {
			c.effect = h.disk.coveredBy(f.on)
		}
	default:
		if h.ours(c.path) || h.ours(c.fdPath) {
			return fmt.Errorf("on %s%s: the model does not know this call", c.path, c.fdPath)
		}
	}
	return nil
}

func (h *host) enterWrite(c *call) error {
	f, err := h.handle(c)
	if err != nil || f == nil || f.on == nil {
		return err
	}
	o := &op{truncate: c.name == "ftruncate", off: c.off, data: c.data}
	if c.name == "write" {
		if o.off = f.pos; f.append {
			o.off = f.on.size
		}
	}
	c.effect = h.disk.begin(f.on, o)
	return nil
}

// handle returns the open file of c; nil when it was opened before the trace
// began, as the standard streams.
func (h *host) handle(c *call) (*handle, error) {
	f := h.fds[c.fd]
	if f == nil {
		if h.ours(c.fdPath) {
			return nil, fmt.Errorf("descriptor %d is %s, and the model has not seen it opened", c.fd, c.fdPath)
		}
		return nil, nil
	}
	if f.on != nil && f.on.name != c.fdPath {
		return nil, fmt.Errorf("descriptor %d is %s; the model takes it for %s", c.fd, c.fdPath, f.on.name)
	}
	return f, nil
}

func (h *host) exit(c *call) error {
	ok := c.returned && c.ret >= 0
	switch e := c.effect.(type) {
	case *meta:
		if c.returned { // else the process was killed in it, and it may have happened
			h.disk.finish(e, ok)
		}
	case *op:
		if !c.returned {
			return nil
		}
		e.end(ok, c.ret)
		if f := h.fds[c.fd]; c.name == "write" && ok && f != nil {
			f.pos += c.ret
		}
	case covered:
		if f := h.fds[c.fd]; f != nil && c.returned {
			h.disk.synced(f.on, e, ok)
		}
	}
	switch {
	case !ok:
	case c.name == "openat":
		return h.opened(c)
	case strings.HasPrefix(c.name, "dup"), c.name == "lseek":
		if c.path != "" && h.ours(c.path) {
			return fmt.Errorf("on %s: the model does not know this call", c.path)
		}
	}
	return nil
}

func (h *host) opened(c *call) error {
	fd := int(c.ret)
	if !h.ours(c.path) {
		h.fds[fd] = &handle{}
		return nil
	}
	i := h.disk.live[c.path]
	if i == nil {
		if !strings.Contains(c.flags, "O_CREAT") {
			return fmt.Errorf("%s was opened, and the model has no such file", c.path)
		}
		i = h.disk.node(c.path, false)
		h.disk.finish(h.disk.change(&meta{kind: "link", path: c.path, on: i}), true)
	}
	if strings.Contains(c.flags, "O_TRUNC") && i.size > 0 {
		h.disk.begin(i, &op{truncate: true}).end(true, 0)
	}
	h.fds[fd] = &handle{on: i, append: strings.Contains(c.flags, "O_APPEND")}
	return nil
}
