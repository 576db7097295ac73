// Package e2e is the end-to-end rig: it starts a real Apache Kafka, Mosquitto
// and pymodbus server on free ports of the loopback interface, runs the built
// sluice binary between them, cuts the link, kills the agent, and counts in
// Kafka what arrived of what Mosquitto acknowledged.
//
// Everything but this comment is behind the build tag e2e, since it needs what
// install.sh installs and a built binary (bin/sluice, or the one that the
// environment variable SLUICE_BIN names):
//
//	make build && agent/e2e/install.sh && go test -tags e2e -count=1 -v ./agent/e2e/
//
// The rig uses no package of Sluice: it sees the agent as its users do, through
// the config file, signals, exit status, HTTP and the records in Kafka. What
// the agent says of itself is never taken as proof of a delivery.
//
// The parts: process.go (child processes that cannot outlive the test),
// installed.go (where the programs are), kafka.go, mosquitto.go and pymodbus.go
// (the peers), proxy.go (the link that can be cut), agent.go and config.go (the
// agent under test), publisher.go (messages with counted PUBACKs), ledger.go and
// consume.go (what must be in Kafka, and what is).
package e2e
