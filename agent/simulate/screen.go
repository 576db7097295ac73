package simulate

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// logEvery is the pace of a log; a terminal shows each view.
const logEvery = 2 * time.Second

// screen shows views: in place on a terminal, as lines elsewhere. One goroutine
// uses it.
type screen struct {
	w      io.Writer
	width  func() int // of the terminal; 0: there is none, so lines are printed
	drawn  int        // lines of the table that stand on the terminal
	logged time.Duration
	phase  string
}

// newScreen shows on f. It is live if f is a terminal and nothing in the
// environment asks for plain output (NO_COLOR, CI, TERM=dumb).
func newScreen(f *os.File, env func(string) string) *screen {
	s := &screen{w: f, width: func() int { return 0 }, logged: -logEvery}
	if env("NO_COLOR") != "" || env("CI") != "" || env("TERM") == "dumb" || env("TERM") == "" {
		return s
	}
	s.width = func() int { return terminalWidth(f) }
	return s
}

// terminalWidth returns the columns of the terminal, 0 if f is none.
func terminalWidth(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 { // a terminal that doesn't know its size, as over a serial line
		return 80
	}
	return int(size.Col)
}

// show draws the view, in place of the one before.
func (s *screen) show(v view) {
	width := s.width()
	if width == 0 {
		if v.Elapsed-s.logged >= logEvery || v.Phase != s.phase {
			s.logged, s.phase = v.Elapsed, v.Phase
			fmt.Fprintln(s.w, v.line())
		}
		return
	}
	var b strings.Builder
	if s.drawn == 0 {
		b.WriteString("\x1b[?25l") // hides the cursor
	} else {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn) // back to the first line
	}
	lines := v.table(width, true)
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n") // clears what was longer
	}
	b.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, _ = io.WriteString(s.w, b.String()) // a terminal that is gone has nobody to tell
}

// close leaves the last table standing and gives the cursor back.
func (s *screen) close() {
	if s.drawn > 0 {
		fmt.Fprint(s.w, "\x1b[?25h\n")
		s.drawn = 0
	}
}
