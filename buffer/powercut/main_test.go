//go:build torture

// Package powercut cuts the power of the buffer in thought: it records the
// system calls of a process that uses the real buffer, models what a disk may
// hold at each instant if the power went away then, builds many of those disks
// and has the real buffer open and read them. What was acknowledged before the
// cut must be there or be accounted for.
//
//	main_test.go      the roles of this binary      cut_test.go      what may have survived a cut
//	scenario_test.go  what is recorded              image_test.go    one disk as files
//	script_test.go    how a scenario proceeds       worker_test.go   opens a disk and reads it
//	child_test.go     the recorded process          pool_test.go     worker processes
//	record_test.go    runs it under strace          ledger_test.go   what was promised when
//	trace_test.go     reads what strace wrote       judge_test.go    holds what was read against it
//	disk_test.go      durable and pending parts     explore_test.go  goes through a recording
//	calls_test.go     what calls do to the disk     powercut_test.go the tests
//	fault_test.go     failing calls, and kills      control_test.go  models that must fail
//	saved_test.go     failing states, kept          model_test.go    tests of the model itself
//
// Run it with
//
//	go test -tags torture -count=1 -v -timeout 40m ./buffer/powercut/
//
// strace must be installed. SLUICE_POWERCUT_STATES sets about how many states
// are looked at, SLUICE_POWERCUT_SEED repeats a choice of states (the recordings
// differ from run to run), SLUICE_POWERCUT_SAVE names the folder for failing
// states, and SLUICE_POWERCUT_REPLAY the folder of one that is to be judged
// again.
package powercut

import (
	"fmt"
	"os"
	"testing"
)

// The roles of this binary, besides that of a test.
const (
	envRole   = "SLUICE_POWERCUT_ROLE"
	roleChild = "child"
	roleCheck = "worker"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(envRole) {
	case roleChild:
		err = runChild()
	case roleCheck:
		err = runWorker(os.Stdin, os.Stdout)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
