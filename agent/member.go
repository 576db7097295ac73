package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// stage says which members stop together, and in which order the stages do.
type stage int

const (
	stageBuffer stage = iota
	stageUplink
	stageSource // also what gives orders: control socket, remote
	stagePages
)

// member is a part that runs in a goroutine of its own.
type member struct {
	stage  stage
	name   string
	run    func(context.Context) error
	cancel context.CancelFunc
	done   chan error
}

// ended says that a member came to its end though nobody stopped it.
type ended struct {
	member *member
	err    error
}

// members are the goroutines of an agent. They belong to one goroutine.
type members struct {
	parent context.Context //nolint:containedctx // nil: they wait for begin
	list   []*member
	ended  chan ended
}

// add has run called, at once or when the agent begins. It must block until its
// ctx ends; what ends before is an error, nil included.
func (ms *members) add(s stage, name string, run func(context.Context) error) *member {
	m := &member{stage: s, name: name, run: run, done: make(chan error, 1)}
	ms.list = append(ms.list, m)
	if ms.parent != nil {
		ms.start(m)
	}
	return m
}

// begin starts those that wait, in the order in which they were added.
func (ms *members) begin(parent context.Context) {
	ms.parent = parent
	for _, m := range ms.list {
		ms.start(m)
	}
}

func (ms *members) start(m *member) {
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(ms.parent)
	go func() {
		err := m.run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			select {
			case ms.ended <- ended{m, fmt.Errorf("%s: %w", m.name, err)}:
			case <-ctx.Done():
			}
			err = nil
		} else if err != nil && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("stop %s: %w", m.name, err)
		} else {
			err = nil
		}
		m.done <- err
	}()
}

// stop ends the members of a stage, all at once, and waits for them.
func (ms *members) stop(s stage) error {
	var list []*member
	for _, m := range ms.list {
		if m.stage == s {
			list = append(list, m)
		}
	}
	return ms.end(list...)
}

// end ends some members, all at once, and waits for them.
func (ms *members) end(list ...*member) error {
	ms.list = slices.DeleteFunc(ms.list, func(m *member) bool { return slices.Contains(list, m) })
	for _, m := range list {
		if m.cancel != nil {
			m.cancel()
		}
	}
	var errs []error
	for _, m := range list {
		if m.cancel != nil {
			errs = append(errs, <-m.done)
		}
	}
	return errors.Join(errs...)
}
