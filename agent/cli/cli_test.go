package cli

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sluice/drivers/loopback"
)

// The scripts in testdata run this program as a process, one subject each.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluice": func() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		code := Main(ctx, Process{Args: os.Args[1:], Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv, Reload: reload,
			Build: Build{Version: "1.2.3", Commit: "abc"}})
		stop()
		os.Exit(code)
	}, "mysigner": func() { os.Exit(signWith()) }})
}

func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			ln, err := net.Listen("tcp", "127.0.0.1:0") // taken as long as the script runs
			if err != nil {
				return err
			}
			env.Defer(func() { ln.Close() })
			env.Setenv("TAKEN", ln.Addr().String())
			free, release, err := loopback.Reserve()
			if err != nil {
				return err
			}
			env.Defer(release)
			env.Setenv("FREE", free)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor, "waitline": waitLine, "send": send, "status": exitStatus, "subst": subst, "sparse": sparse, "backlog": backlog, "newer": newer,
			"kafka": startKafka, "produce": produce, "consume": consume, "envfile": envFile, "sshagent": startAgent,
		},
	})
}
