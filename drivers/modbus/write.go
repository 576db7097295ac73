package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	mb "github.com/goburrow/modbus"
)

// What became of a request to write, when it wasn't done as asked.
var (
	// ErrRefused: nothing was sent. The tag isn't declared, the value is out of its
	// bounds or can't be held exactly, the source has stopped, or there is no
	// connection.
	ErrRefused = errors.New("refused")
	// ErrLate: nothing was sent, since the request was too old. It is an ErrRefused.
	ErrLate = fmt.Errorf("%w: too late", ErrRefused)
	// ErrDevice: the device or the gateway before it refused; nothing was changed, by its word.
	ErrDevice = errors.New("the device refused")
	// ErrUncertain: it was sent, and no answer says for sure whether it was done.
	ErrUncertain = errors.New("not known whether it was written")
	// ErrMismatch: the device took it, and another value was read back.
	ErrMismatch = errors.New("another value was read back")
)

// WriteRequest asks for one value to be written.
type WriteRequest struct {
	Device string          `json:"device"`
	Tag    string          `json:"tag"`
	Value  json.RawMessage `json:"value"`  // as in a reading: scaled; the word, with a map
	Issued time.Time       `json:"issued"` // by the clock of this machine; the tag's expire counts from here
	Until  time.Time       `json:"until"`  // it is not sent later, if that is before the expire's end; zero: the expire alone counts
}

// WriteResult says what was sent and what the device holds now.
type WriteResult struct {
	Device            string          `json:"device"`
	Tag               string          `json:"tag"`
	Table             string          `json:"table"` // holding or coil
	Address           int             `json:"address"`
	Function          int             `json:"function"`        // 5, 6, 15 or 16; 0: nothing was sent
	Value             json.RawMessage `json:"value,omitempty"` // as asked; absent: it was no JSON
	Registers         []uint16        `json:"registers"`
	ReadBack          json.RawMessage `json:"read_back,omitempty"` // as in a reading; absent: it wasn't read
	ReadBackBad       string          `json:"read_back_bad,omitempty"`
	ReadBackRegisters []uint16        `json:"read_back_registers,omitempty"`
}

// job is a write on its way to the goroutine that owns the connection.
type job struct {
	ctx    context.Context //nolint:containedctx // that of the caller, who waits for the answer
	device *device
	tag    *tag
	until  time.Time // it isn't sent later
	data   []byte
	result WriteResult
	answer chan written // with room for one
}

type written struct {
	result WriteResult
	err    error
}

// Write writes one declared tag and reads it back. It waits for its turn between
// two polls of the bus, at most until r.Until or until the tag's expire has passed
// since r.Issued, whichever is first, and then for three requests at most. Nothing
// is sent after that moment, nor once ctx has ended; what was sent by then is read
// back as long as ctx lives. A write is never repeated. Errors are those above. It
// may be called by many goroutines at once, also before Run has begun and after it
// has ended.
func (s *Source) Write(ctx context.Context, r WriteRequest) (WriteResult, error) {
	j, err := s.prepare(r)
	if err != nil {
		return j.result, fmt.Errorf("write %s of device %s: %w", r.Tag, r.Device, err)
	}
	j.ctx = ctx
	late := time.NewTimer(time.Until(j.until))
	defer late.Stop()
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return j.result, fmt.Errorf("write %s of device %s: %w: %w", r.Tag, r.Device, ErrRefused, ctx.Err())
	case <-s.ended:
		return j.result, fmt.Errorf("write %s of device %s: %w: the source has stopped", r.Tag, r.Device, ErrRefused)
	case <-late.C:
		return j.result, fmt.Errorf("write %s of device %s: %w: the bus was busy until then, or the source doesn't run yet", r.Tag, r.Device, ErrLate)
	}
	w := <-j.answer
	if w.err != nil {
		w.err = fmt.Errorf("write %s of device %s: %w", r.Tag, r.Device, w.err)
	}
	return w.result, w.err
}

