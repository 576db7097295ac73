package cli

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"sluice/agent/web"
)

// notifier tells systemd how the agent is (sd_notify(3)); without systemd it
// does nothing.
type notifier struct {
	conn     net.Conn
	watchdog time.Duration
}

func newNotifier(env func(string) (string, bool)) *notifier {
	n := &notifier{}
	path, ok := env("NOTIFY_SOCKET")
	if !ok || path == "" {
		return n
	}
	if strings.HasPrefix(path, "@") { // a socket in the abstract name space
		path = "\x00" + path[1:]
	}
	if conn, err := net.Dial("unixgram", path); err == nil {
		n.conn = conn
	}
	if v, ok := env("WATCHDOG_USEC"); ok {
		if us, err := strconv.ParseInt(v, 10, 64); err == nil && us > 0 {
			n.watchdog = time.Duration(us) * time.Microsecond
		}
	}
	return n
}

// Every implements agent.Notifier: how often to say that all is well is three
// times in a watchdog period, 10 s at most.
func (n *notifier) Every() time.Duration {
	if n.watchdog > 0 {
		return max(100*time.Millisecond, min(n.watchdog/3, 10*time.Second))
	}
	return 10 * time.Second
}

// Ready implements agent.Notifier.
func (n *notifier) Ready() { n.say("READY=1\nSTATUS=running") }

// Reloading implements agent.Notifier.
func (n *notifier) Reloading() { n.say("RELOADING=1\nSTATUS=reloading") }

// Stopping implements agent.Notifier.
func (n *notifier) Stopping() { n.say("STOPPING=1") }

// Alive implements agent.Notifier.
func (n *notifier) Alive(st web.Status) { n.say("WATCHDOG=1\nSTATUS=" + summary(st)) }

func (n *notifier) say(text string) {
	if n.conn != nil {
		_, _ = n.conn.Write([]byte(text)) // systemd is not there to be told of its own absence
	}
}

func (n *notifier) close() {
	if n.conn != nil {
		_ = n.conn.Close()
	}
}

// summary is one line on how the agent is.
func summary(st web.Status) string {
	if len(st.Reasons) > 0 {
		return strings.Join(st.Reasons, "; ")
	}
	var waiting uint64
	for _, c := range st.Classes {
		waiting += c.Events
	}
	return fmt.Sprintf("%d sources and %d uplinks up, %d events waiting", len(st.Sources), len(st.Uplinks), waiting)
}
