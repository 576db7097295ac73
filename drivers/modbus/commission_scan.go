package modbus

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"
)

// Found is a unit that answers.
type Found struct {
	Unit      int               `json:"unit"`
	Functions map[string]string `json:"functions,omitempty"` // by table: ok, exception-N, timeout, invalid
	Identity
	ServerID string `json:"server_id,omitempty"` // hex
	// Wrong is what a unit answered that is no answer; two units with one
	// number, or other line settings, sound like that.
	Wrong string `json:"wrong,omitempty"`
}

// Scan finds units. The zero value of a field is its default.
type Scan struct {
	Units []int // to ask, 0 to 255, in this order
	Quick bool  // ask each unit once only, with function 3
	// Progress is called before each request with the unit, how many of how many
	// questions have been asked, and how many units were found; may be nil.
	Progress func(unit, asked, of, found int)
	// Found is called with each unit when all is known about it; may be nil.
	Found func(Found)
}

// ScanResult is what a Scan found.
type ScanResult struct {
	Units    []Found `json:"units"`    // by number
	Complete bool    `json:"complete"` // all units were asked
	Asked    int     `json:"asked"`    // units that were asked at least once
	// Same says that so many units answer that the device ignores the number;
	// then only the first ones were looked into.
	Same bool `json:"ignores_unit,omitempty"`
	// Failing is how many units were left out because they answer with exception 4
	// whatever they are asked, as do so many that it is the server's word for units
	// that it does not have.
	Failing int `json:"failing,omitempty"`
}

// manyUnits is from how many units on, all of which answer, nobody believes
// that they are different ones.
const manyUnits = 32

// lostLink is how often in a row a connection may fail before a scan gives up.
const lostLink = 4

// scanner is a Scan at work.
type scanner struct {
	*Bus
	Scan
	result  ScanResult
	present []int
	wrong   map[int]string
	kinds   map[int]string // what a unit's first answer was: ok, exception-N
	broken  error          // the last time that the connection was closed on a question
	asked   int
	of      int
}

// Scan asks each unit for one holding register, and those that keep silent for
// one input register; a unit that answers anything, be it an exception, is
// looked into. It writes nothing. It returns what was found when ctx ends, with
// ctx's error, or when the connection is lost for good or closed on each question. The exceptions 10 and 11
// come from a gateway and mean that there is no such unit.
func (b *Bus) Scan(ctx context.Context, s Scan) (ScanResult, error) {
	w := &scanner{Bus: b, Scan: s, wrong: map[int]string{}, kinds: map[int]string{}, of: len(s.Units)}
	w.result.Units = []Found{}
	silent, err := w.pass(ctx, s.Units, "holding")
	if err == nil && !s.Quick && len(silent) > 0 && !w.allTheSame() {
		w.of += len(silent)
		_, err = w.pass(ctx, silent, "input")
	}
	if err == nil && len(w.present) == 0 {
		err = w.broken
	}
	if err == nil {
		w.dropFailing(ctx)
		w.lookInto(ctx)
	}
	for _, unit := range w.present {
		if !slices.ContainsFunc(w.result.Units, func(f Found) bool { return f.Unit == unit }) {
			w.result.Units = append(w.result.Units, Found{Unit: unit, Wrong: w.wrong[unit]})
		}
	}
	slices.SortFunc(w.result.Units, func(a, b Found) int { return a.Unit - b.Unit })
	if err == nil {
		err = ctx.Err()
	}
	w.result.Complete = err == nil
	return w.result, err
}

// pass asks units for the first register of a table and returns those that keep
// silent. A unit that a gateway says isn't there isn't asked again.
func (w *scanner) pass(ctx context.Context, units []int, table string) (silent []int, err error) {
	for i, unit := range units {
		if ctx.Err() != nil {
			return silent, ctx.Err()
		}
		if w.Progress != nil {
			w.Progress(unit, w.asked, w.of, len(w.present))
		}
		err := w.probe(ctx, unit, table)
		if ctx.Err() != nil {
			return silent, ctx.Err()
		}
		w.asked++
		if table == "holding" {
			w.result.Asked = i + 1
		}
		switch {
		case errors.Is(err, errDial):
			return silent, err
		case err == nil || fromUnit(err):
			w.present = append(w.present, unit)
			w.kinds[unit] = answerKind(err)
		case errors.Is(err, errInvalid):
			w.present = append(w.present, unit)
			w.wrong[unit] = err.Error()
		case code(err) == 0:
			silent = append(silent, unit)
			if reasonOf(err) == badConnection {
				w.broken = err
			}
		}
		if len(w.present) == manyUnits && w.allTheSame() {
			return silent, nil
		}
	}
	return silent, nil
}