// prepare checks a request, without touching the bus.
func (s *Source) prepare(r WriteRequest) (job, error) {
	j := job{result: WriteResult{Device: r.Device, Tag: r.Tag}, answer: make(chan written, 1)}
	var tidy bytes.Buffer
	if json.Compact(&tidy, r.Value) == nil {
		j.result.Value = tidy.Bytes()
	}
	for _, d := range s.schedule.devices {
		if d.name == r.Device {
			j.device = d
		}
	}
	if j.device == nil {
		return j, fmt.Errorf("%w: there is no such device", ErrRefused)
	}
	at := slices.IndexFunc(j.device.tags, func(t *tag) bool { return t.name == r.Tag })
	if at < 0 {
		return j, fmt.Errorf("%w: there is no such tag", ErrRefused)
	}
	j.tag = j.device.tags[at]
	w := j.tag.write
	if w == nil {
		return j, fmt.Errorf("%w: the tag isn't declared as writable (write: in its config)", ErrRefused)
	}
	now := time.Now()
	j.until = now.Add(w.Expire - now.Sub(r.Issued))
	switch age := now.Sub(r.Issued); {
	case age > w.Expire:
		return j, fmt.Errorf("%w: it was issued %v ago (write.expire is %v)", ErrLate, age.Round(time.Millisecond), w.Expire)
	case age < -w.Expire:
		return j, fmt.Errorf("%w: it was issued %v in the future; a clock is wrong", ErrRefused, -age.Round(time.Millisecond))
	}
	if left := r.Until.Sub(now); !r.Until.IsZero() && left < j.until.Sub(now) {
		j.until = now.Add(left) // on the monotonic clock: what sets the wall clock makes it no younger
		if left < 0 {
			return j, fmt.Errorf("%w: it was to be sent %v ago", ErrLate, -left.Round(time.Millisecond))
		}
	}
	data, err := j.tag.encode(r.Value)
	if err != nil {
		return j, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	j.data, j.result.Registers = data, words(data)
	j.result.Table, j.result.Address = j.tag.table.String(), j.tag.at
	return j, nil
}

func words(data []byte) (out []uint16) {
	for i := 0; i+1 < len(data); i += 2 {
		out = append(out, binary.BigEndian.Uint16(data[i:]))
	}
	return out
}

// write does a job, unless run ends. The goroutine that owns the connection calls
// it.
func (s *Source) write(run context.Context, j job) written {
	ctx, cancel := context.WithCancel(j.ctx)
	defer cancel()
	defer context.AfterFunc(run, cancel)()
	j.ctx = ctx
	if now := time.Now(); now.After(j.until) {
		return written{j.result, fmt.Errorf("%w: its turn came %v after its time", ErrLate, now.Sub(j.until).Round(time.Millisecond))}
	}
	if err := j.ctx.Err(); err != nil {
		return written{j.result, fmt.Errorf("%w: %w", ErrRefused, err)}
	}
	err := s.send(&j)
	s.log.Info("write", slog.String("device", j.device.name), slog.String("tag", j.tag.name), slog.String("value", string(j.result.Value)),
		slog.Any("registers", j.result.Registers), slog.Any("error", err))
	switch {
	case err == nil:
	case isException(err) && !perhapsDone(err):
		return written{j.result, fmt.Errorf("%w: %w", ErrDevice, err)}
	case errors.Is(err, errTooLate):
		j.result.Function = 0
		return written{j.result, fmt.Errorf("%w: %w", ErrLate, err)}
	case !s.link.sent, errors.Is(err, errRequest):
		j.result.Function = 0
		return written{j.result, fmt.Errorf("%w: %w", ErrRefused, err)}
	default:
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return written{j.result, errors.Join(err, s.readBack(&j))}
}

// perhapsDone says that an exception leaves open whether the write was done: the
// device failed while it was at it (4), is still at it (5), or the gateway waited
// for its answer in vain (11; Modbus Application Protocol V1.1b3 §7).
func perhapsDone(err error) bool {
	return slices.Contains([]byte{deviceFailure, acknowledged, gatewayNoResponse}, code(err))
}

// send sends the write: a single register or coil by function 6 or 5, and by 16
// or 15 if the device doesn't know those.
func (s *Source) send(j *job) error {
	if len(j.result.Registers) == 1 {
		if err := s.change(j, j.single()); code(err) != illegalFunction {
			return err
		}
	}
	return s.change(j, j.multiple())
}

// change sends one request, once.
func (s *Source) change(j *job, pdu *mb.ProtocolDataUnit) error {
	j.result.Function = int(pdu.FunctionCode)
	_, err := s.link.exchange(j.ctx, j.device.unit, pdu, j.until)
	return err
}

// single is the request by function 5 or 6 (Modbus Application Protocol V1.1b3
// §6.5 and §6.6).
func (j *job) single() *mb.ProtocolDataUnit {
	f := byte(mb.FuncCodeWriteSingleRegister)
	if j.tag.table.bits() {
		f = mb.FuncCodeWriteSingleCoil
	}
	return &mb.ProtocolDataUnit{FunctionCode: f, Data: binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(j.tag.at)), j.result.Registers[0])}
}

// multiple is the request by function 15 or 16 (Modbus Application Protocol
// V1.1b3 §6.11 and §6.12).
func (j *job) multiple() *mb.ProtocolDataUnit {
	f, data := byte(mb.FuncCodeWriteMultipleRegisters), j.data
	if j.tag.table.bits() {
		f, data = mb.FuncCodeWriteMultipleCoils, []byte{j.data[0] & 1}
	}
	body := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(j.tag.at)), uint16(j.tag.count))
	return &mb.ProtocolDataUnit{FunctionCode: f, Data: append(append(body, byte(len(data))), data...)}
}

// readBack reads what the device holds now, and compares.
func (s *Source) readBack(j *job) error {
	data, err := s.link.read(j.ctx, j.device.unit, j.tag.table, j.tag.at, j.tag.count)
	if err != nil {
		return fmt.Errorf("%w: read it back: %w", ErrUncertain, err)
	}
	var v value
	if j.tag.table.bits() {
		data = coilBytes(data[0]&1 == 1)
		j.result.ReadBackBad = j.tag.bit(&v, data[0] != 0)
	} else {
		j.result.ReadBackBad = j.tag.registers(&v, data)
	}
	j.result.ReadBackRegisters = words(data)
	if j.result.ReadBackBad == "" {
		j.result.ReadBack = v.text
	}
	if !slices.Equal(j.result.ReadBackRegisters, j.result.Registers) {
		return fmt.Errorf("%w: registers %v, not %v", ErrMismatch, j.result.ReadBackRegisters, j.result.Registers)
	}
	return nil
}
