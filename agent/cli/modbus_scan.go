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
	"time"

	"sluice/drivers/modbus"
)

// modbusScan finds units.
func modbusScan(ctx context.Context, c *call, v modbusVerb) error {
	units := c.flags.String("units", "", "`units` to ask, such as 1-10,17 (default 1-247, over TCP 0 and 255 too)")
	timeout := c.flags.Duration("timeout", 0, "longest wait for an answer (default the source's, or 500ms); behind a gateway more than its own")
	quick := c.flags.Bool("quick", false, "ask each unit once only")
	js := c.flags.Bool("json", false, "print JSON")
	words, err := c.words(v)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return c.wrong("it needs a TARGET, and there are %d words", len(words))
	}
	b, err := c.openBus(words[0], *timeout)
	if err != nil {
		return err
	}
	defer b.Close()
	list, err := parseUnits(*units, b.TCP())
	if err != nil {
		return c.wrong("%w", err)
	}
	p := newProgress(c.Err)
	if p.w != nil {
		fmt.Fprintf(p.w, "asking %s, %v at most; Ctrl-C ends it with what was found\n", count(len(list), "unit"), b.ScanTime(len(list), *quick).Round(time.Second))
	}
	scan := modbus.Scan{Units: list, Quick: *quick, Progress: p.units}
	if !*js {
		scan.Found = func(f modbus.Found) {
			p.clear()
			showFound(c.Out, f)
		}
	}
	result, err := b.Scan(ctx, scan)
	p.clear()
	if *js {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		err = errors.Join(err, enc.Encode(result))
	} else {
		showRest(c.Out, result)
	}
	return scanned(result, len(list), b.TCP(), err)
}

// units shows how far a scan is.
func (p *progress) units(unit, asked, of, found int) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.w, "\r\x1b[K%d of %d, unit %d, %d found", asked, of, unit, found)
}

// scanned is the error that a scan ends with.
func scanned(r modbus.ScanResult, of int, tcp bool, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped after %d of %s; found so far: %d", r.Asked, count(of, "unit"), len(r.Units))
	case err != nil:
		return modbus.Explain(err)
	case len(r.Units) > 0:
		return nil
	case tcp:
		return errors.New("no unit answers: check the unit numbers, and allow more time with --timeout (behind a gateway more than its own)")
	}
	return errors.New("no unit answers: check A and B, the speed and the parity, and allow more time with --timeout")
}

// showFound prints a unit, one thing a line, for a narrow terminal.
func showFound(w io.Writer, f modbus.Found) {
	fmt.Fprintf(w, "unit %d\n", f.Unit)
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %-9s %s\n", name, text)
		}
	}
	line("vendor", f.Vendor)
	line("product", join(f.Product, f.Name, f.Model))
	line("revision", f.Revision)
	line("app", f.App)
	line("url", f.URL)
	if id, err := hex.DecodeString(f.ServerID); err == nil && len(id) > 0 {
		line("server id", hexBytes(id)+"  "+modbus.Printable(id))
	}
	results := map[string][]string{}
	for _, table := range modbus.Tables() {
		if r := f.Functions[table]; r != "" {
			results[r] = append(results[r], table)
		}
	}
	line("reads", strings.Join(results["ok"], ", "))
	for _, table := range modbus.Tables() {
		if r := f.Functions[table]; r != "ok" && len(results[r]) > 0 {
			line(r, strings.Join(results[r], ", "))
			delete(results, r)
		}
	}
	line("wrong", f.Wrong)
}

// showRest prints what was found and not yet shown, and what there is to say.
func showRest(w io.Writer, r modbus.ScanResult) {
	for _, f := range r.Units {
		if len(f.Functions) == 0 {
			showFound(w, f)
			fmt.Fprintln(w, "  answers; not looked into")
		}
	}
	if r.Same {
		fmt.Fprintf(w, "%d units in a row answer: the device ignores the number;\nuse 1 or 255\n", r.Asked)
	}
	if r.Failing > 0 {
		fmt.Fprintf(w, "left out: %d units that answer exception 4\nwhatever they are asked\n", r.Failing)
	}
}

// join puts texts side by side, each once.
func join(texts ...string) string {
	var out []string
	for _, t := range texts {
		if t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return strings.Join(out, ", ")
}

// hexBytes is "01 ff".
func hexBytes(b []byte) string { return fmt.Sprintf("% x", b) }

// parseUnits reads a list such as 1-10,17. Without one it is what a bus can
// have; over TCP 255 and 0 come early, since many devices want one of them.
func parseUnits(text string, tcp bool) ([]int, error) {
	if text == "" {
		list := []int{1}
		if tcp {
			list = append(list, 255, 0)
		}
		for unit := 2; unit <= 247; unit++ {
			list = append(list, unit)
		}
		return list, nil
	}
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		low, high, span := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.Atoi(low)
		last := first
		if span && err == nil {
			last, err = strconv.Atoi(high)
		}
		if err != nil || first < 0 || last > 255 || last < first {
			return nil, fmt.Errorf("--units has %q (0 to 255, such as 1-10,17)", part)
		}
		for unit := first; unit <= last; unit++ {
			if !slices.Contains(list, unit) {
				list = append(list, unit)
			}
		}
	}
	return list, nil
}
