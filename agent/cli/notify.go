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

// every is how often to say that all is well: three times in a watchdog period,
// 10 s at most.
func (n *notifier) every() time.Duration {
	if n.watchdog > 0 {
		return max(100*time.Millisecond, min(n.watchdog/3, 10*time.Second))
	}
	return 10 * time.Second
}

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
