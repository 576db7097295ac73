//go:build e2e

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// serialReadings polls pymodbus over a serial line; scheme is rtu or ascii.
func serialReadings(t *testing.T, k *kafka, scheme string) {
	dir := t.TempDir()
	line := startCable(t, dir)
	serverComesBack(t, k, bench{dir: dir, connection: scheme + "://" + line.near, start: func(r registers) *process {
		return startPymodbusAt(t, dir, scheme+":"+line.far, 0, r)
	}})
}

// rtuOverTCP polls a server that speaks RTU over TCP, as a gateway passes it on.
func rtuOverTCP(t *testing.T, k *kafka) {
	dir, port := t.TempDir(), freePort(t)
	serverComesBack(t, k, bench{dir: dir, connection: "rtu+tcp://" + loopback(port), start: func(r registers) *process {
		return startPymodbusAt(t, dir, fmt.Sprintf("rtu+tcp:%d", port), port, r)
	}})
}

// modbusOverTLS polls a server of Modbus/TCP Security that wants a client
// certificate.
func modbusOverTLS(t *testing.T, k *kafka) {
	dir, port := t.TempDir(), freePort(t)
	makeCertificates(t, dir)
	tls := fmt.Sprintf("      tls: { ca: %[1]s/ca.pem, cert: %[1]s/client.pem, key: %[1]s/client.key }", dir)
	serverComesBack(t, k, bench{dir: dir, connection: "tcp+tls://" + loopback(port), more: tls, start: func(r registers) *process {
		return startPymodbusAt(t, dir, fmt.Sprintf("tls:%d:%s", port, dir), port, r)
	}})
}

// libmodbusReadings polls a server of libmodbus over a serial line. It is one
// unit, so that the other one stays silent: all of unit 3 is right all the same.
func libmodbusReadings(t *testing.T, k *kafka) {
	dir := t.TempDir()
	line := startCable(t, dir)
	server := filepath.Join(dir, "libmodbus_server")
	build := startProcess(t, command{name: "gcc", dir: dir, args: []string{"gcc", "-Wall", "-Werror", "-o", server, "testdata/libmodbus_server.c", "-lmodbus"}})
	if status, ok := build.waitExit(patience); !ok || status != 0 {
		t.Fatalf("gcc: %s: run agent/e2e/install.sh first", build.tail(20))
	}
	serverComesBack(t, k, bench{dir: dir, connection: "rtu://" + line.near, alone: true, start: func(r registers) *process {
		return startProcess(t, command{name: "libmodbus", dir: dir, args: append([]string{server, line.far}, r.words()...)})
	}})
}

// portComesBack pulls the adapter out while its devices are polled, and plugs it
// in again: the ports are others then, behind the same link.
func portComesBack(t *testing.T, k *kafka) {
	dir := t.TempDir()
	line := startCable(t, dir)
	cut := false
	serverComesBack(t, k, bench{dir: dir, connection: "rtu://" + line.near, start: func(r registers) *process {
		if cut {
			line.plug(t)
		}
		return startPymodbusAt(t, dir, "rtu:"+line.far, 0, r)
	}, cut: func() {
		cut = true
		line.unplug()
	}})
}

// deadUnitOnALine polls five units on one line, of which one is dead. What the
// others lose is counted in polls: of their slots at least 95 % must have been
// served.
func deadUnitOnALine(t *testing.T, k *kafka) {
	const slots = 60 // of each unit, one a second
	dir := t.TempDir()
	line := startCable(t, dir)
	startPymodbusAt(t, dir, "rtu:"+line.far, 0, registers{})
	k.createTopic(t, "dead-unit."+className)
	a := newAgent(t, dir, func(dataDir, http string) string {
		text := strings.Join([]string{
			"version: 1",
			fmt.Sprintf("agent: { id: %s, data_dir: %q }", agentID, dataDir),
			"sources:",
			"  " + busName + ":",
			"    modbus:",
			fmt.Sprintf("      connection: %q", "rtu://"+line.near),
			"      timeout: 400ms", // the dead unit takes two of them, which is less than the interval
			"      retries: 0",
			"      breaker: { open_after: 2, retry: 2s, max: 1m }",
			"      profiles: { probe: { tags: { t: { read: input, at: 0, type: int16, scale: 0.1, offset: -40 } } } }",
			"      devices:",
			"",
		}, "\n")
		for unit := 11; unit <= 15; unit++ {
			text += fmt.Sprintf("        probe-%d: { unit: %d, profile: probe, every: 1s }\n", unit, unit)
		}
		return text + fmt.Sprintf("uplinks: { central: { kafka: { brokers: [ %q ], topic: \"dead-unit.{class}\" } } }\nobserve: { http: %q }\n", k.link.addr, http)
	})
	a.startReady(t)
	var polls map[string]map[string]int
	waitFor(t, "the units' polls", func() bool {
		polls = a.polls(t)
		for _, unit := range []string{"probe-11", "probe-12", "probe-14", "probe-15"} {
			if polls[unit]["ok"]+polls[unit]["missed"] < slots {
				return false
			}
		}
		return true
	}, a.proc)
	for unit := 11; unit <= 15; unit++ {
		got := polls[fmt.Sprintf("probe-%d", unit)]
		all := 0
		for _, n := range got {
			all += n
		}
		if unit == 13 {
			if got["ok"] > 0 || got["timeout"] < 2 || got["breaker-open"] == 0 {
				t.Errorf("the dead unit: %v", got)
			}
		} else if got["ok"]*100 < 95*all {
			t.Errorf("probe-%d: %v, want 95 %% ok", unit, got)
		}
		fmt.Printf("E2E dead-unit probe-%d ok=%d of %d\n", unit, got["ok"], all)
	}
	a.terminate(t)
}

// polls returns the polls of each device by result, from the agent's metrics.
func (a *agent) polls(t testing.TB) map[string]map[string]int {
	t.Helper()
	resp, err := http.Get("http://" + a.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	polls := map[string]map[string]int{}
	form := regexp.MustCompile(`^sluice_modbus_polls_total\{.*device="([^"]*)".*result="([^"]*)".*\} (\d+)$`)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if m := form.FindStringSubmatch(lines.Text()); m != nil {
			if polls[m[1]] == nil {
				polls[m[1]] = map[string]int{}
			}
			polls[m[1]][m[2]], _ = strconv.Atoi(m[3])
		}
	}
	return polls
}

// makeCertificates writes an authority and the certificates of a server on the
// loopback interface and of a client.
func makeCertificates(t testing.TB, dir string) {
	t.Helper()
	var authority *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: i == 0, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if i == 0 {
			authority, signer, cert.KeyUsage = cert, key, x509.KeyUsageCertSign
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, authority, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		writeFile(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	}
}
