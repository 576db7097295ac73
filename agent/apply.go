package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"syscall"
	"time"

	"sluice/agent/config"
	"sluice/agent/control"
	"sluice/agent/web"
	"sluice/buffer"
)

// ErrOther is returned by Apply for a config that needs another Agent: one with
// another id, another data directory.
var ErrOther = errors.New("needs a new start")

// errStopped is returned by calls that come while the agent stops.
var errStopped = errors.New("the agent stops")

// Apply has the agent run cfg in place of what it runs. Only parts that cfg wants
// otherwise are stopped and made anew; if classes, uplinks or the buffer's
// settings change, the buffer is closed and opened again, for which the uplinks
// start anew and sources wait for a moment. It blocks until all is running or the
// config before runs again, and then returns why cfg could not be applied. Any
// goroutine may call it.
func (a *Agent) Apply(ctx context.Context, cfg *config.Config) error {
	return a.call(ctx, func() error { return a.apply(cfg) })
}

// call has the goroutine of Run do something, and waits for it.
func (a *Agent) call(ctx context.Context, f func() error) error {
	answer := make(chan error, 1)
	select {
	case a.calls <- func() { answer <- f() }:
		return <-answer
	case <-a.over:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply is change with a way back.
func (a *Agent) apply(cfg *config.Config) error {
	old := a.parts().cfg
	if cfg.Agent.ID != old.Agent.ID || cfg.Agent.DataDir != old.Agent.DataDir {
		return ErrOther
	}
	err := a.change(cfg)
	if err == nil || a.halt.Err() != nil {
		return err
	}
	if back := a.change(old); back != nil && a.halt.Err() == nil {
		err = fmt.Errorf("%w; and the config before cannot be applied any more: %w", err, back)
		a.broken = err
	}
	return err
}

// changing is one change of what runs.
type changing struct {
	*Agent
	cfg  *config.Config
	next parts
	web  *web.Server // made, not yet served

	fresh  []source // made, not yet run
	want   buffer.Config
	reopen bool // the buffer has to be opened
}

// change makes the agent run cfg: what is as cfg wants it stays. After an error
// some parts may be missing; another change makes them.
func (a *Agent) change(cfg *config.Config) error {
	c := &changing{Agent: a, cfg: cfg, next: *a.parts()}
	c.want = a.wantedBuffer(cfg)
	c.reopen = c.next.log == nil || !reflect.DeepEqual(c.want, c.next.opened)
	for _, step := range []func() error{c.listen, c.prepare, c.stopSources, c.stopUplinks, c.openBuffer, c.openControl, c.startUplinks, c.startSources, c.serve} {
		err := a.halt.Err()
		if err == nil {
			err = step()
		}
		if err != nil {
			if c.web != nil {
				_ = c.web.Close() // nobody has seen it yet
			}
			return err
		}
	}
	limits(cfg)
	if a.opt.Logs != nil {
		a.opt.Logs.Set(cfg.Log)
	}
	return nil
}

// listen takes the HTTP address if it is another one, while all else goes on.
func (c *changing) listen() (err error) {
	addr := c.cfg.Observe.HTTP
	if addr == "" || c.next.web != nil && c.next.addr == addr {
		return nil
	}
	c.web, err = web.Listen(addr, c.Agent, c.log)
	if errors.Is(err, syscall.EADDRINUSE) && c.next.web != nil && samePort(addr, c.next.web.Addr()) { // in use by ourselves
		if err = c.stopWeb(); err == nil {
			c.web, err = web.Listen(addr, c.Agent, c.log)
		}
	}
	return err
}

func samePort(a, b string) bool {
	_, p, err1 := net.SplitHostPort(a)
	_, q, err2 := net.SplitHostPort(b)
	return err1 == nil && err2 == nil && p == q
}

func (c *changing) stopWeb() error {
	if c.next.pages == nil {
		return nil
	}
	err := c.members.end(c.next.pages)
	c.next.web, c.next.pages = nil, nil
	c.show(c.next)
	return err
}

// prepare makes what is new and can be made while all else goes on, and tries the
// rest.
func (c *changing) prepare() error {
	for i := range c.cfg.Sources {
		s := &c.cfg.Sources[i]
		if was := c.next.source(s.Name); was != nil && was.key == sourceKey(c.cfg, s.Name) {
			continue
		}
		fresh, err := c.makeSource(c.cfg, s)
		if err != nil {
			return err
		}
		c.fresh = append(c.fresh, fresh)
	}
	for _, u := range ownPlace(c.cfg) {
		if _, err := c.makeUplink(c.cfg, u, nil); err != nil {
			return err
		}
	}
	return nil
}

// stopSources ends the sources that are gone or to be made anew.
func (c *changing) stopSources() error {
	var stay []source
	var gone []*member
	for _, s := range c.next.sources {
		if s.key == sourceKey(c.cfg, s.name) {
			stay = append(stay, s)
		} else {
			gone = append(gone, s.member)
		}
	}
	c.ended(c.members.end(gone...))
	for _, s := range c.next.sources {
		if slices.Contains(gone, s.member) {
			c.past.sources[s.name] = s.stats()
		}
	}
	c.next.sources = stay
	c.show(c.next)
	return nil
}

// stopUplinks ends the uplinks that are gone or to be made anew; all of them if
// the buffer is, since they read from it.
func (c *changing) stopUplinks() error {
	var stay, gone []destination
	var members []*member
	for _, u := range c.next.uplinks {
		if !c.reopen && u.key == uplinkKey(c.cfg, u.name) {
			stay = append(stay, u)
		} else {
			gone, members = append(gone, u), append(members, u.member)
		}
	}
	c.ended(c.members.end(members...))
	for _, u := range gone {
		u.reader.Close()
		c.past.keepUplink(&u)
	}
	c.next.uplinks = stay
	c.show(c.next)
	return nil
}

// ended logs what a part said that was stopped for a change.
func (c *changing) ended(err error) {
	if err != nil {
		c.log.Error("a part did not stop in order for a change of the config", "error", err)
	}
}

// openBuffer opens the buffer, or opens it anew. Its sources wait in the gate
// meanwhile; what they had queued goes over.
func (c *changing) openBuffer() error {
	if !c.reopen {
		return nil
	}
	begin := time.Now()
	old := c.next.buffer
	c.closeBuffer()
	if err := writable(c.cfg.Agent.DataDir); err != nil {
		return err
	}
	c.warnUnrouted(c.cfg)
	if c.back == nil { // else it keeps all
		c.warnStranded(c.cfg)
	}
	bc := c.want
	for _, name := range c.gone {
		if _, wanted := bc.Uplinks[name]; !wanted {
			bc.Removed = append(slices.Clone(bc.Removed), name)
		}
	}
	bc.Log, bc.ObserveCommit = c.log.With("stage", "buffer"), c.meters.commit
	b, err := buffer.Open(bc)
	if err != nil {
		return fmt.Errorf("open the buffer: %w", err)
	}
	if old != nil {
		b.Inherit(old)
		c.log.Info("the buffer was opened anew for a change of the config", "took", time.Since(begin).Round(time.Millisecond))
	}
	c.next.buffer, c.next.before, c.next.cfg, c.next.opened = b, c.past.log, c.cfg, c.want
	c.next.log = c.members.add(stageBuffer, "buffer", b.Run)
	c.show(c.next)
	c.gate.lead(b)
	return nil
}

func (c *changing) closeBuffer() {
	if c.next.log == nil {
		return
	}
	c.next.buffer.Retire()
	c.ended(c.members.end(c.next.log))
	c.ended(c.next.buffer.Close())
	c.past.keepLog(c.next.logStats())
	c.next.log = nil
	c.show(c.next)
}

// openControl makes the control socket, once.
func (c *changing) openControl() (err error) {
	if c.control != nil || c.next.cfg == nil {
		return nil
	}
	if c.control, err = control.Listen(c.cfg.Agent.DataDir, c.Agent, c.log); err != nil {
		// Some file systems have no sockets. Events come first.
		c.log.Error("commands such as sluice replay will not work", "error", err)
		return nil
	}
	c.members.add(stageSource, "control socket", c.control.Run)
	return nil
}

// startUplinks starts the uplinks that do not run.
func (c *changing) startUplinks() error {
	list := make([]destination, 0, len(c.cfg.Uplinks))
	for _, u := range ownPlace(c.cfg) {
		if d := c.next.uplink(u.Name); d != nil {
			list = append(list, *d)
			continue
		}
		d, err := c.makeUplink(c.cfg, u, c.next.buffer)
		if err != nil {
			return err
		}
		d.member = c.members.add(stageUplink, "uplink "+u.Name, d.run)
		list = append(list, d)
		c.next.uplinks = append(c.next.uplinks, d)
		c.show(c.next)
	}
	c.next.uplinks = list
	return nil
}

// startSources starts the sources that do not run, and lets the new config be
// seen.
func (c *changing) startSources() error {
	c.reports.follow(c.cfg)
	list := make([]source, 0, len(c.cfg.Sources))
	for i := range c.cfg.Sources {
		name := c.cfg.Sources[i].Name
		if s := c.next.source(name); s != nil {
			list = append(list, *s)
			continue
		}
		j := slices.IndexFunc(c.fresh, func(s source) bool { return s.name == name })
		s := c.fresh[j]
		s.before = c.past.sources[name]
		s.member = c.members.add(stageSource, "source "+name, s.driver.Run)
		list = append(list, s)
	}
	c.next.sources, c.next.cfg = list, c.cfg
	c.show(c.next)
	return nil
}

// serve shows the pages on the new address, if it is one.
func (c *changing) serve() error {
	if c.web == nil && (c.cfg.Observe.HTTP != "" || c.next.web == nil) {
		return nil
	}
	fresh := c.web
	c.ended(c.stopWeb())
	if c.web = nil; fresh != nil {
		c.next.web = fresh
		c.next.addr = c.cfg.Observe.HTTP
		c.next.pages = c.members.add(stagePages, "http", fresh.Run)
	}
	c.show(c.next)
	return nil
}

// bury takes a part out of what runs that came to its end while a config is on
// trial, and tells whoever judges that.
func (a *Agent) bury(e ended) {
	_ = a.members.end(e.member) // its end is known already
	next := *a.parts()
	if next.pages == e.member {
		next.web, next.pages = nil, nil
	}
	next.sources = slices.DeleteFunc(slices.Clone(next.sources), func(s source) bool { return s.member == e.member })
	for i, u := range next.uplinks {
		if u.member == e.member {
			u.reader.Close()
			a.past.keepUplink(&u)
			next.uplinks = slices.Delete(slices.Clone(next.uplinks), i, i+1)
			break
		}
	}
	a.show(next)
	select {
	case a.back.faults <- e.err:
	default: // one is enough
	}
}
