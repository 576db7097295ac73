package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strconv"
	"strings"

	"sluice/agent/config"
	"sluice/drivers/modbus"
)

// written is one write, and what "--json" prints of it.
type written struct {
	Unit     int             `json:"unit"`
	Identity modbus.Identity `json:"identification"`
	Table    string          `json:"table"`
	Address  int             `json:"address"`
	Function int             `json:"function"`
	Before   []string        `json:"before"` // values; empty: it couldn't be read
	New      []string        `json:"new"`
	After    []string        `json:"after"`
	Written  bool            `json:"written"`   // the unit confirmed it
	Same     bool            `json:"read_back"` // and gives back what was written

	spot
	form     modbus.Form
	size     int // registers of a value
	data     []byte
	on       []bool
	multiple bool
}

// modbusWrite writes one place.
func modbusWrite(ctx context.Context, c *call, v modbusVerb) error {
	var f formFlags
	f.declare(c, "")
	yes := c.flags.Bool("yes", false, "don't ask")
	multiple := c.flags.Bool("multiple", false, "write one coil or register with function 15 or 16, too")
	words, err := c.words(v)
	if err != nil {
		return err
	}
	f.complete()
	if len(words) < 4 {
		return c.wrong("it needs TARGET UNIT TABLE ADDRESS VALUE, or SOURCE DEVICE TAG VALUE, and there are %d words", len(words))
	}
	b, err := c.openBus(words[0], f.timeout)
	if err != nil {
		return err
	}
	defer b.Close()
	w := &written{multiple: *multiple}
	if err = w.parse(c, b, words[1:], f); err != nil {
		return err
	}
	err = w.run(ctx, c, b, *yes)
	if f.json {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		err = errors.Join(err, enc.Encode(w))
	}
	return err
}

// parse reads UNIT TABLE ADDRESS VALUE… or DEVICE TAG VALUE and makes the bytes.
func (w *written) parse(c *call, b *bus, words []string, f formFlags) (err error) {
	var values []string
	if d := b.device(words[0]); d != nil && len(words) == 3 {
		tags, err := b.tags(c, d, words[1:2])
		if err != nil {
			return err
		}
		t := tags[0]
		w.spot = spot{unit: d.Unit, table: t.Read, shown: t.At, base: t.Base}
		w.form, values = tagForm(t), words[2:]
		if err := withinBounds(t, values[0]); err != nil {
			return c.wrong("%w", err)
		}
	} else if len(words) < 4 {
		if _, number := strconv.Atoi(words[0]); number != nil {
			return b.noDevice(c, words[0])
		}
		return c.wrong("it needs TARGET UNIT TABLE ADDRESS VALUE, and there is no VALUE")
	} else {
		if w.spot, err = b.parseSpot(c, words, f.base); err != nil {
			return err
		}
		w.form, values = f.Form, words[3:]
	}
	switch {
	case w.table != "coil" && w.table != "holding":
		return c.wrong("%s can't be written (coil and holding can)", w.table)
	case w.unit == 0 && !b.TCP():
		return c.wrong("unit 0 is all units of a serial line, and none would confirm it")
	}
	w.Unit, w.Table, w.Address, w.New = w.unit, w.table, w.shown, values
	if err = w.encode(values); err != nil {
		return c.wrong("%w", err)
	}
	return nil
}

// encode makes bits or registers of the values and says with which function they
// go.
func (w *written) encode(values []string) error {
	single := len(values) == 1 && !w.multiple
	if w.table == "coil" {
		if w.Function = 15; single {
			w.Function = 5
		}
		for _, v := range values {
			on, err := w.coil(v)
			if err != nil {
				return err
			}
			w.on = append(w.on, on)
		}
		w.New = w.bitTexts(packBits(w.on))
		return nil
	}
	for _, v := range values {
		data, err := w.form.Encode(v)
		if err != nil {
			return err
		}
		w.data, w.size = append(w.data, data...), len(data)/2
	}
	if w.Function = 16; single && w.size == 1 {
		w.Function = 6
	}
	w.New = w.texts(w.data)
	return nil
}

