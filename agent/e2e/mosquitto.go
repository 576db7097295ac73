//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// mosquitto is an Eclipse Mosquitto broker that keeps everything for a client
// that is away: without max_queued_messages 0 it drops QoS 1 messages silently.
type mosquitto struct {
	proc *process
	port int
}

func startMosquitto(t testing.TB, dir string) *mosquitto {
	t.Helper()
	m := &mosquitto{port: freePort(t)}
	conf := filepath.Join(dir, "mosquitto.conf")
	writeFile(t, conf, m.config(dir))
	m.proc = startProcess(t, command{name: "mosquitto", dir: dir, args: []string{mosquittoPath(t), "-c", conf}})
	waitFor(t, "mosquitto", func() bool { return accepts(loopback(m.port)) }, m.proc)
	return m
}

func (m *mosquitto) config(dir string) string {
	conf := fmt.Sprintf("listener %d 127.0.0.1\n", m.port) +
		"allow_anonymous true\n" +
		"max_queued_messages 0\n" +
		"max_inflight_messages 1000\n" +
		"persistence true\n" +
		"persistence_location " + dir + "/\n"
	if os.Geteuid() == 0 {
		// Started by root it changes to another user, and the kernel forgets the
		// signal that ends it together with the test.
		conf += "user root\n"
	}
	return conf
}

func (m *mosquitto) url() string { return "tcp://" + loopback(m.port) }
