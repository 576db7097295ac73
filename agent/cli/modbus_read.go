package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/agent/config"
	"sluice/drivers/modbus"
)

// all stands for every type or order.
const all = "all"

// formFlags are the flags that say how registers are read.
type formFlags struct {
	modbus.Form
	base    int
	timeout time.Duration
	json    bool
}

func (f *formFlags) declare(c *call, words string) {
	c.flags.StringVar(&f.Type, "type", "uint16", "`type` of a value: "+strings.Join(modbus.Types(), ", ")+words)
	c.flags.StringVar(&f.Order, "order", "", "byte `order`: "+strings.Join(modbus.Orders(), ", ")+words+" (default ABCD)")
	c.flags.Float64Var(&f.Scale, "scale", 1, "the value is multiplied by this `number`")
	c.flags.Float64Var(&f.Offset, "offset", 0, "this `number` is added, after scale")
	c.flags.IntVar(&f.Length, "length", 0, "`registers` of a string or of bytes")
	c.flags.IntVar(&f.base, "base", 0, "0 or 1 (`first`): what the manual's addresses start from")
	c.flags.DurationVar(&f.timeout, "timeout", 0, "longest wait for an answer (default the source's, or 500ms)")
	c.flags.BoolVar(&f.json, "json", false, "print JSON")
}

// complete fills in the order: with every type it is every order.
func (f *formFlags) complete() {
	switch {
	case f.Order != "":
	case f.Type == all:
		f.Order = all
	default:
		f.Order = modbus.Orders()[0]
	}
}

// reading is one address or tag with what was read there.
type reading struct {
	Tag     string   `json:"tag,omitempty"`
	Address int      `json:"address"`
	Raw     string   `json:"raw,omitempty"` // hex
	Values  []readAs `json:"values,omitempty"`
	Unit    string   `json:"unit,omitempty"`
	Error   string   `json:"error,omitempty"`
	raw     []byte   // as it came
	wide    bool     // many values: a line each
	err     error    // what Error is about
}

