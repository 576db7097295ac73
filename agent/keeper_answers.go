package agent

import (
	"encoding/json"
	"fmt"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
	"sluice/uplink/channel"
)

// toldEvery is how often what was told of refused commands is stored, where nothing
// else is to be.
const toldEvery = time.Minute

// commandLog is what became of the last commands, and how far the topic was judged.
type commandLog struct {
	list    []remote.CommandStatus // the newest last
	running int

	told   floor.Told
	folder floor.Folder
	dirty  bool      // something is not stored yet
	tried  time.Time // when it was to be stored last
}

// note puts down how it stands with a command, in place of what was said before. What
// became of a command stands when another record with its id is refused.
func (l *commandLog) note(c remote.CommandStatus) {
	c.Time = time.Now().UTC()
	l.dirty = true
	for i, before := range l.list {
		if c.ID == "" || before.ID != c.ID {
			continue
		}
		if c.State == remote.CommandRefused && (c.Code == trust.Replayed || before.State != remote.CommandRefused) {
			return
		}
		list := append([]remote.CommandStatus{}, l.list[:i]...)
		l.list = append(append(list, l.list[i+1:]...), c)
		return
	}
	l.list = append(append([]remote.CommandStatus{}, l.list...), c)
	if len(l.list) > commandsKept {
		l.list = l.list[1:]
	}
}

// end notes what became of a command.
func (l *commandLog) end(said remote.CommandStatus, result any, err error) {
	said.State = remote.CommandDone
	if err != nil {
		said.State, said.Reason = remote.CommandFailed, oneLine(err.Error())
	}
	if result != nil {
		if said.Result, err = json.Marshal(result); err != nil || len(said.Result) > resultLimit {
			said.Reason = oneLine(fmt.Sprintf("its result of %d bytes is not shown %s", len(said.Result), said.Reason))
			said.Result = nil
		}
	}
	l.note(said)
}

// judged notes that a record was.
func (l *commandLog) judged(r channel.Record) {
	if l.told.Judge(r.TopicID, r.Partition, r.Offset) {
		l.dirty = true
	}
}

// recall takes what was told of commands in the life before. One that ran when that
// ended is not run again, and nobody knows how far it came.
func (k *keeper) recall(folder floor.Folder, dir string) {
	l := &k.commands
	l.folder = folder
	var err error
	if l.told, err = floor.OpenTold(dir); err == nil && len(l.told.Answers) > 0 {
		err = json.Unmarshal(l.told.Answers, &l.list)
	}
	if err != nil {
		k.log.Warn("what was told of commands cannot be read, and some of it may be told again", "error", err)
	}
	l.list = l.list[max(0, len(l.list)-commandsKept):]
	for _, c := range l.list {
		if c.State == remote.CommandRunning {
			c.State, c.Reason = remote.CommandFailed, "the agent ended before it did: how far it came is not known, and it is not run again"
			l.note(c)
		}
	}
}

// keepTold stores what was told of commands, if there is news and the last time was so
// long ago. Without it some of it may be told again after a start.
func (k *keeper) keepTold(after time.Duration) {
	l := &k.commands
	now := time.Now()
	if !l.dirty || now.Sub(l.tried) < after {
		return
	}
	l.tried = now
	answers, err := json.Marshal(l.list)
	if err == nil {
		l.told.Answers = answers
		err = l.told.Keep(l.folder)
	}
	if l.dirty = err != nil; l.dirty {
		k.log.Warn("what was told of commands cannot be stored, and may be told again after a start", "error", err)
	}
}

// lastAnswers waits for what was under way at the end, and stores what became of it.
func (k *keeper) lastAnswers() {
	k.wg.Wait()
	for {
		select {
		case end := <-k.ends:
			end()
		default:
			k.keepTold(0)
			return
		}
	}
}