// coil reads what a coil is to be: on or off, or a word of the tag's map.
func (w *written) coil(text string) (on bool, err error) {
	if w.form.Map != nil {
		return w.form.EncodeBit(text)
	}
	switch strings.ToLower(text) {
	case "on", "true", "1":
		return true, nil
	case "off", "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("a coil is on or off, not %q", text)
}

// withinBounds refuses a number that the tag's own bounds refuse to remote writes.
func withinBounds(t config.ResolvedTag, text string) error {
	if t.Write == nil || t.Write.Min == nil || t.Write.Max == nil {
		return nil
	}
	v, ok := new(big.Rat).SetString(text)
	low, high := new(big.Rat), new(big.Rat)
	if !ok {
		return nil // the form says what is wrong with it
	}
	low.SetString(strconv.FormatFloat(*t.Write.Min, 'g', -1, 64)) // as it was written: 0.1
	high.SetString(strconv.FormatFloat(*t.Write.Max, 'g', -1, 64))
	if v.Cmp(low) < 0 || v.Cmp(high) > 0 {
		return fmt.Errorf("%s is out of the bounds that the config gives %s (%v to %v; by its address it can be written all the same)", text, t.Name, *t.Write.Min, *t.Write.Max)
	}
	return nil
}

func packBits(on []bool) []byte {
	b := make([]byte, (len(on)+7)/8)
	for i, set := range on {
		if set {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

func (w *written) bitTexts(data []byte) []string {
	texts := make([]string, len(w.on))
	for i := range w.on {
		if texts[i] = "off"; data[i/8]>>(i%8)&1 == 1 {
			texts[i] = "on"
		}
	}
	return texts
}

// texts are the values in registers.
func (w *written) texts(data []byte) (texts []string) {
	for i := 0; i+2*w.size <= len(data); i += 2 * w.size {
		text, bad, err := w.form.Decode(data[i : i+2*w.size])
		if err != nil || bad != "" {
			text = bad
		}
		texts = append(texts, text)
	}
	return texts
}

// look reads what is there.
func (w *written) look(ctx context.Context, b *bus) (data []byte, texts []string, err error) {
	if w.table == "coil" {
		if data, err = b.Read(ctx, w.unit, w.table, w.at(), len(w.on)); err != nil {
			return nil, []string{}, err
		}
		return data, w.bitTexts(data), nil
	}
	if data, err = b.Read(ctx, w.unit, w.table, w.at(), len(w.data)/2); err != nil {
		return nil, []string{}, err
	}
	return data, w.texts(data), nil
}

// run shows, asks, writes and reads back.
func (w *written) run(ctx context.Context, c *call, b *bus, yes bool) error {
	w.After = []string{}
	before, texts, err := w.look(ctx, b)
	if w.Before = texts; err != nil && !strings.HasPrefix(modbus.Reason(err), "exception-") {
		return fmt.Errorf("unit %d: %w", w.unit, modbus.Explain(err))
	}
	w.Identity, _ = b.Identify(ctx, w.unit) // who doesn't say is written to all the same
	if ctx.Err() != nil {
		return errors.New("stopped; nothing was written")
	}
	w.show(c, before, err)
	if !yes {
		if err = w.ask(ctx, c); err != nil {
			return err
		}
	}
	if w.table == "coil" {
		err = b.WriteCoils(ctx, w.unit, w.at(), w.on, w.multiple)
	} else {
		err = b.WriteRegisters(ctx, w.unit, w.at(), w.data, w.multiple)
	}
	if err != nil && modbus.SentForNothing(err) {
		return fmt.Errorf("not written: %w", modbus.Explain(err))
	}
	w.Written = err == nil
	return w.readBack(ctx, c, b, err)
}

// show says on standard error what is about to be done.
func (w *written) show(c *call, before []byte, err error) {
	who := join(w.Identity.Vendor, w.Identity.Product, w.Identity.Name, w.Identity.Revision)
	if who == "" {
		who = "doesn't say what it is"
	}
	kind := ""
	if w.table == "holding" {
		kind = ", " + w.form.Type + " " + w.form.Order
	}
	fmt.Fprintf(c.Err, "unit %d: %s\n%s %d%s\n", w.unit, who, w.table, w.shown, kind)
	if err != nil {
		fmt.Fprintf(c.Err, "  now  can't be read: %s\n", reason(err))
	} else {
		fmt.Fprintf(c.Err, "  now  %s  %s\n", hex.EncodeToString(before), strings.Join(w.Before, " "))
	}
	fmt.Fprintf(c.Err, "  new  %s  %s\n", hex.EncodeToString(w.bytes()), strings.Join(w.New, " "))
}

// bytes are what a read must give back.
func (w *written) bytes() []byte {
	if w.table == "coil" {
		return packBits(w.on)
	}
	return w.data
}

// ask reads the answer from the terminal; without one nothing is written.
func (w *written) ask(ctx context.Context, c *call) error {
	noTerminal := errors.New("nothing was written: there is no terminal to ask on (--yes writes without asking)")
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return noTerminal
	}
	fmt.Fprintf(c.Err, "write it with function %d? (yes/no) ", w.Function)
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil && line == "" {
			close(answer)
			return
		}
		answer <- line
	}()
	select {
	case <-ctx.Done():
		return errors.New("stopped; nothing was written")
	case line, ok := <-answer:
		if !ok {
			return noTerminal
		}
		if a := strings.ToLower(strings.TrimSpace(line)); a != "yes" && a != "y" {
			return errors.New("nothing was written")
		}
	}
	return nil
}

// readBack reads what is there after the write. failed is the write's error, of
// which nobody knows whether the unit obeyed.
func (w *written) readBack(ctx context.Context, c *call, b *bus, failed error) error {
	data, texts, err := w.look(ctx, b)
	w.After = texts
	w.Same = err == nil && bytes.Equal(data, w.bytes())
	shown := hex.EncodeToString(data) + "  " + strings.Join(texts, " ")
	switch {
	case failed != nil && err != nil:
		return fmt.Errorf("the unit didn't confirm the write (%s), and it can't be read back (%s): nobody knows whether it was done", reason(failed), reason(err))
	case failed != nil && !w.Same:
		return fmt.Errorf("not written: the unit didn't confirm it (%s), and has %s", reason(failed), shown)
	case err != nil:
		return fmt.Errorf("written, but it can't be read back: %s", reason(err))
	case !w.Same:
		return fmt.Errorf("written and confirmed, but the unit has %s", shown)
	case failed != nil:
		fmt.Fprintf(c.Err, "the unit didn't confirm it (%s), but it has the new value:\n", reason(failed))
	}
	fmt.Fprintf(c.Err, "written, reads back as\n       %s\n", shown)
	return nil
}
