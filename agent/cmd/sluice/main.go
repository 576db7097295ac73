// Command sluice is the edge streaming agent. See "sluice -h".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sluice/agent/cli"
)

// Set by the linker: -X main.version=… -X main.commit=…
var version, commit = "dev", ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	code := cli.Main(ctx, cli.Process{
		Args: os.Args[1:], Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv, Reload: reload,
		Build: cli.Build{Version: version, Commit: commit},
	})
	stop()
	os.Exit(code)
}
