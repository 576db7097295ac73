package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// verb is one way to write a word after a command, for the help; one word may have several.
type verb struct{ name, args, does string }

// verbsOf are those of a command; none: it has no words of its own.
func verbsOf(command string) (out []verb) {
	switch command {
	case "buffer":
		return []verb{
			{"stat", "[--data-dir DIR] [--json]", "show classes, segments and how far each uplink is"},
			{"verify", "[--data-dir DIR] [--json]", "read everything; exit 3 where damage is found"},
			{"export", "[--data-dir DIR] [--class C] [--rejected]", "print events as JSON lines; --rejected: those that brokers refused, also while the agent runs"},
			{"repair", "[--data-dir DIR] [--dry-run] [--json]", "save what can be read of damaged files; --dry-run changes nothing and exits 3 where something is to be done"},
			{"compact", "[--data-dir DIR] [--json]", "give back space inside of files"},
		}
	case "config":
		return []verb{
			{"schema", "", "print the JSON Schema of the config file"},
			{"keygen", "FILE", "make a key: FILE is the private half, FILE.pub the entry for remote.trust"},
			{"sign", "FILE --key K [-o OUT]", "sign a document, or add a signature to a signed one; with --target and --version a plain config file becomes a document"},
			{"verify", "FILE", "say whether agents would take a document; exit 3 when not"},
			{"push", "FILE [--create]", "publish a signed document, nothing that agents would refuse; --create makes the topics"},
			{"status", "[--json]", "show the desired and the running version of each agent"},
			{"diff", "FILE", "compare a document with the one in the topic; exit 3 where they differ"},
		}
	case "fleet":
		return []verb{
			{"", "[AGENT…] [--watch] [--label K=V] [--state S] [--json]", "a table of all agents, by what they last reported"},
			{"rollout", "FILE --target T --key K [--steps 1,10,50,100]", "bring a config to more and more agents; stop by itself, with exit 3, when it does them no good"},
			{"command", "TARGET KIND [KEY=VALUE…] --key K", "sign a command, publish it, show the answers; exit 3 when an agent did not do it. TARGET: agent:ID, label:NAME=VALUE or all; KIND: replay, log-level, diagnostics, modbus-write, restart"},
			{"diagnostics", "AGENT --key K | AGENT --last", "have an agent send status, config, log and metrics, and unpack them into a folder"},
		}
	case "update":
		return []verb{
			{"command", "FILE --version V --url URL", "print the command for a bundle that lies on an HTTP server; sign and push it"},
			{"put", "FILE --version V [--topic T]", "put a bundle into a topic in chunks, and print the command for it; sign and push it"},
		}
	case "modbus":
		for _, v := range modbusVerbs() {
			out = append(out, verb{v.name, v.args, v.does})
		}
	}
	return out
}

// help prints how a command is called, or the verb that stands in rest; the flags follow.
func help(w io.Writer, cmd command, rest []string) {
	verbs := verbsOf(cmd.name)
	one := slices.DeleteFunc(slices.Clone(verbs), func(v verb) bool { return len(rest) == 0 || v.name != rest[0] })
	switch {
	case len(one) > 0:
		verbs = one
	case len(verbs) == 0:
		verbs = []verb{{"", cmd.args, cmd.does}}
	default:
		fmt.Fprintf(w, "%s\nsluice %s VERB -h shows the flags of each.\n\n", cmd.does, cmd.name)
	}
	for _, v := range verbs {
		fmt.Fprintf(w, "%s\n    %s\n\n", strings.Join(strings.Fields("sluice "+cmd.name+" "+v.name+" "+v.args), " "), v.does)
	}
	fmt.Fprint(w, "exit status: 0 done, 1 failed at run time, 2 wrong usage or invalid config, 3 a check found something\n\nflags:\n")
}

// usage lists the commands.
func usage(w io.Writer) {
	fmt.Fprint(w, "Sluice reads MQTT and Modbus at the edge, buffers durably, and forwards to Kafka.\n\nusage: sluice COMMAND [flags]\n\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-13s %s\n", cmd.name, cmd.does)
	}
	fmt.Fprint(w, "\n-c FILE names the config (default /etc/sluice/sluice.yaml, or SLUICE_CONFIG).\n-h after a command, and after its verb, shows what it does and its flags. Exit status: 0 done, 1 failed at run time,\n2 wrong usage or invalid config, 3 a check found something.\n")
}
