package simulate

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// view is what is shown at one moment of the demonstration.
type view struct {
	Title   string        // what the demonstration consists of
	Elapsed time.Duration // since its start
	Phase   string        // what happens now
	Cut     bool          // the link to Kafka is cut
	Heals   time.Duration // until it heals, if it is cut

	Sources []sourceRow
	Uplink  uplinkRow
	Classes []classRow
	Stored  int64 // records that Kafka holds, counted there
}

// sourceRow is one source of the agent and the part of the plant behind it.
type sourceRow struct {
	Name  string
	Up    bool
	Sent  uint64 // by the plant, confirmed
	Taken uint64 // by the agent, says the agent
	Rate  float64
}

// classRow is one class of the agent's buffer.
type classRow struct {
	Name    string
	Backlog uint64 // events not delivered
	Bytes   uint64
	Oldest  float64 // seconds
	Full    uint64  // the backlog at which the bar is full
}

// uplinkRow is the agent's uplink.
type uplinkRow struct {
	Name      string
	Up        bool
	Delivered uint64 // says the agent
	Rate      float64
	Error     string // empty while it is up
}

// backlog is that of all classes.
func (v view) backlog() uint64 {
	var n uint64
	for _, c := range v.Classes {
		n += c.Backlog
	}
	return n
}

func (v view) sent() (n uint64, rate float64) {
	for _, s := range v.Sources {
		n += s.Sent
		rate += s.Rate
	}
	return n, rate
}

// line renders the view as one line for a log.
func (v view) line() string {
	sent, rate := v.sent()
	link := "link up"
	if v.Cut {
		link = "LINK CUT"
	}
	return fmt.Sprintf("%4.0fs  %-8s  plant sent %d (%.0f/s)  backlog %d  uplink %s %.0f/s  Kafka holds %d  | %s",
		v.Elapsed.Seconds(), link, sent, rate, v.backlog(), upDown(v.Uplink.Up), v.Uplink.Rate, v.Stored, v.Phase)
}

// barWidth is the length of a full bar, in characters.
const barWidth = 24

// table renders the view as lines of at most width characters. With color, up
// and down are told apart by color too (ECMA-48 SGR).
func (v view) table(width int, color bool) []string {
	paint := painter(color)
	lines := []string{
		paint(bold, v.Title) + fmt.Sprintf("  %.0f s", v.Elapsed.Seconds()),
		v.Phase,
		"",
		paint(dim, fmt.Sprintf("%-22s %-6s %10s %10s %9s", "source", "link", "sent", "taken", "rate")),
	}
	for _, s := range v.Sources {
		lines = append(lines, fmt.Sprintf("%-22s %s %10s %10s %7.0f/s",
			s.Name, state(paint, s.Up), thousands(s.Sent), thousands(s.Taken), s.Rate))
	}
	lines = append(lines, "", paint(dim, fmt.Sprintf("%-22s %-*s %10s %10s %9s", "buffer", barWidth+2, "", "backlog", "bytes", "oldest")))
	for _, c := range v.Classes {
		lines = append(lines, fmt.Sprintf("%-22s [%s] %10s %10s %7.1f s",
			c.Name, bar(c.Backlog, c.Full), thousands(c.Backlog), kibibytes(c.Bytes), c.Oldest))
	}
	lines = append(lines, "",
		paint(dim, fmt.Sprintf("%-22s %-6s %10s %10s %9s", "uplink", "link", "delivered", "in Kafka", "rate")),
		fmt.Sprintf("%-22s %s %10s %10s %7.0f/s", v.Uplink.Name, state(paint, v.Uplink.Up),
			thousands(v.Uplink.Delivered), thousands(uint64(v.Stored)), v.Uplink.Rate),
		v.linkLine(paint))
	for i := range lines {
		lines[i] = clip(lines[i], width)
	}
	return lines
}

// linkLine draws the way to Kafka.
func (v view) linkLine(paint func(style, string) string) string {
	if v.Cut {
		cut := paint(red, fmt.Sprintf(" X cut, heals in %.0f s X ", math.Ceil(v.Heals.Seconds())))
		return strings.TrimRight("agent ------"+cut+"------ Kafka   "+v.Uplink.Error, " ")
	}
	return strings.TrimRight("agent "+paint(green, "=============================>")+" Kafka   "+v.Uplink.Error, " ")
}

// bar draws n of full. Whatever is there shows as one mark at least.
func bar(n, full uint64) string {
	marks := 0
	if n > 0 {
		marks = int(min(barWidth, max(1, float64(n)/float64(max(full, 1))*barWidth)))
	}
	return strings.Repeat("#", marks) + strings.Repeat(".", barWidth-marks)
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// state is upDown in a column of 6.
func state(paint func(style, string) string, up bool) string {
	s := red
	if up {
		s = green
	}
	return paint(s, fmt.Sprintf("%-6s", upDown(up)))
}

// thousands groups the digits of n by threes.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

func kibibytes(n uint64) string { return thousands((n+1023)/1024) + " KiB" }

// style is a set of SGR parameters.
type style string

const (
	bold  style = "1"
	dim   style = "2"
	red   style = "1;31"
	green style = "32"
)

func painter(color bool) func(style, string) string {
	return func(s style, text string) string {
		if !color || text == "" {
			return text
		}
		return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
	}
}

// clip cuts a line to width characters, not counting the painting, so that the
// terminal never wraps it. Control characters from outside are replaced.
func clip(line string, width int) string {
	var b strings.Builder
	for used := 0; line != ""; {
		if strings.HasPrefix(line, "\x1b[") {
			if end := strings.IndexByte(line, 'm'); end >= 0 {
				b.WriteString(line[:end+1])
				line = line[end+1:]
				continue
			}
		}
		r, size := utf8.DecodeRuneInString(line)
		line = line[size:]
		if used++; used > width {
			continue // what follows may still switch the color off
		}
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}