// probe asks one unit, and again while there is no connection.
func (w *scanner) probe(ctx context.Context, unit int, table string) error {
	for attempt := 1; ; attempt++ {
		_, err := w.Read(ctx, unit, table, 0, 1)
		if !errors.Is(err, errDial) || attempt == lostLink || w.asked == 0 {
			return err
		}
		if err := sleep(ctx, commissionBackoff); err != nil {
			return err
		}
	}
}

// failingUnit is the first answer of units that may not be there.
const failingUnit = "exception-4"

// answerKind is the word for an answer.
func answerKind(err error) string {
	if err == nil {
		return resultOK
	}
	return reasonOf(err)
}

// allTheSame says that every unit that was asked answers, and the same, and that
// they are too many to be units of their own. That they fail says nothing yet: a
// server may have units behind them.
func (w *scanner) allTheSame() bool {
	first := ""
	for _, k := range w.kinds {
		if first == "" {
			first = k
		}
		if k != first {
			w.result.Same = false
			return false
		}
	}
	w.result.Same = len(w.present) >= manyUnits && len(w.present) == w.asked && len(w.wrong) == 0 && first != failingUnit
	return w.result.Same
}

// dropFailing leaves out the units that answer with exception 4 only, where many
// do.
func (w *scanner) dropFailing(ctx context.Context) {
	if w.result.Same {
		return
	}
	var fail []int
	for _, unit := range w.present {
		if w.kinds[unit] != failingUnit {
			continue
		}
		if _, err := w.Read(ctx, unit, "input", 0, 1); answerKind(err) == failingUnit {
			fail = append(fail, unit)
		}
	}
	if len(fail) < manyUnits || ctx.Err() != nil {
		return
	}
	w.result.Failing = len(fail)
	w.present = slices.DeleteFunc(w.present, func(unit int) bool { return slices.Contains(fail, unit) })
}

// lookInto asks the units that are there what they do and who they are.
func (w *scanner) lookInto(ctx context.Context) {
	units := w.present
	if w.result.Same {
		units = units[:1]
		w.present = units
	}
	for i, unit := range units {
		if ctx.Err() != nil {
			return
		}
		if w.Progress != nil {
			w.Progress(unit, w.asked+i, w.of+len(units), len(w.present))
		}
		f := w.look(ctx, unit)
		if ctx.Err() != nil {
			return
		}
		w.result.Units = append(w.result.Units, f)
		if w.Found != nil {
			w.Found(f)
		}
	}
}

// look asks one unit.
func (w *scanner) look(ctx context.Context, unit int) Found {
	f := Found{Unit: unit, Functions: map[string]string{}, Wrong: w.wrong[unit]}
	for _, table := range Tables() {
		result := resultOK
		if _, err := w.Read(ctx, unit, table, 0, 1); err != nil {
			result = reasonOf(err)
			f.garbled(err)
		}
		f.Functions[table] = result
	}
	var err error
	if f.Identity, err = w.Identify(ctx, unit); err != nil {
		f.garbled(err)
	}
	id, err := w.ServerID(ctx, unit)
	if err != nil {
		f.garbled(err)
		return f
	}
	f.ServerID = hex.EncodeToString(id)
	return f
}

// garbled keeps the first answer that was none.
func (f *Found) garbled(err error) {
	if errors.Is(err, errInvalid) && f.Wrong == "" {
		f.Wrong = err.Error()
	}
}

// ScanTime is how long a scan of so many units takes at most when none is there.
func (b *Bus) ScanTime(units int, quick bool) time.Duration {
	passes := 2
	if quick {
		passes = 1
	}
	return time.Duration(passes*units) * b.timeout
}
