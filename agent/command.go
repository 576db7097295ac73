package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"sluice/agent/control"
	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/drivers/modbus"
)

// Commander carries out commands that were verified and are remembered. It blocks
// until the command is done, has failed, or ctx has ended. The result is what
// encoding/json makes of it; with an error it may say what was done up to there.
// A result that is an Afterwards is not the end. Commands may be carried out by
// several goroutines at once.
type Commander interface {
	Do(ctx context.Context, cmd *document.Command) (result any, err error)
}

// Afterwards is the result of a command whose effect would cut off its answer:
// Then is to be called once the answer was published, or could not be. It does
// not block.
type Afterwards struct {
	Result any
	Then   func()
}

// MarshalJSON is that of the result.
func (a Afterwards) MarshalJSON() ([]byte, error) { return json.Marshal(a.Result) }

// Updater carries out a command update: it fetches and checks what args name and
// makes the machine run it. It may return an Afterwards.
type Updater interface {
	Update(ctx context.Context, args *tree.Node) (result any, err error)
}

// Surroundings are what commands reach beyond the agent.
type Surroundings struct {
	// Publish writes a record to the status topic and blocks until it is there.
	Publish func(ctx context.Context, key string, value []byte) error
	// Restart has the process stop in order and begin anew. It does not block.
	// nil: the command restart is refused.
	Restart func()
	// Updater carries out updates; nil: they are refused.
	Updater Updater
}

// Commander is what carries out commands on the agent.
func (a *Agent) Commander(s Surroundings) Commander { return &commander{agent: a, around: s} }

type commander struct {
	agent  *Agent
	around Surroundings

	mu    sync.Mutex
	level *time.Timer // sets the level back; nil: it is the config's
}

// Do implements Commander.
func (c *commander) Do(ctx context.Context, cmd *document.Command) (any, error) {
	c.agent.log.Info("command begins", "id", cmd.ID, "kind", cmd.Kind)
	result, err := c.do(ctx, cmd)
	c.agent.log.Info("command ends", "id", cmd.ID, "kind", cmd.Kind, "outcome", outcome(err))
	return result, err
}

func (c *commander) do(ctx context.Context, cmd *document.Command) (any, error) {
	switch cmd.Kind {
	case "replay":
		return c.replay(ctx, cmd)
	case "log-level":
		return c.logLevel(cmd)
	case "diagnostics":
		return c.diagnostics(ctx, cmd)
	case "modbus-write":
		return c.modbusWrite(ctx, cmd)
	case "restart":
		if c.around.Restart == nil {
			return nil, errors.New("this process cannot start itself anew")
		}
		return Afterwards{Result: map[string]bool{"restarts": true}, Then: c.around.Restart}, nil
	case "update":
		if c.around.Updater == nil {
			return nil, errors.New("this installation has no updater: it was not installed as an image that updates itself (docs/remote.md)")
		}
		return c.around.Updater.Update(ctx, cmd.Args)
	}
	return nil, fmt.Errorf("command %q is not known to this version", cmd.Kind)
}

// replay sends stored events again, as the control socket does.
func (c *commander) replay(ctx context.Context, cmd *document.Command) (any, error) {
	r, err := cmd.Replay()
	if err != nil {
		return nil, err
	}
	request := control.ReplayRequest{Class: r.Class, From: r.From, To: r.To, Uplink: r.Uplink, Topic: r.Topic}
	return c.agent.Replay(ctx, request, func(control.ReplayProgress) {})
}

// leveled is the result of a log-level.
type leveled struct {
	Level string    `json:"level"`
	Until time.Time `json:"until"`
	Then  string    `json:"then"` // the config's level
}

// logLevel changes the level of the log for a time. Another one takes its place;
// another config ends it.
func (c *commander) logLevel(cmd *document.Command) (any, error) {
	l, err := cmd.LogLevel()
	if err != nil {
		return nil, err
	}
	logs := c.agent.opt.Logs
	if logs == nil {
		return nil, errors.New("the level of this process's log is not the agent's to change")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.level != nil {
		c.level.Stop()
	}
	logs.SetLevel(l.Level)
	var timer *time.Timer
	timer = time.AfterFunc(l.For, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.level != timer {
			return // another command was faster
		}
		c.level = nil
		logs.SetLevel(c.agent.parts().cfg.Log.Level)
		c.agent.log.Info("the level of the log is the config's again")
	})
	c.level = timer
	return leveled{Level: l.Level, Until: time.Now().Add(l.For).UTC().Truncate(time.Second), Then: c.agent.parts().cfg.Log.Level}, nil
}

// modbusWrite writes one tag that the config declares as writable, within its
// bounds, and reads it back. The tag's expire counts from when the command was
// issued, by the clock of whoever issued it.
func (c *commander) modbusWrite(ctx context.Context, cmd *document.Command) (any, error) {
	w, err := cmd.ModbusWrite()
	if err != nil {
		return nil, err
	}
	s := c.agent.parts().source(w.Source)
	if s == nil {
		return nil, fmt.Errorf("there is no source %q", w.Source)
	}
	bus, ok := s.driver.(*modbus.Source)
	if !ok {
		return nil, fmt.Errorf("source %q is %s, not modbus", w.Source, s.kind)
	}
	return bus.Write(ctx, modbus.WriteRequest{Device: w.Device, Tag: w.Tag, Value: w.Value, Issued: cmd.Issued, Until: cmd.Expires})
}
