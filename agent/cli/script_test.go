package cli

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// waitFor is "waitfor URL TEXT": until the answer holds the text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor URL TEXT")
	}
	var body []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(args[0])
		if err != nil {
			continue
		}
		body, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		if bytes.Contains(body, []byte(args[1])) {
			return
		}
	}
	ts.Fatalf("%s never said %q; last: %s", args[0], args[1], body)
}

// waitLine is "waitline FILE PATTERN": until the file has what fits it.
func waitLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitline FILE PATTERN")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	var text []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		text, _ = os.ReadFile(ts.MkAbs(args[0])) // not there yet is not yet
		if pattern.Match(text) {
			return
		}
	}
	ts.Fatalf("%s never had %q; it has:\n%s", args[0], args[1], text)
}

// send is "send SIGNAL": to the background process of the script.
func send(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "INT": syscall.SIGINT}
	if neg || len(args) != 1 || signals[args[0]] == nil || len(ts.BackgroundCmds()) != 1 {
		ts.Fatalf("usage: send TERM|HUP|INT, with one process in the background")
	}
	ts.Check(ts.BackgroundCmds()[0].Process.Signal(signals[args[0]]))
}

// exitStatus is "status N COMMAND…": the command ends with this status, and its
// standard error is one line (unless N is 0 or the command is check).
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
	if text := strings.TrimSpace(ts.ReadFile("stderr")); want != 0 && args[2] != "check" && strings.Count(text, "\n") > 0 {
		ts.Fatalf("more than one line of error:\n%s", text)
	}
}

// subst is "subst FILE": $FREE, $TAKEN and $KAFKA in it become the addresses,
// $KEY1 to $KEY3 what envfile has put there.
func subst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: subst FILE")
	}
	var pairs []string
	for _, name := range []string{"FREE", "TAKEN", "KAFKA", "KEY1", "KEY2", "KEY3"} {
		pairs = append(pairs, "$"+name, ts.Getenv(name))
	}
	text := strings.NewReplacer(pairs...).Replace(ts.ReadFile(args[0]))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// sparse is "sparse FILE BYTES": a file of zeros that takes no space.
func sparse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sparse FILE BYTES")
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o600))
	ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
}
