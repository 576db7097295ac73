package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
	"sluice/uplink/channel"
)

// answered is a keeper that has only what was told of commands in dir.
func answered(dir string) *keeper {
	k := &keeper{log: slog.New(slog.DiscardHandler), ends: make(chan func(), commandsRunning)}
	k.recall(floor.Dir(dir), dir)
	return k
}

// TestWhatWasToldOfCommandsStands over an end that is not in order, with a command
// under way, and over one in order.
func TestWhatWasToldOfCommandsStands(t *testing.T) {
	dir := t.TempDir()
	k := answered(dir)
	if len(k.commands.list) != 0 || k.commands.dirty {
		t.Errorf("%+v", k.commands)
	}
	for i := range commandsKept + 3 {
		k.commands.end(remote.CommandStatus{ID: fmt.Sprint("c-", i), Kind: "replay"}, map[string]int{"sent": i}, nil)
	}
	k.commands.note(remote.CommandStatus{ID: "r", Kind: "replay", State: remote.CommandRunning})
	k.commands.note(remote.CommandStatus{ID: "r", State: remote.CommandRefused, Code: trust.Replayed})
	k.commands.note(remote.CommandStatus{ID: "c-18", State: remote.CommandRefused, Code: trust.WrongType})
	k.commands.judged(channel.Record{TopicID: "a", Partition: 2, Offset: 7})
	k.keepTold(0)

	k = answered(dir)
	list := k.commands.list
	if n := len(list); n != commandsKept || list[n-2].ID != "c-18" || list[n-2].State != remote.CommandDone || string(list[n-2].Result) != `{"sent":18}` || list[n-2].Time.IsZero() ||
		list[n-1].ID != "r" || list[n-1].State != remote.CommandFailed || list[n-1].Reason == "" {
		t.Errorf("%+v", list)
	}
	for _, tt := range []struct {
		topic     string
		partition int32
		offset    int64
		want      bool
	}{{"a", 2, 0, true}, {"a", 2, 7, true}, {"a", 2, 8, false}, {"a", 1, 7, false}, {"b", 2, 7, false}, {"", 2, 7, false}} {
		if got := k.commands.told.Has(tt.topic, tt.partition, tt.offset); got != tt.want {
			t.Errorf("%+v: %t", tt, got)
		}
	}
	k.commands.judged(channel.Record{TopicID: "b", Partition: 2, Offset: 0}) // made anew
	k.ends <- func() { k.commands.end(remote.CommandStatus{ID: "late"}, nil, nil) }
	k.lastAnswers()
	k = answered(dir)
	if told := k.commands.told; told.Has("a", 2, 7) || !told.Has("b", 2, 0) || told.Has("b", 2, 1) {
		t.Errorf("%+v", told)
	}
	if list = k.commands.list; list[len(list)-1].ID != "late" || list[len(list)-1].State != remote.CommandDone || k.commands.dirty {
		t.Errorf("%+v", list)
	}
}

// TestWhatWasToldOfCommandsIsDamaged: some of it is told again, that is all.
func TestWhatWasToldOfCommandsIsDamaged(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "commands.told")
	for _, text := range []string{"", "rubbish\n{}", "sluice-config 1 00\n{}"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k := answered(dir)
		if len(k.commands.list) != 0 || k.commands.told.Topic != "" {
			t.Errorf("%q: %+v", text, k.commands)
		}
		k.commands.note(remote.CommandStatus{ID: "c", State: remote.CommandDone})
		k.keepTold(0)
		if k = answered(dir); len(k.commands.list) != 1 {
			t.Errorf("after %q: %+v", text, k.commands.list)
		}
	}
}
