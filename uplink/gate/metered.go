package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	maxWords  = 4 << 10                // bytes of a file or of what a command prints that are looked at
	killGrace = 500 * time.Millisecond // for a command that was killed to let go of its output
)

// Question is what says whether a link is metered. One of File and Command is set.
type Question struct {
	// File holds a word: yes, true, 1 or metered; no, false, 0 or unmetered. An empty
	// file means yes, and one that does not exist no, so that a file may come and go.
	File string

	// Command is a program and its arguments, without a shell. It prints a word as
	// above; in front of it, and of a colon, may stand anything, as in
	// "GENERAL.METERED:no". Without a word exit status 0 means yes and 1 no.
	Command []string

	Every   time.Duration // how often it is asked
	Timeout time.Duration // of the command, which is then killed
}

func (q *Question) String() string {
	if q.File != "" {
		return "file " + q.File
	}
	return "command " + q.Command[0]
}

// ask returns the answer. It blocks for Timeout at most, and a moment.
func (q *Question) ask(ctx context.Context) (metered bool, err error) {
	if q.File != "" {
		metered, err = readFlag(q.File)
	} else {
		metered, err = q.run(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", q, err)
	}
	return metered, nil
}

func readFlag(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, errors.Unwrap(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxWords))
	if err != nil {
		return false, err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return true, nil
	}
	return word(text)
}

// word reads an answer.
func word(text []byte) (bool, error) {
	last := string(bytes.TrimSpace(text))
	last = last[strings.LastIndexByte(last, '\n')+1:]
	answer := strings.ToLower(strings.TrimSpace(last[strings.LastIndexByte(last, ':')+1:]))
	switch answer {
	case "yes", "true", "1", "metered", "guess-yes", "yes (guessed)":
		return true, nil
	case "no", "false", "0", "unmetered", "guess-no", "no (guessed)":
		return false, nil
	}
	return false, fmt.Errorf("says %.40q, neither yes nor no", answer)
}

func (q *Question) run(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.Command[0], q.Command[1:]...)
	var out, errs capped
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, killGrace
	ownGroup(cmd)
	err := cmd.Run()
	said := bytes.TrimSpace(out.text)
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil && err != nil:
		return false, fmt.Errorf("no answer within %s", q.Timeout)
	case err == nil && len(said) == 0:
		return true, nil
	case ended && exit.ExitCode() == 1 && len(said) == 0 && len(bytes.TrimSpace(errs.text)) == 0:
		return false, nil
	case err != nil:
		line, _, _ := bytes.Cut(bytes.TrimSpace(errs.text), []byte("\n"))
		if len(line) > 0 {
			return false, fmt.Errorf("%w: %.200q", err, line)
		}
		return false, err
	}
	return word(said)
}

// capped keeps the end of what is written to it.
type capped struct{ text []byte }

func (c *capped) Write(p []byte) (int, error) {
	c.text = append(c.text, p...)
	if len(c.text) > maxWords {
		c.text = append(c.text[:0], c.text[len(c.text)-maxWords:]...)
	}
	return len(p), nil
}
