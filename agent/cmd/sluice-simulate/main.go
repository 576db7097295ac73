// Command sluice-simulate makes a plant on loopback for trying out Sluice, and
// runs the agent's demonstration on it. See package simulate.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sluice/agent/simulate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(simulate.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
