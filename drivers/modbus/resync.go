package modbus

import (
	"context"
	"slices"
	"time"

	mb "github.com/goburrow/modbus"
)

// A bus has no transaction numbers, so an answer that comes late, however late,
// could be taken for that to a later request of the same shape. What saves it is
// that a unit answers its requests one after the other:
//
//   - While it may owe an answer of some shape it isn't sent a request whose answer
//     would have that shape.
//   - An answer of another shape to a later request proves that what it owed before
//     has come, or never will.
//
// So after a request without a sound answer, and before its like is sent again, the
// unit is sent one for a register less, say: its answer may be thrown away, but what
// follows can be believed.

// besides is the table of the same kind beside each.
var besides = map[table]table{
	mb.FuncCodeReadCoils: mb.FuncCodeReadDiscreteInputs, mb.FuncCodeReadDiscreteInputs: mb.FuncCodeReadCoils,
	mb.FuncCodeReadHoldingRegisters: mb.FuncCodeReadInputRegisters, mb.FuncCodeReadInputRegisters: mb.FuncCodeReadHoldingRegisters,
}

// shape is what answers can be told apart by.
type shape struct {
	function byte
	bytes    int
}

func (t table) shape(count int) shape { return shape{byte(t), answerBytes(byte(t), count)} }

// debt is what a unit may owe.
type debt struct {
	shapes []shape   // of the answers that may still come
	tried  []shape   // of those to the requests that were to settle it
	silent int       // of those, how many in a row got nothing at all
	since  time.Time // when the last request was sent that made it
}

// A unit that keeps silent to all that is to settle its debt, and is alive, is asked
// all the same after so many tries and so long a time: a rare device, and an
// answer that is later than that a rarer one.
const (
	patienceTries = 6
	patienceTime  = 10 * time.Second
)

// owes notes that a request went out whose answer didn't come, or may not have been
// its own.
func (l *link) owes(unit byte, s shape, now time.Time) {
	d := l.debts[unit]
	if d == nil {
		d = &debt{}
		l.debts[unit] = d
	}
	if !slices.Contains(d.shapes, s) {
		d.shapes = append(d.shapes, s)
	}
	d.since = now
}

// account notes what came of a request to read.
func (l *link) account(unit byte, s shape, err error) {
	switch d := l.debts[unit]; {
	case !l.sent:
	case err == nil:
		delete(l.debts, unit)
	case fromUnit(err) && d == nil:
	default: // an exception doesn't say which request it answers
		l.owes(unit, s, time.Now())
	}
}

// settle makes sure that the answer to a request to read can be told from what the
// unit owes, and sends other requests for that. It returns the error of the first
// one that fails.
func (l *link) settle(ctx context.Context, unit byte, area table, at, count int) error {
	for own := area.shape(count); l.debts[unit].has(own); {
		d := l.debts[unit]
		if d.silent >= patienceTries && time.Since(d.since) > max(patienceTime, 20*l.timeout) {
			delete(l.debts, unit)
			return nil
		}
		r := d.other(area, at, count)
		_, err := l.ask(ctx, unit, r.table, r.at, r.count)
		if !l.sent {
			return err
		}
		again := slices.Contains(d.tried, r.table.shape(r.count))
		if !again {
			d.tried = append(d.tried, r.table.shape(r.count))
		}
		switch {
		case err == nil && len(d.tried) == 1 && !again:
			delete(l.debts, unit)
		case err == nil || fromUnit(err):
			// It may have been the answer to an earlier one of them: then theirs are owed.
			l.debts[unit] = &debt{shapes: d.tried, since: time.Now()}
		case isTimeout(err):
			d.silent++
			return err
		default:
			d.silent = 0
			return err
		}
	}
	return nil
}

// has says whether answers of a shape may still come. A nil debt owes nothing.
func (d *debt) has(s shape) bool {
	return d != nil && (slices.Contains(d.shapes, s) || slices.Contains(d.tried, s))
}

// other returns a request that is like another one, and whose answer has another
// shape, which none of the requests that made the debt has: for fewer registers,
// from the table beside it, for more. Each further one is of another shape, as long
// as there are some.
func (d *debt) other(area table, at, count int) request {
	step, most := 1, maxRegisters
	if area.bits() {
		step, most = 8, maxBits
	}
	own, beside := area.shape(count), besides[area]
	var fit []request
	for _, r := range []request{
		{table: area, at: at, count: count - step}, {table: beside, at: at, count: count}, {table: area, at: at, count: count + step},
		{table: area, at: at, count: count + 2*step}, {table: area, at: at, count: count + 3*step}, {table: area, at: at, count: count - 2*step},
	} {
		r.at = min(r.at, 1<<16-r.count)
		if r.count >= 1 && r.count <= most && r.table.shape(r.count) != own && !slices.Contains(d.shapes, r.table.shape(r.count)) {
			fit = append(fit, r)
		}
	}
	if len(fit) == 0 {
		return d.far(beside, own)
	}
	return fit[len(d.tried)%len(fit)]
}

// far returns a request for any number of registers or bits of a table that the
// unit doesn't owe.
func (d *debt) far(area table, own shape) request {
	r := request{table: area, count: 1}
	for r.count < maxRegisters && (area.shape(r.count) == own || d.has(area.shape(r.count))) {
		r.count++
	}
	return r
}