// readAs is one interpretation.
type readAs struct {
	Type  string          `json:"type"`
	Order string          `json:"order,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
	Bad   string          `json:"bad,omitempty"` // why there is none
}

func (r readAs) text() string {
	if r.Bad != "" {
		return r.Bad
	}
	return string(r.Value)
}

// modbusRead reads addresses, or a device of the config.
func modbusRead(ctx context.Context, c *call, v modbusVerb) error {
	var f formFlags
	f.declare(c, "; all shows every one")
	number := c.flags.Int("count", 1, "this `number` of values in a row")
	watch := c.flags.Bool("watch", false, "again each second until Ctrl-C")
	words, err := c.words(v)
	if err != nil {
		return err
	}
	f.complete()
	if len(words) < 2 {
		return c.wrong("it needs TARGET UNIT TABLE ADDRESS, or SOURCE DEVICE, and there are %d words", len(words))
	}
	b, err := c.openBus(words[0], f.timeout)
	if err != nil {
		return err
	}
	defer b.Close()
	var read func(context.Context) ([]reading, error)
	if d := b.device(words[1]); d != nil && !(len(words) == 4 && slices.Contains(modbus.Tables(), words[2])) {
		read, err = b.deviceReader(c, d, words[2:])
	} else if len(words) != 4 {
		if _, number := strconv.Atoi(words[1]); number != nil {
			return b.noDevice(c, words[1])
		}
		err = c.wrong("it needs TARGET UNIT TABLE ADDRESS, and there are %d words", len(words))
	} else {
		read, err = b.addressReader(c, words[1:], f, *number)
	}
	if err != nil {
		return err
	}
	for {
		list, err := read(ctx)
		if *watch && !f.json {
			fmt.Fprint(c.Out, "\x1b[H\x1b[2J")
		}
		if err = show1(c, list, err, f.json); !*watch {
			return err
		}
		if err != nil && !errors.Is(err, errFound) {
			fmt.Fprintln(c.Err, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// show1 prints what one round of reading gave, and returns its error.
func show1(c *call, list []reading, err error, js bool) error {
	if js {
		if list == nil {
			list = []reading{}
		}
		return errors.Join(err, json.NewEncoder(c.Out).Encode(list))
	}
	return errors.Join(err, showReadings(c.Out, list))
}

// showReadings prints a table that fits a narrow terminal.
func showReadings(out io.Writer, list []reading) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range list {
		name := strconv.Itoa(r.Address)
		if r.Tag != "" {
			name = r.Tag + "\t" + name
		}
		switch {
		case r.Error != "":
			fmt.Fprintf(w, "%s\t-\t%s\n", name, r.Error)
		case r.wide:
			fmt.Fprintf(w, "%s\t%s\n", name, hexBytes(r.raw))
			for _, v := range r.Values {
				fmt.Fprintf(w, "  %s\t%s\t%s\n", v.Type, v.Order, v.text())
			}
		default:
			fmt.Fprintf(w, "%s\t%s\t%s\n", name, hexBytes(r.raw), strings.TrimSpace(r.Values[0].text()+" "+r.Unit))
		}
	}
	return w.Flush()
}

// addressReader reads count values from UNIT TABLE ADDRESS on.
func (b *bus) addressReader(c *call, words []string, f formFlags, number int) (func(context.Context) ([]reading, error), error) {
	s, err := b.parseSpot(c, words, f.base)
	if err != nil {
		return nil, err
	}
	if number < 1 {
		return nil, c.wrong("--count is %d (1 or more)", number)
	}
	if s.bits() {
		return func(ctx context.Context) ([]reading, error) { return b.readBits(ctx, s, number) }, nil
	}
	forms, size, err := forms(f.Form)
	if err != nil {
		return nil, c.wrong("%w", err)
	}
	if f.Type == all {
		if number != 1 {
			return nil, c.wrong("--type all reads one address, and --count is %d", number)
		}
		return func(ctx context.Context) ([]reading, error) { return b.readAll(ctx, s, forms) }, nil
	}
	return func(ctx context.Context) ([]reading, error) {
		data, err := b.Read(ctx, s.unit, s.table, s.at(), number*size)
		if err != nil {
			return nil, fmt.Errorf("%s %d of unit %d: %w", s.table, s.shown, s.unit, modbus.Explain(err))
		}
		var list []reading
		for i := range number {
			list = append(list, interpret(s.shown+i*size, data[2*i*size:2*(i+1)*size], forms))
		}
		return list, nil
	}, nil
}

// forms are what --type and --order ask for, and how many registers a value has.
func forms(f modbus.Form) ([]modbus.Form, int, error) {
	orders := []string{f.Order}
	if f.Order == all {
		orders = modbus.Orders()
	}
	types := []string{f.Type}
	if f.Type == all {
		types = slices.DeleteFunc(modbus.Types(), func(t string) bool { return t == "string" || t == "bytes" })
	}
	var list []modbus.Form
	size := 0
	for _, t := range types {
		for _, o := range orders {
			form := f
			form.Type, form.Order = t, o
			n, err := form.Registers()
			if err != nil {
				return nil, 0, err
			}
			size = max(size, n)
			if n > 1 || t == "string" || o == "ABCD" || o == "BADC" || len(orders) == 1 { // one register has two orders
				list = append(list, form)
			}
		}
	}
	return list, size, nil
}

// interpret reads registers in each form that takes as many as there are, or
// fewer.
func interpret(address int, data []byte, forms []modbus.Form) reading {
	r := reading{Address: address, Raw: hex.EncodeToString(data), raw: data, wide: len(forms) > 1}
	guess := forms[0].Type != forms[len(forms)-1].Type // what is no value is not what was meant
	for _, f := range forms {
		n, err := f.Registers()
		if err != nil || 2*n > len(data) {
			continue
		}
		text, bad, err := f.Decode(data[:2*n])
		if err != nil || bad != "" && guess {
			continue
		}
		v := readAs{Type: f.Type, Order: f.Order, Bad: bad}
		if bad == "" {
			v.Value = json.RawMessage(text)
		}
		r.Values = append(r.Values, v)
	}
	return r
}

// readAll reads as many registers as the longest type takes, or as the unit
// gives.
func (b *bus) readAll(ctx context.Context, s spot, forms []modbus.Form) ([]reading, error) {
	var first error
	for _, n := range []int{4, 2, 1} {
		if s.at()+n > 65536 {
			continue
		}
		data, err := b.Read(ctx, s.unit, s.table, s.at(), n)
		if err == nil {
			return []reading{interpret(s.shown, data, forms)}, nil
		}
		if first == nil {
			first = err
		}
		if !strings.HasPrefix(modbus.Reason(err), "exception-") {
			break
		}
	}
	return nil, fmt.Errorf("%s %d of unit %d: %w", s.table, s.shown, s.unit, modbus.Explain(first))
}

func (b *bus) readBits(ctx context.Context, s spot, number int) ([]reading, error) {
	data, err := b.Read(ctx, s.unit, s.table, s.at(), number)
	if err != nil {
		return nil, fmt.Errorf("%s %d of unit %d: %w", s.table, s.shown, s.unit, modbus.Explain(err))
	}
	var list []reading
	for i := range number {
		list = append(list, bitReading(s.shown+i, data[i/8]>>(i%8)&1 == 1))
	}
	return list, nil
}

func bitReading(address int, on bool) reading {
	raw := []byte{0}
	if on {
		raw[0] = 1
	}
	return reading{Address: address, Raw: hex.EncodeToString(raw), raw: raw,
		Values: []readAs{{Type: "bool", Value: json.RawMessage(strconv.FormatBool(on))}}}
}

// deviceReader reads tags of a device, all of them without names. Some that
// can't be read end it with exit status 3, all with 1.
func (b *bus) deviceReader(c *call, d *config.Device, names []string) (func(context.Context) ([]reading, error), error) {
	tags, err := b.tags(c, d, names)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]reading, error) {
		var list []reading
		var last error
		failed := 0
		for _, t := range tags {
			r := b.readTag(ctx, d.Unit, t)
			if ctx.Err() != nil {
				return list, nil
			}
			if list = append(list, r); r.err != nil {
				last, failed = r.err, failed+1
			}
		}
		switch failed {
		case 0:
			return list, nil
		case len(tags):
			return nil, fmt.Errorf("nothing of %s (unit %d) can be read: %w", d.Name, d.Unit, modbus.Explain(last))
		}
		return list, errFound
	}, nil
}

// tags are those of a device, in the order of the names.
func (b *bus) tags(c *call, d *config.Device, names []string) ([]config.ResolvedTag, error) {
	resolved := b.source.Resolve(d)
	if len(names) == 0 {
		return resolved, nil
	}
	var list []config.ResolvedTag
	for _, name := range names {
		i := slices.IndexFunc(resolved, func(t config.ResolvedTag) bool { return t.Name == name })
		if i < 0 {
			var there []string
			for _, t := range resolved {
				there = append(there, t.Name)
			}
			return nil, c.wrong("%s has no tag %q (there are: %s)", d.Name, name, strings.Join(there, ", "))
		}
		list = append(list, resolved[i])
	}
	return list, nil
}

// tagForm is how the driver reads a tag.
func tagForm(t config.ResolvedTag) modbus.Form {
	f := modbus.Form{Type: t.Type, Order: t.ByteOrder, Scale: t.Scale, Offset: t.Offset, Length: t.Length,
		Bit: t.Bit, Map: t.Words(), Missing: t.Missing}
	if low, high, ok := t.BitRange(); ok {
		f.Bits = &modbus.BitRange{Low: low, High: high}
	}
	return f
}

func (b *bus) readTag(ctx context.Context, unit int, t config.ResolvedTag) reading {
	s := spot{unit: unit, table: t.Read, shown: t.At, base: t.Base}
	r := reading{Tag: t.Name, Address: t.At, Unit: t.Unit}
	size, form := 1, tagForm(t)
	var data []byte
	var err error
	if !s.bits() {
		if size, err = form.Registers(); err != nil {
			r.Error, r.err = err.Error(), err
			return r
		}
	}
	if data, err = b.Read(ctx, unit, t.Read, s.at(), size); err != nil {
		r.Error, r.err = reason(err), err
		return r
	}
	if s.bits() {
		on := data[0]&1 == 1
		bit := bitReading(t.At, on)
		r.Raw, r.raw, r.Values = bit.Raw, bit.raw, bit.Values
		text, bad := form.DecodeBit(on)
		if r.Values[0].Bad = bad; bad == "" {
			r.Values[0].Value = json.RawMessage(text)
		} else {
			r.Values[0].Value = nil
		}
		return r
	}
	read := interpret(t.At, data, []modbus.Form{form})
	r.Raw, r.raw, r.Values = read.Raw, read.raw, read.Values
	if len(r.Values) > 0 && r.Values[0].Bad == "missing" {
		r.Unit = ""
	}
	return r
}
